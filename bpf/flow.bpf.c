// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The life of a flow: remembered when it opens, owned when it is established, reported when it closes. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "flowtag.h"
#include "kernel.h"
#include "maps.h"
#include "address.h"
#include "claim.h"
#include "translator.h"
#include "owner.h"
#include "cgroup.h"
#include "event.h"
#include "listener.h"

/*
 * While one version takes over from another both programs see an event, one right after the other:
 * an opening this soon after an opening, with nothing between them, is the same one. An interrupt or
 * another guest of the machine may take the CPU away in between.
 */
#define TWIN_NS 10000000

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline struct ft_flow *storage(const struct sock *sk, __u64 flags)
{
	return bpf_sk_storage_get(&ft_flow, (void *)sk, NULL, flags);
}

/* A flow that begins: a connect(), an accepted socket, or a socket that was open before us. */
static __always_inline struct ft_flow *begin(const struct sock *sk, __u8 role, __u8 flags)
{
	struct ft_flow *flow = storage(sk, BPF_SK_STORAGE_GET_F_CREATE);

	if (!flow) {
		count(FT_COUNT_LOST_STORAGE);
		return NULL;
	}
	if (!flow->time_open) /* else its twin was here */
		count(FT_COUNT_OPENED);
	flow->time_open = bpf_ktime_get_boot_ns();
	flow->role = role;
	flow->flags = flags;
	flow->connect_us = FT_UNKNOWN32;
	return flow;
}

/* The same socket again, after connect(AF_UNSPEC) or a connect that failed: a new generation. */
static __always_inline void renew(struct ft_flow *flow)
{
	if (!flow->closed)
		count(FT_COUNT_LOST_CLOSE);
	count(FT_COUNT_OPENED);
	flow->generation++;
	flow->owner = FT_OWNER_NONE;
	flow->rule = FT_RULE_NONE;
	flow->reason = FT_REASON_NONE;
	flow->flags = 0;
	flow->pid = 0;
	flow->connect_us = FT_UNKNOWN32;
	__builtin_memset(flow->comm, 0, sizeof(flow->comm));
	flow->closed = 0;
}

/* Only here is the current task the socket's own: later transitions run in whatever was interrupted. */
static __always_inline void connecting(const struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct ft_flow *flow = storage(sk, 0);
	__u64 now = bpf_ktime_get_boot_ns();

	if (flow && !flow->closed && !(flow->flags & FT_FLOW_RESOLVED) &&
	    now - flow->time_open < TWIN_NS)
		return;
	if (flow) {
		renew(flow);
		flow->time_open = now;
		flow->role = FT_ROLE_CLIENT;
	} else {
		flow = begin(sk, FT_ROLE_CLIENT, 0);
		if (!flow)
			return;
	}
	if (!(task->flags & PF_KTHREAD)) {
		flow->pid = task->tgid;
		bpf_get_current_comm(flow->comm, sizeof(flow->comm));
	}
}

/* Accepted from a listener that was made for somebody else: the mark is cloned with the socket. */
static __always_inline bool for_others(const struct sock *sk)
{
	return bpf_sk_storage_get(&ft_listener, (void *)sk, NULL, 0);
}

static __always_inline void accepting(const struct sock *sk)
{
	begin(sk, FT_ROLE_SERVER, for_others(sk) ? FT_FLOW_ACTIVATED : 0);
}

static __always_inline void own(const struct sock *sk, struct ft_flow *flow, __u8 when)
{
	struct verdict v = {};

	resolve(&v, sk, flow);
	if (!v.owner && (flow->flags & FT_FLOW_RESOLVED))
		return; /* no better than before: the first reason stands */
	flow->owner = v.owner;
	flow->rule = v.rule;
	flow->reason = v.reason;
	flow->flags |= FT_FLOW_RESOLVED | when;
}

static __always_inline void established(const struct sock *sk, struct ft_flow *flow, int newstate)
{
	if (newstate == TCP_ESTABLISHED && flow->role == FT_ROLE_CLIENT &&
	    !(flow->flags & FT_FLOW_ADOPTED))
		flow->connect_us = (bpf_ktime_get_boot_ns() - flow->time_open) / 1000;
	if (!(flow->flags & FT_FLOW_RESOLVED))
		own(sk, flow, 0);
}

/*
 * Two CPUs may complete one handshake, and the child that loses goes at once; so does one that no
 * queue has room for. Nobody ever had it, unless it carried data in the SYN (Fast Open).
 */
static __always_inline bool unborn(const struct sock *sk, const struct ft_flow *flow)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);

	return flow->role == FT_ROLE_SERVER && tp && !tp->fastopen_rsk;
}

/* The close has two witnesses; the closed bit lets one of them report it. */
static __always_inline void close(const struct sock *sk, struct ft_flow *flow, int oldstate)
{
	if (__sync_fetch_and_or(&flow->closed, 1))
		return;
	if (oldstate == TCP_SYN_RECV && unborn(sk, flow)) {
		count(FT_COUNT_UNBORN);
		return;
	}
	/* A claim that was written late may count; one of two claimants that are left proves nothing. */
	if (!flow->owner && flow->reason != FT_REASON_CONTESTED) {
		own(sk, flow, FT_FLOW_ATTR_AT_CLOSE);
		count(FT_COUNT_LATE);
	}
	report(sk, flow, oldstate);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(flowtag_state, const struct sock *sk, int oldstate, int newstate)
{
	struct ft_flow *flow;

	/* In 16 bits: MPTCP's 262 would be TCP's 6 in 8. Its subflows are TCP sockets and seen here. */
	if (sk->sk_protocol != IPPROTO_TCP || oldstate == newstate)
		return 0;
	if (newstate == TCP_SYN_SENT) {
		connecting(sk);
		return 0;
	}
	if (oldstate == TCP_LISTEN) {
		if (newstate == TCP_SYN_RECV)
			accepting(sk);
		return 0;
	}
	if (newstate == TCP_LISTEN) {
		if (made_for_others(sk))
			mark_listener(sk);
		return 0;
	}
	flow = storage(sk, 0);
	if (!flow) {
		/* Open before us, or its opening fell to the recursion guard. */
		flow = begin(sk, FT_ROLE_UNKNOWN,
			     FT_FLOW_ADOPTED | (for_others(sk) ? FT_FLOW_ACTIVATED : 0));
		if (!flow)
			return 0;
		count(FT_COUNT_MISSED_OPEN);
	}
	if (newstate == TCP_ESTABLISHED || (oldstate == TCP_SYN_RECV && newstate != TCP_CLOSE))
		established(sk, flow, newstate);
	else if (newstate == TCP_CLOSE)
		close(sk, flow, oldstate);
	return 0;
}

/*
 * A tp_btf program that interrupts itself on a CPU is skipped (1 close of 640,000): this one, once a
 * socket, reports what that one missed. The old state is not known here.
 */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(flowtag_destroy, struct sock *sk)
{
	struct ft_flow *flow = storage(sk, 0);

	if (flow && !flow->closed) {
		count(FT_COUNT_RESCUED);
		close(sk, flow, 0);
	}
	return 0;
}

/*
 * Sockets that were there before us, one network namespace at a time: the iterator sees that of its
 * maker only. It holds the socket's lock, so no transition comes in between.
 */
SEC("iter/tcp")
int flowtag_adopt(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp = common ? bpf_skc_to_tcp_sock(common) : NULL;
	struct sock *sk = (struct sock *)tp;
	struct ft_flow *flow;

	if (!tp || sk->sk_protocol != IPPROTO_TCP || sk->__sk_common.skc_state == TCP_CLOSE)
		return 0;
	if (sk->__sk_common.skc_state == TCP_LISTEN) {
		if (kept_for_others(sk))
			mark_listener(sk);
		return 0;
	}
	if (storage(sk, 0))
		return 0;
	flow = begin(sk, FT_ROLE_UNKNOWN,
		     FT_FLOW_ADOPTED | (kept_for_others(sk) ? FT_FLOW_ACTIVATED : 0));
	if (flow)
		own(sk, flow, 0);
	return 0;
}

/*
 * The other side of the ledger: opened = records + lost + those still open. Not iter/bpf_sk_storage_map, which
 * would see every namespace at once: some hardened 6.18 kernels refuse every iterator over map elements (EPERM).
 */
SEC("iter/tcp")
int flowtag_open(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp = common ? bpf_skc_to_tcp_sock(common) : NULL;
	struct ft_flow *flow = tp ? storage((struct sock *)tp, 0) : NULL;

	if (flow && !flow->closed)
		state.open_flows++;
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What happens to a flow: it begins, is established, begins anew on the same socket, closes. */
#ifndef FLOWTAG_LIFE_H
#define FLOWTAG_LIFE_H

/*
 * While one version takes over from another both programs see an event, one right after the other:
 * an opening this soon after an opening, with nothing between them, is the same one. An interrupt or
 * another guest of the machine may take the CPU away in between.
 */
#define TWIN_NS 10000000

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

/*
 * The same socket again, after connect(AF_UNSPEC) or a connect that failed: a new generation. Its state comes
 * last, by xchg: until then no interim record is made.
 */
static __always_inline void renew(struct ft_flow *flow)
{
	__u32 state = __sync_fetch_and_or(&flow->state, FT_LIFE_CLOSED);

	if (!(state & FT_LIFE_CLOSED))
		count(FT_COUNT_LOST_CLOSE);
	count(FT_COUNT_OPENED);
	flow->generation++;
	*reported(flow, state) = (struct ft_traffic){};
	flow->owner = FT_OWNER_NONE;
	flow->rule = FT_RULE_NONE;
	flow->reason = FT_REASON_NONE;
	flow->flags = 0;
	flow->pid = 0;
	flow->connect_us = FT_UNKNOWN32;
	__builtin_memset(flow->comm, 0, sizeof(flow->comm));
	__sync_lock_test_and_set(&flow->state,
				 (state & FT_LIFE_SECOND) | flow->generation * FT_LIFE_GENERATION);
}

/* Only here is the current task the socket's own: later transitions run in whatever was interrupted. */
static __always_inline void connecting(const struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct ft_flow *flow = storage(sk, 0);
	__u64 now = bpf_ktime_get_boot_ns();

	if (flow && !(flow->state & FT_LIFE_CLOSED) && !(flow->flags & FT_FLOW_RESOLVED) &&
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
	if (!(flow->flags & FT_FLOW_RESOLVED)) {
		own(sk, flow, 0);
		__sync_fetch_and_or(&flow->state, FT_LIFE_OWNED);
	}
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
	__u32 state = __sync_fetch_and_or(&flow->state, FT_LIFE_CLOSED);

	if (state & FT_LIFE_CLOSED)
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
	report(sk, flow, state, oldstate);
}

#endif

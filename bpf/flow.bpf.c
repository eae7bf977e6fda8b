// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The life of a flow: remembered when it opens, owned when it is established, reported when it closes. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
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
#include "life.h"
#include "iterate.h"
#include "descriptor.h"
#include "interim.h"
#include "show.h"
#include "ownership.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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

	if (flow && !(flow->state & FT_LIFE_CLOSED)) {
		count(FT_COUNT_RESCUED);
		close(sk, flow, 0);
	}
	return 0;
}

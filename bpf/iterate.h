/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that run over the sockets that are there, one network namespace at a time: iter/tcp sees that of
 * its maker only.
 */
#ifndef FLOWTAG_ITERATE_H
#define FLOWTAG_ITERATE_H

/* Sockets that were there before us. It holds the socket's lock, so no transition comes in between. */
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
	if (flow) {
		own(sk, flow, 0);
		__sync_fetch_and_or(&flow->state, FT_LIFE_OWNED);
	}
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

	if (flow && !(flow->state & FT_LIFE_CLOSED))
		state.open_flows++;
	return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What open flows have carried and no record has told yet, for people to read: nothing is changed by it. */
#ifndef FLOWTAG_SHOW_H
#define FLOWTAG_SHOW_H

/*
 * One struct ft_event for each descriptor of an open flow: a socket that processes share comes more than once.
 * Loaded by its reader, against the pinned maps; the exporter does not load it.
 */
SEC("iter/task_file")
int flowtag_show(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct socket *socket = file ? bpf_sock_from_file(file) : NULL;
	struct sock *sk = socket ? socket->sk : NULL;
	struct ft_traffic now;
	struct ft_event e;
	struct ft_flow *flow;
	struct tcp_sock *tp;
	__u32 life;

	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	flow = storage(sk, 0);
	tp = flow ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (!tp)
		return 0;
	life = __sync_fetch_and_or(&flow->state, 0); /* before all that it speaks for */
	if (life & FT_LIFE_CLOSED)
		return 0;
	measure_unlocked(&now, sk, tp, flow->role, &flow->state);
	fill(&e, FT_EVENT_INTERIM, sk, tp, flow, reported(flow, life), &now);
	/* Closed, told of or begun anew meanwhile: a record says it better. */
	if (__sync_fetch_and_or(&flow->state, 0) == life)
		bpf_seq_write(ctx->meta->seq, &e, sizeof(e));
	return 0;
}

#endif

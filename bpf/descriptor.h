/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a descriptor to the flow of its socket: what programs over all descriptors begin with. */
#ifndef FLOWTAG_DESCRIPTOR_H
#define FLOWTAG_DESCRIPTOR_H

struct open_flow {
	struct sock *sk;
	struct tcp_sock *tp;
	struct ft_flow *flow;
	__u32 life; /* read before all that it speaks for */
};

/* False if it is no TCP socket's, or of one that no flow was seen of. */
static __always_inline bool find_flow(struct open_flow *found, struct file *file)
{
	struct socket *socket = file ? bpf_sock_from_file(file) : NULL;
	struct sock *sk = socket ? socket->sk : NULL;

	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return false;
	found->sk = sk;
	found->flow = storage(sk, 0);
	found->tp = found->flow ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (!found->tp)
		return false;
	found->life = __sync_fetch_and_or(&found->flow->state, 0);
	return true;
}

#endif

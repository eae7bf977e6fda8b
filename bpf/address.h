/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A socket's addresses as the maps and records hold them: 16 bytes, IPv4 as v4-mapped. */
#ifndef FLOWTAG_ADDRESS_H
#define FLOWTAG_ADDRESS_H

static __always_inline void map_ipv4(__u8 *to, __be32 address)
{
	__u32 words[4] = { 0, 0, bpf_htonl(0xffff), address };

	__builtin_memcpy(to, words, sizeof(words));
}

static __always_inline void copy_local_address(__u8 *to, const struct sock *sk)
{
	const struct sock_common *c = &sk->__sk_common;

	if (c->skc_family == AF_INET6)
		__builtin_memcpy(to, &c->skc_v6_rcv_saddr, 16);
	else
		map_ipv4(to, c->skc_rcv_saddr);
}

static __always_inline void copy_peer_address(__u8 *to, const struct sock *sk)
{
	const struct sock_common *c = &sk->__sk_common;

	if (c->skc_family == AF_INET6)
		__builtin_memcpy(to, &c->skc_v6_daddr, 16);
	else
		map_ipv4(to, c->skc_daddr);
}

/* Not skc_num: at CLOSE it is 0 for auto-bound and accepted sockets. */
static __always_inline __u16 local_port(const struct tcp_sock *tp)
{
	return bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
}

#endif

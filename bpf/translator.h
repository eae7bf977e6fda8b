/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sockets that a translator made for somebody else: many workloads behind one address, so only the
 * socket or its (address, port) tells them apart. docs/translation.md.
 */
#ifndef FLOWTAG_TRANSLATOR_H
#define FLOWTAG_TRANSLATOR_H

/* A publication moves from its map to the socket, for as long as the socket lives. */
static __always_inline void keep(struct ft_flow *flow, const struct ft_owner *claim, __u8 rule)
{
	flow->published = claim->workload;
	flow->published_since = claim->since;
	flow->published_rule = rule;
	count(FT_COUNT_CONSUMED);
}

static __always_inline bool take_by_cookie(const struct sock *sk, struct ft_flow *flow)
{
	__u64 cookie = bpf_get_socket_cookie((void *)sk);
	struct ft_owner *claim = bpf_map_lookup_elem(&ft_socket, &cookie);

	if (!claim)
		return false;
	keep(flow, claim, FT_RULE_SOCKET);
	bpf_map_delete_elem(&ft_socket, &cookie);
	return true;
}

static __always_inline struct ft_owner *by_port(const struct sock *sk, __u64 netns, __u16 port,
						struct ft_port_key *key)
{
	struct ft_owner *claim;

	__builtin_memset(key, 0, sizeof(*key));
	copy_local_address(key->address, sk);
	key->netns = netns;
	key->port = port;
	key->protocol = IPPROTO_TCP;
	claim = bpf_map_lookup_elem(&ft_port, key);
	if (!claim) {
		key->netns = 0;
		claim = bpf_map_lookup_elem(&ft_port, key);
	}
	return claim;
}

static __always_inline struct ft_owner *by_block(const struct ft_port_key *port)
{
	struct ft_addr_key key = { .prefix_len = 144 };

	__builtin_memcpy(key.address, port->address, sizeof(key.address));
	key.port[0] = port->port >> 8;
	key.port[1] = port->port & 0xff;
	return bpf_map_lookup_elem(&ft_addr, &key);
}

static __always_inline void translated_owner(struct verdict *v, const struct sock *sk,
					     struct ft_flow *flow, __u64 netns)
{
	struct ft_port_key key;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);
	struct ft_owner *claim;

	if (!tp) {
		refuse(v, FT_REASON_UNPUBLISHED);
		return;
	}
	/* A newer publication replaces the kept one: a translator may use a socket for one after another. */
	if (!take_by_cookie(sk, flow)) {
		claim = by_port(sk, netns, local_port(tp), &key);
		if (claim && claim->flags & FT_OWNER_ONCE) {
			keep(flow, claim, FT_RULE_PORT);
			bpf_map_delete_elem(&ft_port, &key);
		} else if (claim && !flow->published) {
			judge(v, flow, claim, FT_RULE_PORT);
			return;
		}
	}
	if (flow->published) {
		struct ft_owner kept = { .workload = flow->published,
					 .since = flow->published_since };

		judge(v, flow, &kept, flow->published_rule);
		return;
	}
	claim = by_block(&key);
	if (claim && !(claim->flags & FT_OWNER_ADDRESS))
		judge(v, flow, claim, FT_RULE_BLOCK);
	else
		refuse(v, FT_REASON_UNPUBLISHED);
}

#endif

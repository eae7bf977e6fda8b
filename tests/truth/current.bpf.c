// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a simpler method would take for the owner: the cgroup of the task that a close happens to meet. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "../../bpf/kernel.h"
#include "../../bpf/address.h"

struct current_close {
	__u64 time;
	__u64 netns;
	__u64 cgroup_id;
	__u8 local_address[16];
	__u8 peer_address[16];
	__u16 local_port;
	__u16 peer_port;
	__u32 pad;
};

/* Written here, read by the harness. Full: the method misses that flow. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, __u64);
	__type(value, struct current_close);
} current_close SEC(".maps");

__u64 serial = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(current_state, const struct sock *sk, int oldstate, int newstate)
{
	struct tcp_sock *tp;
	struct current_close seen = {};
	__u64 key;

	if (sk->sk_protocol != IPPROTO_TCP || newstate != TCP_CLOSE || oldstate == newstate ||
	    oldstate == TCP_LISTEN)
		return 0;
	tp = bpf_skc_to_tcp_sock((void *)sk);
	if (!tp)
		return 0;
	seen.time = bpf_ktime_get_boot_ns();
	seen.netns = sk->__sk_common.skc_net.net->net_cookie;
	seen.cgroup_id = bpf_get_current_cgroup_id();
	copy_local_address(seen.local_address, sk);
	copy_peer_address(seen.peer_address, sk);
	seen.local_port = local_port(tp);
	seen.peer_port = bpf_ntohs(sk->__sk_common.skc_dport);
	key = __sync_fetch_and_add(&serial, 1);
	bpf_map_update_elem(&current_close, &key, &seen, BPF_ANY);
	return 0;
}

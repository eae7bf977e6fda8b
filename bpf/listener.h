/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Listeners in the host's namespace that process 1 or an engine makes for somebody else (socket
 * activation, published ports). What they accept is nobody's: the creator is not the owner.
 */
#ifndef FLOWTAG_LISTENER_H
#define FLOWTAG_LISTENER_H

static __always_inline bool on_host(const struct sock *sk)
{
	return sk->__sk_common.skc_net.net->net_cookie == config.host_netns;
}

/* At LISTEN, in the context of whoever listens. */
static __always_inline bool made_for_others(const struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	char comm[FT_COMM_LEN] = {};

	if (!on_host(sk))
		return false;
	if (task->tgid == 1)
		return true;
	bpf_get_current_comm(comm, sizeof(comm));
	for (__u32 i = 0; i < FT_ROOT_MAX && i < config.activators; i++) {
		bool same = true;

		for (__u32 j = 0; j < FT_COMM_LEN; j++) {
			if (comm[j] != config.activator[i][j]) {
				same = false;
				break;
			}
			if (!comm[j])
				break;
		}
		if (same)
			return true;
	}
	return false;
}

/* Of a listener from before us only the cgroup of its creator is left to tell. */
static __always_inline bool kept_for_others(const struct sock *sk)
{
	__u64 id = sk->sk_cgrp_data.cgroup->kn->id;

	if (!on_host(sk))
		return false;
	for (__u32 i = 0; i < FT_ROOT_MAX && i < config.activator_cgroups; i++)
		if (config.activator_cgroup[i] == id)
			return true;
	return false;
}

static __always_inline void mark_listener(const struct sock *sk)
{
	if (!bpf_sk_storage_get(&ft_listener, (void *)sk, NULL, BPF_SK_STORAGE_GET_F_CREATE))
		count(FT_COUNT_LOST_STORAGE);
}

#endif

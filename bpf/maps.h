/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The pinned maps. docs/maps.md says the same at length. */
#ifndef FLOWTAG_MAPS_H
#define FLOWTAG_MAPS_H

/* Written by the hook and the exporter; the kernel never reads it, so it may allocate on demand.
 * Full: the identity goes to /run/flowtag/pending and its flows are nobody's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct ft_workload);
} ft_workload SEC(".maps");

/* Written by the hook, the exporter and the kernel (mkdir, rmdir); read at every open.
 * Full: ft_state.gaps counts it and the host's flows are nobody's until a whole walk. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, __u64);
	__type(value, struct ft_owner);
} ft_cgroup SEC(".maps");

/* Written by the hook where a claim did not fit or could not be made, and by the exporter, which closes it;
 * read at opens that would be the host's. One entry, always there. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ft_gap);
} ft_gap SEC(".maps");

/* Written by the hook and the exporter; read at every open outside the host's namespace.
 * Full: the namespace counts as unknown, so its sockets are their cgroup's or nobody's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct ft_netns);
} ft_netns SEC(".maps");

/* Written by translators and the hook; read and consumed at opens in a translator's namespace.
 * Full: the publication fails and its flow is nobody's, `unpublished`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct ft_port_key);
	__type(value, struct ft_owner);
} ft_port SEC(".maps");

/* Written by translators, the hook and the exporter; read at opens in a translator's namespace.
 * Full: the claim is refused and goes to /run/flowtag/pending. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct ft_addr_key);
	__type(value, struct ft_owner);
} ft_addr SEC(".maps");

/* Written by translators; read and consumed at opens in a translator's namespace.
 * Full: the publication fails and its flow is nobody's, `unpublished`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct ft_owner);
} ft_socket SEC(".maps");

/* Written and read by the kernel only; freed with the socket.
 * No memory: the flow is lost and counted. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct ft_flow);
} ft_flow SEC(".maps");

/* Set by the kernel on listeners that process 1 or an engine makes for others; accepted sockets
 * inherit it (BPF_F_CLONE). No memory: counted, and the listener's sockets are the host's. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, __u64);
} ft_listener SEC(".maps");

/* Written by the kernel, read by the exporter through a memory map.
 * Full: the record is lost and counted. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} ft_events SEC(".maps");

/* Written by the kernel, read by the exporter. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FT_COUNT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} ft_count SEC(".maps");

const volatile struct ft_config config = {};
struct ft_state state = {};

/* Atomic although per CPU: a softirq may count between another context's load and store. */
static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&ft_count, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

#endif

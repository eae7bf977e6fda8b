/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ft_cgroup follows the cgroup tree: a new cgroup has its parent's owner, a removed one's claim ends.
 * So nested cgroups cost nothing when a socket opens (a walk of 9 ancestors cost 900 ns, one look-up 16).
 */
#ifndef FLOWTAG_CGROUP_H
#define FLOWTAG_CGROUP_H

static __always_inline bool named_like(const char *name, const volatile struct ft_root *root)
{
	for (__u32 i = 0; i < FT_ROOT_LEN; i++) {
		if (i == root->len)
			return root->prefix || name[i] == 0;
		if (name[i] != root->name[i])
			return false;
	}
	return false;
}

/* An engine's own cgroups (docker, kubepods) or, with the systemd driver, docker-<id>.scope beside services. */
static __noinline bool engine_root(struct cgroup *cgroup)
{
	char name[FT_ROOT_LEN] = {};

	/* -E2BIG is no error here: a longer name is compared by its beginning. */
	bpf_probe_read_kernel_str(name, sizeof(name), cgroup->kn->name);
	for (__u32 i = 0; i < FT_ROOT_MAX; i++) {
		if (i >= config.roots)
			break;
		if ((config.root[i].prefix || cgroup->level == 1) &&
		    named_like(name, &config.root[i]))
			return true;
	}
	return false;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(flowtag_mkdir, struct cgroup *cgroup, const char *path)
{
	__u64 id = cgroup->kn->id, parent_id;
	struct ft_owner owner = {}, *parent;

	if (cgroup->root->hierarchy_id != 0) /* only hierarchy 0 is cgroup v2 */
		return 0;
	parent_id = cgroup->self.parent->cgroup->kn->id;
	parent = bpf_map_lookup_elem(&ft_cgroup, &parent_id);
	/* A container without a cgroup of its own shares this one; what is made below is not its. */
	if (parent && parent->flags & FT_OWNER_NO_CGROUP)
		parent = NULL;
	if (parent) {
		owner.workload = parent->workload;
		owner.flags = parent->flags | FT_OWNER_INHERITED;
		owner.until = parent->until; /* an ended claim does not come back to life */
	} else if (engine_root(cgroup)) {
		owner.workload = FT_OWNER_UNCLAIMED;
	} else {
		return 0;
	}
	owner.since = bpf_ktime_get_boot_ns();
	if (bpf_map_update_elem(&ft_cgroup, &id, &owner, BPF_NOEXIST)) {
		__sync_fetch_and_add(&state.gaps, 1);
		count(FT_COUNT_CGROUP_FULL);
	} else {
		count(owner.workload == FT_OWNER_UNCLAIMED ? FT_COUNT_CGROUP_UNCLAIMED :
							     FT_COUNT_CGROUP_INHERITED);
	}
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(flowtag_rmdir, struct cgroup *cgroup, const char *path)
{
	__u64 id = cgroup->kn->id;
	struct ft_owner *owner;

	if (cgroup->root->hierarchy_id != 0)
		return 0;
	owner = bpf_map_lookup_elem(&ft_cgroup, &id);
	if (owner && owner->until == 0) {
		owner->until = bpf_ktime_get_boot_ns();
		count(FT_COUNT_CGROUP_TOMBSTONED);
	}
	return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who owns a socket: ARCHITECTURE.md, 'Who owns a socket', row by row. */
#ifndef FLOWTAG_OWNER_H
#define FLOWTAG_OWNER_H

struct verdict {
	__u64 owner;
	__u8 rule;
	__u8 reason;
};

static __always_inline void give(struct verdict *v, __u64 owner, __u8 rule)
{
	v->owner = owner;
	v->rule = rule;
	v->reason = FT_REASON_NONE;
}

static __always_inline void refuse(struct verdict *v, __u8 reason)
{
	v->owner = FT_OWNER_NONE;
	v->rule = FT_RULE_NONE;
	v->reason = reason;
}

static __always_inline bool alive_at(const struct ft_owner *claim, __u64 time)
{
	return claim->since <= time && (claim->until == 0 || time < claim->until);
}

/*
 * One claim, under the time test. An adopted socket's open time is unknowable: cgroup claims, whose
 * keys are never used again, pass all the same; others do not.
 */
static __always_inline void judge(struct verdict *v, const struct ft_owner *claim, __u64 time_open,
				  bool passes, __u8 rule)
{
	if (claim->workload == FT_OWNER_UNCLAIMED)
		refuse(v, FT_REASON_UNCLAIMED_CONTAINER);
	else if (claim->workload == FT_OWNER_CONTESTED)
		refuse(v, FT_REASON_CONTESTED);
	else if (!passes && !alive_at(claim, time_open))
		refuse(v, FT_REASON_EXPIRED);
	else
		give(v, claim->workload, rule);
}

static __always_inline void host_owner(struct verdict *v, struct cgroup *cgroup, __u8 flow_flags)
{
	if (flow_flags & FT_FLOW_ACTIVATED)
		refuse(v, FT_REASON_ACTIVATED);
	else if (state.gaps != state.gaps_closed || config.host_needs_claim)
		refuse(v, FT_REASON_DEGRADED);
	else if (cgroup && !(cgroup->self.flags & CSS_ONLINE))
		/* Its claim may have been collected with the cgroup, so an absent one says nothing. */
		refuse(v, FT_REASON_EXPIRED);
	else if (!state.host_workload)
		refuse(v, FT_REASON_NO_CLAIM);
	else
		give(v, state.host_workload, FT_RULE_HOST);
}

static __always_inline void resolve(struct verdict *v, const struct sock *sk, __u64 time_open,
				    __u8 flow_flags)
{
	bool adopted = flow_flags & FT_FLOW_ADOPTED;
	struct cgroup *cgroup = sk->sk_cgrp_data.cgroup;
	__u64 netns = sk->__sk_common.skc_net.net->net_cookie;
	__u64 cgroup_id = cgroup->kn->id;
	struct ft_owner *claim = bpf_map_lookup_elem(&ft_cgroup, &cgroup_id);
	struct ft_netns *home;

	if (netns == config.host_netns) {
		if (claim)
			judge(v, claim, time_open, adopted, FT_RULE_CGROUP);
		else
			host_owner(v, cgroup, flow_flags);
		return;
	}
	if (claim) {
		judge(v, claim, time_open, adopted, FT_RULE_CGROUP);
		return;
	}
	home = bpf_map_lookup_elem(&ft_netns, &netns);
	if (!home || home->kind != FT_NETNS_CONTAINER || !alive_at(&home->owner, time_open))
		refuse(v, FT_REASON_NO_CLAIM);
	else if (!(home->owner.flags & FT_OWNER_NO_CGROUP))
		refuse(v, FT_REASON_FOREIGN_PROCESS);
	else if (adopted)
		refuse(v, FT_REASON_EXPIRED);
	else
		judge(v, &home->owner, time_open, false, FT_RULE_NETNS);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What one claim says about one socket. */
#ifndef FLOWTAG_CLAIM_H
#define FLOWTAG_CLAIM_H

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

/*
 * The time test. An adopted socket's open time is unknowable: a claim on its cgroup, whose id is not
 * used again, counts if it was alive when the socket was first seen (one that had ended, or came later,
 * may be that of another container in a cgroup left standing); other claims never do.
 */
static __always_inline bool alive(const struct ft_flow *flow, __u64 since, __u64 until, __u8 rule)
{
	if (flow->flags & FT_FLOW_ADOPTED && rule != FT_RULE_CGROUP)
		return false;
	return since <= flow->time_open && (until == 0 || flow->time_open < until);
}

/* One claim: whose the socket is by it, or why nobody's. */
static __always_inline void judge(struct verdict *v, const struct ft_flow *flow,
				  const struct ft_owner *claim, __u8 rule)
{
	if (claim->workload == FT_OWNER_UNCLAIMED)
		refuse(v, FT_REASON_UNCLAIMED_CONTAINER);
	else if (claim->workload == FT_OWNER_CONTESTED)
		refuse(v, FT_REASON_CONTESTED);
	else if (!alive(flow, claim->since, claim->until, rule))
		refuse(v, FT_REASON_EXPIRED);
	else
		give(v, claim->workload, rule);
}

#endif

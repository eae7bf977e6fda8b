/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who owns a socket: ARCHITECTURE.md, 'Who owns a socket', row by row. */
#ifndef FLOWTAG_OWNER_H
#define FLOWTAG_OWNER_H

/* Whether some container's claim was missing when the socket opened: it may be that container's. */
static __always_inline bool claim_missing(const struct ft_flow *flow)
{
	__u32 only = 0;
	struct ft_gap *gap = bpf_map_lookup_elem(&ft_gap, &only);

	return gap && gap->since &&
	       (flow->flags & FT_FLOW_ADOPTED || flow->time_open >= gap->since);
}

/*
 * The host's identity that was in force when the socket opened. The exporter fills the next element before
 * it counts host_last up, and not faster than twice a second, so none that is looked at here changes
 * meanwhile. An adopted socket may have opened under any identity: it gets the first that this program
 * knew, and only if it was seen while there was no other.
 */
static __always_inline void host_identity(struct verdict *v, const struct ft_flow *flow)
{
	__u64 last = *(volatile __u64 *)&state.host_last;

	for (__u32 i = 0; i < FT_HOST_MAX - 1 && i <= last; i++) {
		struct ft_host *host = &state.host[(last - i) % FT_HOST_MAX];
		__u64 since = *(volatile __u64 *)&host->since;

		if (flow->time_open < since)
			continue;
		if (flow->flags & FT_FLOW_ADOPTED && i != last)
			break;
		if (host->workload)
			give(v, host->workload, FT_RULE_HOST);
		else
			refuse(v, FT_REASON_NO_CLAIM);
		return;
	}
	refuse(v, FT_REASON_EXPIRED);
}

/* In the host's namespace no claim means the host, where that can be trusted. */
static __always_inline void host_owner(struct verdict *v, const struct ft_flow *flow,
				       struct cgroup *cgroup)
{
	if (flow->flags & FT_FLOW_ACTIVATED)
		refuse(v, FT_REASON_ACTIVATED);
	else if (state.gaps != state.gaps_closed || config.host_needs_claim || claim_missing(flow))
		refuse(v, FT_REASON_DEGRADED);
	else if (cgroup && !(cgroup->self.flags & CSS_ONLINE))
		/* Its claim may have been collected with the cgroup, so an absent one says nothing. */
		refuse(v, FT_REASON_EXPIRED);
	else
		host_identity(v, flow);
}

static __always_inline void resolve(struct verdict *v, const struct sock *sk, struct ft_flow *flow)
{
	struct cgroup *cgroup = sk->sk_cgrp_data.cgroup;
	__u64 netns = sk->__sk_common.skc_net.net->net_cookie;
	__u64 cgroup_id = cgroup->kn->id;
	struct ft_owner *claim = bpf_map_lookup_elem(&ft_cgroup, &cgroup_id);
	struct ft_netns *home = NULL;

	if (netns != config.host_netns) {
		home = bpf_map_lookup_elem(&ft_netns, &netns);
		/* Says only that the host's sockets in this cgroup may be a container's. */
		if (claim && claim->flags & FT_OWNER_NO_CGROUP)
			claim = NULL;
	}
	if ((home && home->kind == FT_NETNS_TRANSLATOR) ||
	    (claim && claim->workload == FT_OWNER_TRANSLATOR))
		translated_owner(v, sk, flow, netns);
	else if (claim)
		judge(v, flow, claim, FT_RULE_CGROUP);
	else if (netns == config.host_netns)
		host_owner(v, flow, cgroup);
	else if (!home || home->kind != FT_NETNS_CONTAINER)
		refuse(v, FT_REASON_NO_CLAIM);
	else if (home->owner.flags & FT_OWNER_NO_CGROUP)
		judge(v, flow, &home->owner, FT_RULE_NETNS);
	else
		refuse(v, FT_REASON_FOREIGN_PROCESS);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ownership heartbeats: the exporter knows them, the ring carries them, so that one sequence counts all records.
 * Run by the exporter with BPF_PROG_RUN, once a heartbeat (5.14).
 */
#ifndef FLOWTAG_OWNERSHIP_H
#define FLOWTAG_OWNERSHIP_H

/* Returns 1 if it is in the ring; 0 if there is no room: the next one says it too. */
SEC("syscall")
int flowtag_ownership(struct ft_ownership *told)
{
	struct ft_event *e = half_full() ? NULL : bpf_ringbuf_reserve(&ft_events, sizeof(*e), 0);

	if (!e)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = FT_EVENT_OWNERSHIP;
	e->time_open = told->time_start;
	e->time_start = told->time_start;
	e->time_end = told->time_end;
	e->owner = told->owner;
	e->rule = FT_RULE_NETNS;
	e->connect_us = FT_UNKNOWN32;
	e->rtt_us = FT_UNKNOWN32;
	e->rtt_min_us = FT_UNKNOWN32;
	__builtin_memcpy(e->local_address, told->address, sizeof(e->local_address));
	count(FT_COUNT_OWNERSHIP);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 1;
}

#endif

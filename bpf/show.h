/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What open flows have carried and no record has told yet, for people to read: nothing is changed by it. */
#ifndef FLOWTAG_SHOW_H
#define FLOWTAG_SHOW_H

/*
 * One struct ft_event for each descriptor of an open flow: a socket that processes share comes more than once.
 * Loaded by its reader, against the pinned maps; the exporter does not load it.
 */
SEC("iter/task_file")
int flowtag_show(struct bpf_iter__task_file *ctx)
{
	struct open_flow of = {};
	struct ft_traffic now;
	struct ft_event e;

	if (!find_flow(&of, ctx->file) || of.life & FT_LIFE_CLOSED)
		return 0;
	measure_unlocked(&now, of.sk, of.tp, of.flow->role, &of.flow->state);
	fill(&e, FT_EVENT_INTERIM, of.sk, of.tp, of.flow, reported(of.flow, of.life), &now);
	/* Closed, told of or begun anew meanwhile: a record says it better. */
	if (__sync_fetch_and_or(&of.flow->state, 0) == of.life)
		bpf_seq_write(ctx->meta->seq, &e, sizeof(e));
	return 0;
}

#endif

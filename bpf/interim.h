/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Interim records: what open flows carried since their last record. One run over the descriptors of all
 * processes, in all network namespaces: iter/tcp, once in each, took 25 s for 1,000 namespaces and 100,000
 * sockets where this takes 0.09 s, and it takes sockets' locks, which inet_csk_listen_stop() does not expect of
 * sockets that were not accepted yet (it warns, and closes them all the same). A socket without a descriptor
 * (a kernel's own, an MPTCP subflow, one that lingers after close()) makes none: its close tells everything.
 *
 * No lock is held, so each record is a proposal: the snapshot goes to the slot that is not in force, and a
 * compare-and-swap of ft_flow.state puts it in force unless the flow closed or began anew meanwhile.
 */
#ifndef FLOWTAG_INTERIM_H
#define FLOWTAG_INTERIM_H

/* Whether nobody works on the socket: neither a softirq (slock) nor a system call (owned). */
static __always_inline bool unlocked(const struct sock *sk)
{
	if (!bpf_core_field_exists(sk->sk_lock.slock.rlock.raw_lock.val.counter))
		return false;
	return !sk->sk_lock.slock.rlock.raw_lock.val.counter && !sk->sk_lock.owned;
}

/*
 * Never more than what the close will find. The kernel counts the peer's FIN as a byte received a moment before
 * it sets SOCK_DONE: both are known to belong together if nobody held the lock between two readings that agree,
 * else the last byte is left to the next record. A retransmission is counted before it is sent, so what was sent
 * is read first. `word` is any word of ours: an atomic operation on it keeps the readings apart.
 */
static __always_inline void measure_unlocked(struct ft_traffic *now, const struct sock *sk,
					     const struct tcp_sock *tp, __u8 role, __u32 *word)
{
	__u64 sent = *(const volatile __u64 *)&tp->bytes_sent;
	struct ft_traffic again;
	bool quiet;

	measure(now, sk, tp, role);
	__sync_fetch_and_or(word, 0);
	quiet = unlocked(sk);
	__sync_fetch_and_or(word, 0);
	measure(&again, sk, tp, role);
	now->bytes_sent = more(sent, *(const volatile __u64 *)&tp->bytes_retrans);
	if (!quiet || again.bytes_received != now->bytes_received)
		now->bytes_received = more(now->bytes_received, 1);
}

/* A byte that was left to the next record is no movement. */
static __always_inline bool moved(const struct ft_traffic *now, const struct ft_traffic *before)
{
	return now->segments_sent != before->segments_sent ||
	       now->segments_received != before->segments_received ||
	       now->bytes_sent > before->bytes_sent;
}

static __always_inline void propose(const struct sock *sk, const struct tcp_sock *tp,
				    struct ft_flow *flow, __u32 life)
{
	struct ft_traffic *before = reported(flow, life);
	struct ft_traffic *next = reported(flow, life ^ FT_LIFE_SECOND);
	struct ft_traffic now;
	struct ft_event *e;

	measure_unlocked(&now, sk, tp, flow->role, &flow->state);
	if (!moved(&now, before))
		return;
	/* Half of the ring is for closes: they cannot be made later. */
	e = half_full() ? NULL : bpf_ringbuf_reserve(&ft_events, sizeof(*e), 0);
	if (!e) {
		count(FT_COUNT_INTERIM_DEFERRED);
		return;
	}
	if (now.bytes_sent < before->bytes_sent)
		now.bytes_sent = before->bytes_sent;
	if (now.bytes_received < before->bytes_received)
		now.bytes_received = before->bytes_received;
	fill(e, FT_EVENT_INTERIM, sk, tp, flow, before, &now);
	*next = now;
	/* Reserved before it is in force, so it lies in the ring before the flow's next record. */
	if (__sync_val_compare_and_swap(&flow->state, life, life ^ FT_LIFE_SECOND) != life) {
		bpf_ringbuf_discard(e, BPF_RB_NO_WAKEUP);
		return;
	}
	count(FT_COUNT_INTERIM);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

SEC("iter/task_file")
int flowtag_interim(struct bpf_iter__task_file *ctx)
{
	struct open_flow of = {};
	__u64 last;

	if (!find_flow(&of, ctx->file))
		return 0;
	if ((of.life & (FT_LIFE_CLOSED | FT_LIFE_OWNED)) != FT_LIFE_OWNED)
		return 0;
	last = reported(of.flow, of.life)->time;
	if ((last ? last : of.flow->time_open) < state.interim_before)
		propose(of.sk, of.tp, of.flow, of.life);
	return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records: what a flow carried since its last one and, of a close, why it ended; into the ring. */
#ifndef FLOWTAG_EVENT_H
#define FLOWTAG_EVENT_H

static __always_inline __u8 end_without_error(const struct sock *sk, int oldstate)
{
	bool dead = sk->__sk_common.skc_flags & (1UL << SOCK_DEAD);
	bool done = sk->__sk_common.skc_flags & (1UL << SOCK_DONE);

	switch (oldstate) {
	case TCP_LAST_ACK:
	case TCP_CLOSING:
		return FT_END_FIN;
	case TCP_FIN_WAIT2:
		/* Dead: went on as a time-wait socket. Done: the peer's FIN came while it was still held. */
		return dead || done ? FT_END_FIN : FT_END_RST_SENT;
	case TCP_ESTABLISHED:
	case TCP_CLOSE_WAIT:
	case TCP_FIN_WAIT1:
	case TCP_SYN_RECV: /* a TCP Fast Open server that gave up early */
		return FT_END_RST_SENT;
	case TCP_SYN_SENT:
		return FT_END_ABORTED;
	}
	return FT_END_UNKNOWN;
}

static __always_inline __u8 end_reason(const struct sock *sk, int oldstate)
{
	switch (sk->sk_err) {
	case 0:
		return end_without_error(sk, oldstate);
	case ECONNREFUSED:
		return FT_END_REFUSED;
	case ETIMEDOUT:
		return FT_END_TIMEOUT;
	case EHOSTUNREACH:
	case ENETUNREACH:
	case EHOSTDOWN:
	case ENONET:
	case ENOPROTOOPT:
	case EACCES: /* ICMPv6 says that a firewall rejected it */
		return FT_END_UNREACHABLE;
	case ECONNRESET:
	case EPIPE:
		return FT_END_RST_RECEIVED;
	case ECONNABORTED: /* sock_diag's destroy (ss -K); a SYN is taken back without a reset */
		return oldstate == TCP_SYN_SENT ? FT_END_ABORTED : FT_END_RST_SENT;
	}
	return FT_END_UNKNOWN;
}

/* A retransmission is counted before it is sent, so more bytes may seem to be sent again than sent. */
static __always_inline __u64 more(__u64 now, __u64 before)
{
	return now > before ? now - before : 0;
}

/* What the flow has carried until now. */
static __always_inline void measure(struct ft_traffic *now, const struct sock *sk,
				    const struct tcp_sock *tp, __u8 role)
{
	bool done = sk->__sk_common.skc_flags & (1UL << SOCK_DONE);

	now->bytes_sent = more(tp->bytes_sent, tp->bytes_retrans);
	now->bytes_received = more(tp->bytes_received, done); /* the FIN is counted */
	now->segments_sent = tp->segs_out;
	if (role == FT_ROLE_SERVER) /* the SYN-ACK went out before this socket was made */
		now->segments_sent++;
	now->segments_received = tp->segs_in;
	now->segments_retransmitted = tp->total_retrans;
	now->time = bpf_ktime_get_boot_ns();
	now->pad = 0;
}

/* What the flow's records so far have told; of a flow without any, nothing. */
static __always_inline struct ft_traffic *reported(struct ft_flow *flow, __u32 state)
{
	/* Two constant offsets: the verifier of 5.15 wants no variable ones into socket storage. */
	return state & FT_LIFE_SECOND ? &flow->reported[1] : &flow->reported[0];
}

/* Everything but end_reason. */
static __always_inline void fill(struct ft_event *e, __u8 kind, const struct sock *sk,
				 const struct tcp_sock *tp, const struct ft_flow *flow,
				 const struct ft_traffic *before, const struct ft_traffic *now)
{
	__u32 rtt_min = tp->rtt_min.s[0].v, rtt = tp->srtt_us;

	__builtin_memset(e, 0, sizeof(*e));
	e->cookie = bpf_get_socket_cookie((void *)sk);
	e->time_open = flow->time_open;
	e->time_start = before->time ? before->time : flow->time_open;
	e->time_end = now->time;
	e->owner = flow->owner;
	e->cgroup_id = sk->sk_cgrp_data.cgroup->kn->id;
	e->netns = sk->__sk_common.skc_net.net->net_cookie;
	e->bytes_sent = more(now->bytes_sent, before->bytes_sent);
	e->bytes_received = more(now->bytes_received, before->bytes_received);
	e->segments_sent = now->segments_sent - before->segments_sent;
	e->segments_received = now->segments_received - before->segments_received;
	e->segments_retransmitted = now->segments_retransmitted - before->segments_retransmitted;
	e->connect_us = flow->connect_us;
	e->rtt_us = rtt ? rtt >> 3 : FT_UNKNOWN32;
	e->rtt_min_us = rtt ? rtt_min : FT_UNKNOWN32;
	e->generation = flow->generation;
	e->pid = flow->pid;
	e->kind = kind;
	e->role = flow->role;
	e->rule = flow->rule;
	e->reason = flow->reason;
	e->flags = flow->flags;
	__builtin_memcpy(e->comm, flow->comm, sizeof(e->comm));
	copy_local_address(e->local_address, sk);
	copy_peer_address(e->peer_address, sk);
	e->local_port = local_port(tp);
	e->peer_port = bpf_ntohs(sk->__sk_common.skc_dport);
}

/* The exporter drains by the clock; only a ring that fills wakes it. */
static __always_inline bool half_full(void)
{
	return bpf_ringbuf_query(&ft_events, BPF_RB_AVAIL_DATA) >
	       bpf_ringbuf_query(&ft_events, BPF_RB_RING_SIZE) / 2;
}

/* state: what the closed bit found, so no record of this flow can come in between any more. */
static __always_inline void report(const struct sock *sk, struct ft_flow *flow, __u32 state,
				   int oldstate)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);
	struct ft_traffic now;
	struct ft_event *e;

	if (!tp) {
		count(FT_COUNT_LOST_SOCKET);
		return;
	}
	e = bpf_ringbuf_reserve(&ft_events, sizeof(*e), 0);
	if (!e) {
		count(FT_COUNT_LOST_RING);
		return;
	}
	measure(&now, sk, tp, flow->role);
	fill(e, FT_EVENT_CLOSE, sk, tp, flow, reported(flow, state), &now);
	e->end_reason = end_reason(sk, oldstate);
	count(FT_COUNT_RECORDS);
	bpf_ringbuf_submit(e, half_full() ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The record of a close: why the flow ended, what it carried, into the ring. */
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

static __always_inline void copy_statistics(struct ft_event *e, const struct sock *sk,
					    const struct tcp_sock *tp, __u8 role)
{
	bool done = sk->__sk_common.skc_flags & (1UL << SOCK_DONE);
	__u32 rtt_min = tp->rtt_min.s[0].v, rtt = tp->srtt_us;

	e->bytes_sent = tp->bytes_sent - tp->bytes_retrans;
	e->bytes_received = tp->bytes_received;
	if (done && e->bytes_received) /* the FIN is counted */
		e->bytes_received--;
	e->segments_sent = tp->segs_out;
	if (role == FT_ROLE_SERVER) /* the SYN-ACK went out before this socket was made */
		e->segments_sent++;
	e->segments_received = tp->segs_in;
	e->segments_retransmitted = tp->total_retrans;
	e->rtt_us = rtt ? rtt >> 3 : FT_UNKNOWN32;
	e->rtt_min_us = rtt ? rtt_min : FT_UNKNOWN32;
}

/* The exporter drains by the clock; only a ring that fills wakes it. */
static __always_inline __u64 wakeup(void)
{
	return bpf_ringbuf_query(&ft_events, BPF_RB_AVAIL_DATA) >
			       bpf_ringbuf_query(&ft_events, BPF_RB_RING_SIZE) / 2 ?
		       BPF_RB_FORCE_WAKEUP :
		       BPF_RB_NO_WAKEUP;
}

static __always_inline void report(const struct sock *sk, const struct ft_flow *flow, int oldstate)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);
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
	__builtin_memset(e, 0, sizeof(*e));
	e->cookie = bpf_get_socket_cookie((void *)sk);
	e->time_open = flow->time_open;
	e->time_start = flow->time_open;
	e->time_end = bpf_ktime_get_boot_ns();
	e->owner = flow->owner;
	e->cgroup_id = sk->sk_cgrp_data.cgroup->kn->id;
	e->netns = sk->__sk_common.skc_net.net->net_cookie;
	e->generation = flow->generation;
	e->connect_us = flow->connect_us;
	e->pid = flow->pid;
	e->kind = FT_EVENT_CLOSE;
	e->role = flow->role;
	e->rule = flow->rule;
	e->reason = flow->reason;
	e->flags = flow->flags;
	e->end_reason = end_reason(sk, oldstate);
	__builtin_memcpy(e->comm, flow->comm, sizeof(e->comm));
	copy_local_address(e->local_address, sk);
	copy_peer_address(e->peer_address, sk);
	e->local_port = local_port(tp);
	e->peer_port = bpf_ntohs(sk->__sk_common.skc_dport);
	copy_statistics(e, sk, tp, flow->role);
	count(FT_COUNT_RECORDS);
	bpf_ringbuf_submit(e, wakeup());
}

#endif

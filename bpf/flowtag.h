/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one ABI of flowtag: what the kernel programs, the hook, the exporter and translators written in
 * any language agree on. docs/maps.md explains every map; bpf/abi.py mirrors this file and a test
 * compares the two field by field. A change of a layout changes FT_LAYOUT, which is the last part of
 * the pin path, so that two layouts never meet in one map.
 */
#ifndef FLOWTAG_H
#define FLOWTAG_H

#define FT_LAYOUT 1

#define FT_COMM_LEN 16
#define FT_ROOT_LEN 32
#define FT_ROOT_MAX 32
#define FT_HOST_MAX 8
#define FT_HOST_NEVER 0xffffffffffffffffULL
#define FT_UNKNOWN32 0xffffffffU /* a number that the kernel did not know */

/* Values of ft_owner.workload that name no workload; real ids are random and above FT_OWNER_SPECIAL. */
enum ft_owner_special {
	FT_OWNER_NONE = 0,
	FT_OWNER_UNCLAIMED = 1,	 /* below an engine's root, not yet identified */
	FT_OWNER_TRANSLATOR = 2, /* sockets here belong to whoever published them */
	FT_OWNER_CONTESTED = 3,	 /* two living direct claims: nobody's */
	FT_OWNER_HOST_SLOT = 4,	 /* key in ft_workload whose id is the host's current incarnation */
	FT_OWNER_SPECIAL = 0xffff,
};

enum ft_owner_flag {
	FT_OWNER_INHERITED = 1,	 /* copied from the parent cgroup at mkdir */
	FT_OWNER_NO_CGROUP = 2,	 /* in ft_netns: this workload's sockets carry no cgroup of its own;
				    in ft_cgroup: such a container shares this cgroup and the host's network */
	FT_OWNER_RECONCILED = 4, /* written by the exporter, not by the hook */
	FT_OWNER_ONCE = 8,	 /* in ft_port: for the next connect only, which consumes it */
	FT_OWNER_ADDRESS = 16, /* in ft_addr: who has an address, for people; attributes nothing */
};

enum ft_netns_kind {
	FT_NETNS_CONTAINER = 1,
	FT_NETNS_TRANSLATOR = 2,
	FT_NETNS_HOST = 3,
};

enum ft_workload_kind {
	FT_KIND_NONE = 0,
	FT_KIND_CONTAINER = 1,
	FT_KIND_POD = 2,
	FT_KIND_HOST = 3,
};

enum ft_source {
	FT_SOURCE_NONE = 0,
	FT_SOURCE_HOOK = 1,
	FT_SOURCE_RECONCILED = 2,
	FT_SOURCE_TRANSLATOR = 3,
	FT_SOURCE_CERTIFICATE = 4,
	FT_SOURCE_DOCUMENT = 5,
	FT_SOURCE_STATIC = 6,
	FT_SOURCE_HOSTNAME = 7,
};

enum ft_identity_state {
	FT_STATE_NONE = 0,
	FT_STATE_VERIFIED = 1,
	FT_STATE_UNVERIFIED = 2,
	FT_STATE_STALE = 3,
};

enum ft_event_kind {
	FT_EVENT_CLOSE = 1,
	FT_EVENT_INTERIM = 2,
	FT_EVENT_OWNERSHIP = 3,
};

enum ft_role {
	FT_ROLE_UNKNOWN = 0,
	FT_ROLE_CLIENT = 1,
	FT_ROLE_SERVER = 2,
};

enum ft_end {
	FT_END_UNKNOWN = 0,
	FT_END_FIN = 1,
	FT_END_RST_SENT = 2,
	FT_END_RST_RECEIVED = 3,
	FT_END_TIMEOUT = 4,
	FT_END_REFUSED = 5,
	FT_END_UNREACHABLE = 6,
	FT_END_ABORTED = 7,
};

/* The rule that gave the owner. */
enum ft_rule {
	FT_RULE_NONE = 0,
	FT_RULE_CGROUP = 1,
	FT_RULE_NETNS = 2,
	FT_RULE_SOCKET = 3,
	FT_RULE_PORT = 4,
	FT_RULE_BLOCK = 5,
	FT_RULE_HOST = 6,
};

/* Why nobody owns it. */
enum ft_reason {
	FT_REASON_NONE = 0,
	FT_REASON_UNCLAIMED_CONTAINER = 1,
	FT_REASON_FOREIGN_PROCESS = 2,
	FT_REASON_UNPUBLISHED = 3,
	FT_REASON_ACTIVATED = 4,
	FT_REASON_CONTESTED = 5,
	FT_REASON_EXPIRED = 6,
	FT_REASON_DEGRADED = 7,
	FT_REASON_NO_CLAIM = 8,
};

enum ft_flow_flag {
	FT_FLOW_ADOPTED = 1,	   /* open before we looked: its open time is unknowable */
	FT_FLOW_ACTIVATED = 2,	   /* accepted from a listener made for somebody else */
	FT_FLOW_RESOLVED = 4,	   /* the owner was looked up, with or without success */
	FT_FLOW_ATTR_AT_CLOSE = 8, /* ... and that was at close */
};

/* Bits of ft_flow.state. Interim records are made without the socket's lock: while this word stays, so does the flow. */
enum ft_life {
	FT_LIFE_CLOSED = 1, /* set once, by whichever program reports the close */
	FT_LIFE_SECOND =
		2, /* reported[1] holds what the records so far have told, else reported[0] */
	FT_LIFE_OWNED = 4,	  /* the owner was looked up: interim records may tell */
	FT_LIFE_GENERATION = 256, /* from here on the generation's lower 24 bits */
};

/* Index into ft_count. */
enum ft_counter {
	FT_COUNT_RECORDS = 0,	   /* records submitted to the ring */
	FT_COUNT_LOST_RING = 1,	   /* records lost because the ring was full */
	FT_COUNT_LOST_STORAGE = 2, /* flows lost because no socket storage could be had */
	FT_COUNT_LOST_SOCKET = 3,  /* closes lost because the socket was not a full TCP socket */
	FT_COUNT_LOST_CLOSE = 4,   /* flows reopened whose close no program saw */
	FT_COUNT_RESCUED = 5,	   /* closes that only the backup program saw (none lost) */
	FT_COUNT_MISSED_OPEN = 6,  /* flows first seen after they opened: reported as adopted */
	FT_COUNT_LATE = 7,	   /* owners looked up at close */
	FT_COUNT_CGROUP_INHERITED = 8,
	FT_COUNT_CGROUP_UNCLAIMED = 9,
	FT_COUNT_CGROUP_TOMBSTONED = 10,
	FT_COUNT_CGROUP_FULL = 11, /* cgroups that ft_cgroup had no room for: degraded */
	FT_COUNT_CONSUMED = 12,	   /* publications taken from ft_socket or ft_port */
	FT_COUNT_OPENED = 13,	   /* flows begun: connects, accepts, adopted sockets */
	FT_COUNT_UNBORN = 14,	   /* accepted sockets that nobody ever had: not reported */
	FT_COUNT_INTERIM = 15,	   /* interim records submitted to the ring */
	FT_COUNT_INTERIM_DEFERRED =
		16,		 /* not made for want of room: the flow's next record contains it */
	FT_COUNT_OWNERSHIP = 17, /* ownership heartbeats submitted to the ring */
	FT_COUNT_MAX = 32,
};

/* A claim on a key. Times are CLOCK_BOOTTIME ns; until 0 means alive. */
struct ft_owner {
	__u64 workload;
	__u64 since;
	__u64 until;
	__u32 flags;
	__u32 pad;
};

/* A container on the host's network whose claim is missing from ft_cgroup; since 0: there is none. */
struct ft_gap {
	__u64 since;
	__u64 by; /* the workload that came last */
};

struct ft_netns {
	struct ft_owner owner;
	__u32 kind;
	__u32 pad;
};

/* Key of ft_port. The port is in host order, the namespace 0 for any translator's. */
struct ft_port_key {
	__u8 address[16];
	__u64 netns;
	__u16 port;
	__u8 protocol;
	__u8 pad[5];
};

/* Key of ft_addr: prefix_len counts bits of address, then of the big-endian port. */
struct ft_addr_key {
	__u32 prefix_len;
	__u8 address[16];
	__u8 port[2];
	__u8 pad[2];
};

/* Value of ft_workload. Strings are UTF-8, cut at the field's end, NUL-padded. */
struct ft_workload {
	__u64 id;
	__u64 start;
	__u64 end;
	__u8 kind;
	__u8 source;
	__u8 state;
	__u8 pad[5];
	char runtime[16];
	char container_id[128];
	char container[128];
	char pod[256];
	char namespace[64];
	char pod_uid[40];
	char app[64];
	char image[256];
	char host[256];
};

/* What a flow has carried up to a moment. */
struct ft_traffic {
	__u64 time; /* CLOCK_BOOTTIME ns; 0: no record was made yet */
	__u64 bytes_sent;
	__u64 bytes_received;
	__u32 segments_sent;
	__u32 segments_received;
	__u32 segments_retransmitted;
	__u32 pad;
};

/* ft_flow: what a socket remembers from its opening until its close. */
struct ft_flow {
	__u64 time_open;
	__u64 owner;
	__u64 published; /* workload that a translator published for this socket, kept with it */
	__u64 published_since; /* when: a claim, so under the time test */
	__u32 state;	       /* enum ft_life; changed atomically only */
	__u32 generation;
	__u32 connect_us;
	__u32 pid;
	__u8 role;
	__u8 rule;
	__u8 reason;
	__u8 flags;
	__u8 published_rule;
	__u8 pad[3];
	char comm[FT_COMM_LEN];
	struct ft_traffic reported[2];
};

/* One record of ft_events. Its size is a multiple of 8 and the same for every kind. */
struct ft_event {
	__u64 cookie;
	__u64 time_open;
	__u64 time_start;
	__u64 time_end;
	__u64 owner;
	__u64 cgroup_id;
	__u64 netns;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u32 segments_sent;
	__u32 segments_received;
	__u32 segments_retransmitted;
	__u32 connect_us;
	__u32 rtt_us;
	__u32 rtt_min_us;
	__u32 generation;
	__u32 pid;
	__u8 local_address[16];
	__u8 peer_address[16];
	__u16 local_port;
	__u16 peer_port;
	__u8 kind;
	__u8 role;
	__u8 end_reason;
	__u8 rule;
	__u8 reason;
	__u8 flags;
	__u8 pad[6];
	char comm[FT_COMM_LEN];
};

/* What flowtag_ownership is told by the exporter: who has had an address, and when. */
struct ft_ownership {
	__u64 owner;
	__u64 time_start; /* CLOCK_BOOTTIME ns */
	__u64 time_end;
	__u8 address[16];
};

/* A cgroup name that marks the root of a container engine. */
struct ft_root {
	char name[FT_ROOT_LEN];
	__u32 len;
	__u32 prefix; /* 0: the whole name, first level only; 1: begins with it, any level */
};

/* Knobs, fixed when the programs are loaded (.rodata). */
struct ft_config {
	__u64 host_netns;
	__u32 host_needs_claim; /* containers have no cgroup v2 here: an absent claim says nothing */
	__u32 roots;
	struct ft_root root[FT_ROOT_MAX];
	char activator[FT_ROOT_MAX][FT_COMM_LEN]; /* processes that listen for others */
	__u64 activator_cgroup[FT_ROOT_MAX]; /* where they run: their listeners from before us */
	__u32 activators;
	__u32 activator_cgroups;
};

/* One identity of the host: its incarnation, and the time from which on sockets that open are its. */
struct ft_host {
	__u64 workload; /* 0: not known */
	__u64 since;	/* CLOCK_BOOTTIME ns; FT_HOST_NEVER: not in force yet */
};

/*
 * State shared with the exporter while the programs run (.bss). Two counters, each with one writer,
 * instead of a flag: a walk closes the gaps that it saw and none that opened meanwhile.
 */
struct ft_state {
	__u64 host_last; /* how often the host's identity changed: the last one is host[host_last % MAX] */
	__u64 gaps;	   /* cgroups that ft_cgroup had no room for; the kernel counts */
	__u64 gaps_closed; /* gaps at the last whole walk; the exporter writes. Not equal: degraded */
	__u64 open_flows; /* what flowtag_open counted: flows that have not closed */
	struct ft_host
		host[FT_HOST_MAX]; /* the last ones, one of them being written; by the exporter */
	/* flowtag_interim reports flows whose last record ended before; the exporter writes */
	__u64 interim_before;
};

_Static_assert(sizeof(struct ft_owner) == 32, "ft_owner");
_Static_assert(sizeof(struct ft_gap) == 16, "ft_gap");
_Static_assert(sizeof(struct ft_netns) == 40, "ft_netns");
_Static_assert(sizeof(struct ft_port_key) == 32, "ft_port_key");
_Static_assert(sizeof(struct ft_addr_key) == 24, "ft_addr_key");
_Static_assert(sizeof(struct ft_workload) == 1240, "ft_workload");
_Static_assert(sizeof(struct ft_traffic) == 40, "ft_traffic");
_Static_assert(sizeof(struct ft_flow) == 152, "ft_flow");
_Static_assert(sizeof(struct ft_event) == 168, "ft_event");
_Static_assert(sizeof(struct ft_event) % 8 == 0, "records of one size keep the ring an array");
_Static_assert(sizeof(struct ft_ownership) == 40, "ft_ownership");
_Static_assert(sizeof(struct ft_root) == 40, "ft_root");
_Static_assert(sizeof(struct ft_host) == 16, "ft_host");
_Static_assert(sizeof(struct ft_state) == 168, "ft_state");

#endif

# SPDX-License-Identifier: Apache-2.0
"""The Python side of flowtag.h: struct formats, codes and their names.

Standard library only and light to import: the hook reads it on a container's start. A test compares
every struct field by field, and every code, with the compiled C (tests/unit/test_abi.py).
"""

from __future__ import annotations

from struct import Struct

LAYOUT = 1
PIN_DIRECTORY = f"/sys/fs/bpf/flowtag/v{LAYOUT}"
UNKNOWN32 = 0xFFFFFFFF

OWNER_NONE = 0
OWNER_UNCLAIMED = 1
OWNER_TRANSLATOR = 2
OWNER_CONTESTED = 3
OWNER_HOST_SLOT = 4
OWNER_SPECIAL = 0xFFFF

FLAG_INHERITED = 1
FLAG_NO_CGROUP = 2
FLAG_RECONCILED = 4
FLAG_ONCE = 8
FLAG_ADDRESS = 16

FLOW_ADOPTED = 1
FLOW_ACTIVATED = 2
FLOW_RESOLVED = 4
FLOW_ATTR_AT_CLOSE = 8

EVENT_CLOSE = 1
EVENT_INTERIM = 2
EVENT_OWNERSHIP = 3

LIFE_CLOSED = 1
LIFE_SECOND = 2
LIFE_OWNED = 4
LIFE_GENERATION = 256

# Names by code, as records and dumps print them; index 0 is "nothing".
OWNER_SPECIALS = ("none", "unclaimed", "translator", "contested", "host_slot")
OWNER_FLAGS = {"inherited": 1, "no_cgroup": 2, "reconciled": 4, "once": 8, "address": 16}
NETNS_KINDS = ("none", "container", "translator", "host")
WORKLOAD_KINDS = ("none", "container", "pod", "host")
SOURCES = (
    "none",
    "hook",
    "reconciled",
    "translator",
    "certificate",
    "document",
    "static",
    "hostname",
)
STATES = ("none", "verified", "unverified", "stale")
EVENTS = ("none", "close", "interim", "ownership")
ROLES = ("unknown", "client", "server")
ENDS = (
    "unknown",
    "fin",
    "rst_sent",
    "rst_received",
    "timeout",
    "refused",
    "unreachable",
    "aborted",
)
RULES = ("none", "cgroup", "netns", "socket", "port", "block", "host")
REASONS = (
    "none",
    "unclaimed_container",
    "foreign_process",
    "unpublished",
    "activated",
    "contested",
    "expired",
    "degraded",
    "no_claim",
)
COUNTERS = (
    "records",
    "lost_ring",
    "lost_storage",
    "lost_socket",
    "lost_close",
    "rescued",
    "missed_open",
    "late",
    "cgroup_inherited",
    "cgroup_unclaimed",
    "cgroup_tombstoned",
    "cgroup_full",
    "consumed",
    "opened",
    "unborn",
    "interim",
    "interim_deferred",
    "ownership",
)
COUNTER_SLOTS = 32


class Layout:
    """One C struct: its name and its fields as (name, struct format), in order, with explicit padding.

    Padding is a field named `pad` with an `x` format. pack() takes the others by position, unpack()
    returns them as a tuple in the same order; names lists them.
    """

    __slots__ = ("fields", "name", "names", "pack", "size", "unpack", "unpack_from")

    def __init__(self, name: str, *fields: tuple[str, str]) -> None:
        packer = Struct("=" + "".join(code for _, code in fields))
        self.name = name
        self.fields = fields
        self.names = tuple(field for field, _ in fields if field != "pad")
        self.size = packer.size
        self.pack = packer.pack
        self.unpack = packer.unpack
        self.unpack_from = packer.unpack_from


ID = Layout("__u64", ("id", "Q"))
OWNER = Layout("ft_owner", ("workload", "Q"), ("since", "Q"), ("until", "Q"), ("flags", "I"), ("pad", "4x"))
GAP = Layout("ft_gap", ("since", "Q"), ("by", "Q"))
NETNS = Layout(
    "ft_netns",
    ("workload", "Q"),
    ("since", "Q"),
    ("until", "Q"),
    ("flags", "I"),
    ("pad", "4x"),
    ("kind", "I"),
    ("pad", "4x"),
)
PORT_KEY = Layout(
    "ft_port_key",
    ("address", "16s"),
    ("netns", "Q"),
    ("port", "H"),
    ("protocol", "B"),
    ("pad", "5x"),
)
ADDR_KEY = Layout("ft_addr_key", ("prefix_len", "I"), ("address", "16s"), ("port", "2s"), ("pad", "2x"))
WORKLOAD = Layout(
    "ft_workload",
    ("id", "Q"),
    ("start", "Q"),
    ("end", "Q"),
    ("kind", "B"),
    ("source", "B"),
    ("state", "B"),
    ("pad", "5x"),
    ("runtime", "16s"),
    ("container_id", "128s"),
    ("container", "128s"),
    ("pod", "256s"),
    ("namespace", "64s"),
    ("pod_uid", "40s"),
    ("app", "64s"),
    ("image", "256s"),
    ("host", "256s"),
)
EVENT = Layout(
    "ft_event",
    ("cookie", "Q"),
    ("time_open", "Q"),
    ("time_start", "Q"),
    ("time_end", "Q"),
    ("owner", "Q"),
    ("cgroup_id", "Q"),
    ("netns", "Q"),
    ("bytes_sent", "Q"),
    ("bytes_received", "Q"),
    ("segments_sent", "I"),
    ("segments_received", "I"),
    ("segments_retransmitted", "I"),
    ("connect_us", "I"),
    ("rtt_us", "I"),
    ("rtt_min_us", "I"),
    ("generation", "I"),
    ("pid", "I"),
    ("local_address", "16s"),
    ("peer_address", "16s"),
    ("local_port", "H"),
    ("peer_port", "H"),
    ("kind", "B"),
    ("role", "B"),
    ("end_reason", "B"),
    ("rule", "B"),
    ("reason", "B"),
    ("flags", "B"),
    ("pad", "6x"),
    ("comm", "16s"),
)
OWNERSHIP = Layout("ft_ownership", ("owner", "Q"), ("time_start", "Q"), ("time_end", "Q"), ("address", "16s"))
ROOT_MAX = 32
ROOT = Layout("ft_root", ("name", "32s"), ("len", "I"), ("prefix", "I"))
CONFIG_HEAD = Layout("ft_config", ("host_netns", "Q"), ("host_needs_claim", "I"), ("roots", "I"))
COMM_LEN = 16
HOST_MAX = 8
HOST_NEVER = (1 << 64) - 1
HOST = Layout("ft_host", ("workload", "Q"), ("since", "Q"))
STATE = Layout(
    "ft_state",
    ("host_last", "Q"),
    ("gaps", "Q"),
    ("gaps_closed", "Q"),
    ("open_flows", "Q"),
    ("host", f"{HOST_MAX * HOST.size}s"),
    ("interim_before", "Q"),
)

# Pinned maps: kernel map type, key and value layout (None: the kernel's own).
HASH, ARRAY, PERCPU_ARRAY, LPM_TRIE, SK_STORAGE, RINGBUF = 1, 2, 6, 11, 24, 27
INT = Layout("int", ("key", "i"))
INDEX = Layout("__u32", ("index", "I"))
TRAFFIC = Layout(
    "ft_traffic",
    ("time", "Q"),
    ("bytes_sent", "Q"),
    ("bytes_received", "Q"),
    ("segments_sent", "I"),
    ("segments_received", "I"),
    ("segments_retransmitted", "I"),
    ("pad", "4x"),
)
FLOW = Layout(
    "ft_flow",
    ("time_open", "Q"),
    ("owner", "Q"),
    ("published", "Q"),
    ("published_since", "Q"),
    ("state", "I"),
    ("generation", "I"),
    ("connect_us", "I"),
    ("pid", "I"),
    ("role", "B"),
    ("rule", "B"),
    ("reason", "B"),
    ("flags", "B"),
    ("published_rule", "B"),
    ("pad", "3x"),
    ("comm", "16s"),
    ("reported", f"{2 * TRAFFIC.size}s"),
)
MAPS: dict[str, tuple[int, Layout | None, Layout | None]] = {
    "ft_workload": (HASH, ID, WORKLOAD),
    "ft_cgroup": (HASH, ID, OWNER),
    "ft_gap": (ARRAY, INDEX, GAP),
    "ft_netns": (HASH, ID, NETNS),
    "ft_port": (HASH, PORT_KEY, OWNER),
    "ft_addr": (LPM_TRIE, ADDR_KEY, OWNER),
    "ft_socket": (HASH, ID, OWNER),
    "ft_flow": (SK_STORAGE, INT, FLOW),
    "ft_listener": (SK_STORAGE, INT, ID),
    "ft_events": (RINGBUF, None, None),
    "ft_count": (PERCPU_ARRAY, INDEX, ID),
}

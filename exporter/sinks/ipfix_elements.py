# SPDX-License-Identifier: Apache-2.0
"""Information elements of the IPFIX sink: IANA's where there is one, else our own, described by RFC 5610.

docs/sinks/ipfix.md has them as a table, and a test compares the two.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bpf import abi

VARIABLE = 65535
REVERSE_PEN = 29305  # RFC 5103, section 6.1: elements of the direction back
IANA, REVERSE, OWN = "iana", "reverse", "own"

# RFC 5610, sections 3.1, 3.5 and 3.6: code by name; of types also the length on the wire and numpy's code.
TYPES: dict[str, tuple[int, int, str]] = {
    "unsigned8": (1, 1, "u1"),
    "unsigned16": (2, 2, ">u2"),
    "unsigned32": (3, 4, ">u4"),
    "unsigned64": (4, 8, ">u8"),
    "string": (13, VARIABLE, ""),
    "dateTimeMilliseconds": (15, 8, ">u8"),
    "dateTimeNanoseconds": (17, 8, ">u8"),
    "ipv4Address": (18, 4, "V4"),
    "ipv6Address": (19, 16, "V16"),
}
SEMANTICS = {"default": 0, "quantity": 1, "deltaCounter": 3, "identifier": 4, "flags": 5}
UNITS = {"none": 0, "packets": 3, "microseconds": 7}


@dataclass(frozen=True, slots=True)
class Element:
    """One information element. `wire` is what it is sent as, where that is shorter than its type (RFC 7011,
    section 6.2); the last three are told to collectors, of our own elements only.
    """

    name: str
    number: int
    type: str
    space: str = IANA
    wire: str = ""
    semantics: str = "default"
    units: str = "none"
    description: str = ""

    @property
    def length(self) -> int:
        return TYPES[self.wire or self.type][1]

    @property
    def code(self) -> str:
        """For numpy."""
        return TYPES[self.wire or self.type][2]

    def specifier(self, enterprise: int) -> bytes:
        """RFC 7011, section 3.2."""
        if self.space == IANA:
            return struct.pack(">HH", self.number, self.length)
        number = REVERSE_PEN if self.space == REVERSE else enterprise
        return struct.pack(">HHI", self.number | 0x8000, self.length, number)


def _own(name: str, number: int, kind: str, description: str, semantics: str = "default") -> Element:
    units = {"quantity": "microseconds", "deltaCounter": "packets"}.get(semantics, "none")
    return Element(name, number, kind, OWN, "", semantics, units, description)


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"{code} {name}" for code, name in enumerate(names))


_LOCAL = "the end of the flow that is on this host: the source of a client, the destination of a server"
WORKLOAD_ID = _own("flowtagWorkloadId", 1, "unsigned64", f"who owned {_LOCAL}; 0 is nobody", "identifier")
PEER_ID = _own("flowtagPeerWorkloadId", 2, "unsigned64", "who owned the other end, if known", "identifier")
WORKLOAD = _own("flowtagWorkload", 3, "string", "name of the workload: namespace/pod/container, or a host's")
PEER_WORKLOAD = _own("flowtagPeerWorkload", 4, "string", "name of the workload of the other end, if known")
COMM = _own("flowtagProcessName", 5, "string", "name that the process gave itself")
ORIGIN_ID = _own("flowtagOriginId", 6, "unsigned64", "host, boot and ring of the record", "identifier")
ROLE = _own("flowtagRole", 10, "unsigned8", f"of the local end: {_codes(abi.ROLES)}")

_OWN_FIXED = (
    WORKLOAD_ID,
    PEER_ID,
    ORIGIN_ID,
    _own("flowtagSequence", 7, "unsigned64", "counts records of one origin: with it the key", "identifier"),
    _own("flowtagGeneration", 8, "unsigned32", "counts flows of one flowId, a socket", "identifier"),
    _own("flowtagProcessId", 9, "unsigned32", "process that connected; 0 is unknown", "identifier"),
    ROLE,
    _own("flowtagEndReason", 11, "unsigned8", f"how it ended: {_codes(abi.ENDS)}"),
    _own("flowtagAttributedBy", 12, "unsigned8", f"rule that gave the owner: {_codes(abi.RULES)}"),
    _own("flowtagUnattributedReason", 13, "unsigned8", f"why nobody owns it: {_codes(abi.REASONS)}"),
    _own("flowtagFlags", 14, "unsigned8", "1 opened unseen, 8 attributed at close, others internal", "flags"),
    _own("flowtagRetransmitted", 15, "unsigned32", "segments that the local end sent again", "deltaCounter"),
    _own("flowtagConnectTime", 16, "unsigned32", "SYN to established; 2^32-1 is unknown", "quantity"),
    _own("flowtagRoundTripTime", 17, "unsigned32", "smoothed, at the end; 2^32-1 is unknown", "quantity"),
    _own("flowtagLeastRoundTripTime", 18, "unsigned32", "least; 2^32-1 is unknown", "quantity"),
    _own("flowtagCgroupId", 19, "unsigned64", "cgroup v2 id", "identifier"),
    _own("flowtagNetworkNamespace", 20, "unsigned64", "network namespace cookie", "identifier"),
)
_STARTS = (
    Element("flowStartMilliseconds", 152, "dateTimeMilliseconds"),
    Element("flowStartNanoseconds", 156, "dateTimeNanoseconds"),
)
_COMMON = (
    Element("sourceTransportPort", 7, "unsigned16"),
    Element("destinationTransportPort", 11, "unsigned16"),
    Element("protocolIdentifier", 4, "unsigned8"),
    Element("octetDeltaCount", 1, "unsigned64"),
    Element("packetDeltaCount", 2, "unsigned64", wire="unsigned32"),
    Element("reverseOctetDeltaCount", 1, "unsigned64", REVERSE),
    Element("reversePacketDeltaCount", 2, "unsigned64", REVERSE, wire="unsigned32"),
    Element("flowEndMilliseconds", 153, "dateTimeMilliseconds"),
    Element("flowEndNanoseconds", 157, "dateTimeNanoseconds"),
    Element("flowEndReason", 136, "unsigned8"),
    Element("biflowDirection", 239, "unsigned8"),
    Element("flowId", 148, "unsigned64"),
    *_OWN_FIXED,
)
TEXTS = (WORKLOAD, PEER_WORKLOAD, COMM)
_V4 = (Element("sourceIPv4Address", 8, "ipv4Address"), Element("destinationIPv4Address", 12, "ipv4Address"))
_V6 = (Element("sourceIPv6Address", 27, "ipv6Address"), Element("destinationIPv6Address", 28, "ipv6Address"))


@dataclass(frozen=True, slots=True)
class Template:
    """Fields in their order; the first `scope` of them are the scope of an options template (0: none)."""

    number: int
    fields: tuple[Element, ...]
    scope: int = 0

    @property
    def fixed(self) -> np.dtype[np.void]:
        """Fields of fixed length, without gaps, as they are sent."""
        return np.dtype([(field.name, field.code) for field in self.fields if field.length != VARIABLE])

    def record(self, enterprise: int) -> bytes:
        """The (options) template record: RFC 7011, sections 3.4.1 and 3.4.2.2."""
        head = struct.pack(">HH", self.number, len(self.fields))
        if self.scope:
            head += struct.pack(">H", self.scope)
        return head + b"".join(field.specifier(enterprise) for field in self.fields)


# An adopted flow's opening was not seen: its template has no start.
FLOW_V4 = Template(256, (*_V4, *_STARTS, *_COMMON, *TEXTS))
FLOW_V4_ADOPTED = Template(257, (*_V4, *_COMMON, *TEXTS))
FLOW_V6 = Template(258, (*_V6, *_STARTS, *_COMMON, *TEXTS))
FLOW_V6_ADOPTED = Template(259, (*_V6, *_COMMON, *TEXTS))
FLOWS = (FLOW_V4, FLOW_V4_ADOPTED, FLOW_V6, FLOW_V6_ADOPTED)

# RFC 5610, section 3.9.
TYPE = Template(
    512,
    (
        Element("privateEnterpriseNumber", 346, "unsigned32"),
        Element("informationElementId", 303, "unsigned16"),
        Element("informationElementDataType", 339, "unsigned8"),
        Element("informationElementSemantics", 344, "unsigned8"),
        Element("informationElementUnits", 345, "unsigned16"),
        Element("informationElementRangeBegin", 342, "unsigned64"),
        Element("informationElementRangeEnd", 343, "unsigned64"),
        Element("informationElementName", 341, "string"),
        Element("informationElementDescription", 340, "string"),
    ),
    scope=2,
)
ORIGIN = Template(
    513,
    (
        ORIGIN_ID,
        _own("flowtagRing", 21, "unsigned32", "map id of the ring of the record", "identifier"),
        _own("flowtagHostId", 22, "string", "/etc/machine-id"),
        _own("flowtagBootId", 23, "string", "the kernel's boot id"),
    ),
    scope=1,
)
# By field of exporter.label.Label; `labels` are records of their own.
WORKLOAD_FIELDS = {
    "workload": WORKLOAD,
    "workload_kind": _own("flowtagWorkloadKind", 24, "string", "container, pod, host or none"),
    "app": _own("flowtagApp", 25, "string", "application of the workload"),
    "namespace": _own("flowtagNamespace", 26, "string", "Kubernetes namespace"),
    "pod": _own("flowtagPod", 27, "string", "Kubernetes pod"),
    "container": _own("flowtagContainer", 28, "string", "name of the container"),
    "container_id": _own("flowtagContainerId", 29, "string", "id of the container"),
    "image": _own("flowtagImage", 30, "string", "image of the container"),
    "runtime": _own("flowtagRuntime", 31, "string", "engine or runtime of the container"),
    "identity_source": _own("flowtagIdentitySource", 32, "string", "who says who it is"),
    "identity_state": _own("flowtagIdentityState", 33, "string", "verified, unverified or stale"),
}
NAMES = Template(514, (WORKLOAD_ID, *WORKLOAD_FIELDS.values()), scope=1)
LABELS = Template(
    515,
    (
        WORKLOAD_ID,
        _own("flowtagLabelKey", 34, "string", "key of a label of the workload"),
        _own("flowtagLabelValue", 35, "string", "its value"),
    ),
    scope=2,
)
OPTIONS = (TYPE, ORIGIN, NAMES, LABELS)
OWN_ELEMENTS = tuple(
    sorted(
        {field for template in (*FLOWS, *OPTIONS) for field in template.fields if field.space == OWN},
        key=lambda field: field.number,
    )
)

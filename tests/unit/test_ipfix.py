# SPDX-License-Identifier: Apache-2.0
"""IPFIX messages, read by a reader that knows RFC 7011 and not how they were made: tests/rig/ipfix.py."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpf import abi
from bpf.error import FlowtagError
from exporter import records
from exporter.batch import Batch
from exporter.config import Config
from exporter.config_file import _value
from exporter.label import NOBODY, Label
from exporter.sinks import ipfix, ipfix_elements
from exporter.sinks.config import Ipfix
from exporter.sinks.ipfix import Session
from exporter.sinks.ipfix_message import by_record, fields, variable
from exporter.sinks.kinds import open_sink
from exporter.sinks.tls import Tls
from tests.rig.batches import ORIGIN, OTHER, OWNER, batch
from tests.rig.ipfix import PLAIN, REVERSE, VARIABLE, Message, Reader, Record

PAGE = (Path(__file__).resolve().parents[2] / "docs/sinks/ipfix.md").read_text(encoding="utf-8")
PEN = 32473
FLOWS = range(256, 260)
# IANA's registry "IP Flow Information Export (IPFIX) Entities": number, octets that it is sent in.
REGISTERED = {
    "octetDeltaCount": (1, 8),
    "packetDeltaCount": (2, 4),
    "protocolIdentifier": (4, 1),
    "sourceTransportPort": (7, 2),
    "sourceIPv4Address": (8, 4),
    "destinationTransportPort": (11, 2),
    "destinationIPv4Address": (12, 4),
    "sourceIPv6Address": (27, 16),
    "destinationIPv6Address": (28, 16),
    "flowEndReason": (136, 1),
    "flowId": (148, 8),
    "flowStartMilliseconds": (152, 8),
    "flowEndMilliseconds": (153, 8),
    "flowStartNanoseconds": (156, 8),
    "flowEndNanoseconds": (157, 8),
    "biflowDirection": (239, 1),
    "informationElementId": (303, 2),
    "informationElementDataType": (339, 1),
    "informationElementDescription": (340, VARIABLE),
    "informationElementName": (341, VARIABLE),
    "informationElementRangeBegin": (342, 8),
    "informationElementRangeEnd": (343, 8),
    "informationElementSemantics": (344, 1),
    "informationElementUnits": (345, 2),
    "privateEnterpriseNumber": (346, 4),
}
OWN = {element.name: element.number for element in ipfix_elements.OWN_ELEMENTS}


class Kept:
    """A transport that keeps what it is given, as datagrams or one after the other."""

    def __init__(self, burst: int = 1 << 30) -> None:
        self.burst = burst
        self.sent: list[bytes] = []

    def send(self, messages: memoryview, deadline: float) -> None:
        self.sent.append(bytes(messages))

    def settle(self, deadline: float) -> None:
        pass

    def alive(self) -> bool:
        return True

    def close(self, whole: bool) -> None:
        pass

    def take(self) -> list[bytes]:
        taken, self.sent = self.sent, []
        return taken


def config(**values: Any) -> Ipfix:
    return Ipfix(host="collector.example.org", **values)


def sent(*batches: Batch, **values: Any) -> list[Message]:
    """What a stream session carries."""
    kept = Kept()
    session = Session(config(**values), kept)
    for one in batches:
        session.send_batch(one, 0)
    reader = Reader()
    found = reader.stream(b"".join(kept.sent))
    assert reader.lost == 0
    return found


def of(messages: list[Message], *templates: int) -> list[Record]:
    return [record for message in messages for record in message.records if record.template in templates]


def own(record: Record, name: str) -> int:
    return record.number(OWN[name], PEN)


def test_templates_have_the_registered_numbers_and_lengths() -> None:
    kept, reader = Kept(), Reader()
    Session(config(), kept).send_batch(batch(50), 0)
    reader.stream(b"".join(kept.sent))
    by_number = {number: template for (_, number), template in reader.templates.items()}
    assert set(by_number) == {*FLOWS, 512, 513, 514, 515}
    assert {number: template.scope for number, template in by_number.items() if number > 300} == {
        512: 2,
        513: 1,
        514: 1,
        515: 2,
    }
    numbers = dict(REGISTERED.values())
    assert len(numbers) == len(REGISTERED)
    for template in by_number.values():
        assert len(set(template.fields)) == len(template.fields)
        for enterprise, element, length in template.fields:
            if enterprise == REVERSE:
                assert (element, length) in {(1, 8), (2, 4)}
            elif enterprise == PLAIN:
                assert numbers[element] == length
            else:
                assert enterprise == PEN
    for made in (ipfix_elements.TYPE, *ipfix_elements.FLOWS):
        for field in made.fields:
            if field.space == ipfix_elements.IANA:
                assert REGISTERED[field.name] == (field.number, field.length)
    starts = {number: (0, 152, 8) in template.fields for number, template in by_number.items()}
    assert {n: there for n, there in starts.items() if n in FLOWS} == {
        256: True,
        257: False,
        258: True,
        259: False,
    }


def _address(octets: bytes) -> str:
    found = ipaddress.ip_address(octets)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return str(found)


def _time(record: Record, name: str) -> str | None:
    """By both elements: nanoseconds are NTP's, and milliseconds must be of the same moment."""
    milliseconds, ntp = REGISTERED[f"{name}Milliseconds"][0], REGISTERED[f"{name}Nanoseconds"][0]
    if (PLAIN, ntp) not in record.values:
        assert (PLAIN, milliseconds) not in record.values
        return None
    raw = record.number(ntp)
    epoch = int((datetime(1970, 1, 1, tzinfo=UTC) - datetime(1900, 1, 1, tzinfo=UTC)).total_seconds())
    nanoseconds = ((raw >> 32) - epoch) * 10**9 + ((raw & 0xFFFFFFFF) * 10**9 >> 32)
    assert nanoseconds // 10**6 == record.number(milliseconds)
    return str(np.datetime64(nanoseconds, "ns")) + "Z"


def _as_json(record: Record, names: dict[int, Record]) -> dict[str, Any]:
    """A flow record as the record contract has it, without what the sink does not send."""
    values = record.values
    form = (8, 12) if (PLAIN, 8) in values else (27, 28)
    local, peer = (1, 0) if own(record, "flowtagRole") == abi.ROLES.index("server") else (0, 1)
    hosts = [_address(values[PLAIN, element]) for element in form]
    ports = [record.number(7), record.number(11)]
    octets = [record.number(1), record.number(1, REVERSE)]
    segments = [record.number(2), record.number(2, REVERSE)]
    owner = own(record, "flowtagWorkloadId")
    code = {name: own(record, f"flowtag{name}") for name in ("Role", "EndReason", "AttributedBy")}
    flags = own(record, "flowtagFlags")

    def unless(name: str, unknown: int) -> int | None:
        number = own(record, f"flowtag{name}")
        return None if number == unknown else number

    def text(name: str) -> str | None:
        return record.text(OWN[name], PEN) or None

    def code_name(number: int, known: tuple[str, ...], null: str = "") -> str | None:
        found = known[number] if number < len(known) else known[0]
        return None if found == null else found

    return {
        "time_start": _time(record, "flowStart"),
        "time_end": _time(record, "flowEnd"),
        "local_address": hosts[local],
        "local_port": ports[local],
        "peer_address": hosts[peer],
        "peer_port": ports[peer],
        "role": code_name(code["Role"], abi.ROLES, "unknown"),
        "end_reason": code_name(code["EndReason"], abi.ENDS),
        "bytes_sent": octets[local],
        "bytes_received": octets[peer],
        "segments_sent": segments[local],
        "segments_received": segments[peer],
        "segments_retransmitted": own(record, "flowtagRetransmitted"),
        "connect_us": unless("ConnectTime", abi.UNKNOWN32),
        "rtt_us": unless("RoundTripTime", abi.UNKNOWN32),
        "rtt_min_us": unless("LeastRoundTripTime", abi.UNKNOWN32),
        "workload": text("flowtagWorkload"),
        "workload_kind": names[owner].text(OWN["flowtagWorkloadKind"], PEN) if owner in names else "none",
        "attributed_by": code_name(code["AttributedBy"], abi.RULES),
        "unattributed_reason": code_name(own(record, "flowtagUnattributedReason"), abi.REASONS, "none"),
        "adopted": bool(flags & abi.FLOW_ADOPTED),
        "pid": unless("ProcessId", 0),
        "comm": text("flowtagProcessName"),
        "peer_workload": text("flowtagPeerWorkload"),
        "sequence": own(record, "flowtagSequence"),
        "cgroup_id": str(own(record, "flowtagCgroupId")),
        "netns": str(own(record, "flowtagNetworkNamespace")),
    }


def test_flow_records_say_what_the_json_lines_say() -> None:
    one = batch(1500)
    chance = np.random.default_rng(3)
    for name in ("segments_sent", "segments_received", "segments_retransmitted", "pid", "generation"):
        one.records[name] = chance.integers(0, 1 << 32, 1500)
    for name in ("bytes_received", "cookie", "cgroup_id", "netns"):
        one.records[name] = chance.integers(0, 1 << 64, 1500, dtype=np.uint64)
    one.records["local_port"], one.records["peer_port"] = 443, chance.integers(0, 1 << 16, 1500)
    messages = sent(one)
    names = {own(record, "flowtagWorkloadId"): record for record in of(messages, 514)}
    found = {own(record, "flowtagSequence"): record for record in of(messages, *FLOWS)}
    lines = [json.loads(line) for line in records.json_lines(one).split("\n")[:-1]]
    assert len(found) == len(of(messages, *FLOWS)) == len(lines) == 1500
    # An IANA code that the record has none of: of codes from a later version JSON says the first.
    for line in lines:
        line["unattributed_reason"] = line["unattributed_reason"] or None
    for line, row in zip(lines, one.records, strict=True):
        record = found[line["sequence"]]
        got = _as_json(record, names)
        assert got == {name: line[name] for name in got}
        assert record.number(148) == row["cookie"]
        assert own(record, "flowtagGeneration") == row["generation"]
        assert record.number(4) == 6
        assert record.number(136) == 3
        assert record.number(239) == (1 if line["role"] in ("client", "server") else 0)
    assert {record.template for record in found.values()} == set(FLOWS)


def test_reverse_elements_count_what_the_destination_sent() -> None:
    one = batch(2)
    one.records["role"] = [abi.ROLES.index("client"), abi.ROLES.index("server")]
    one.records["bytes_sent"], one.records["bytes_received"] = 10, 2000
    one.records["segments_sent"], one.records["segments_received"] = 3, 40
    one.records["local_port"], one.records["peer_port"] = 50, 60
    flows = sorted(of(sent(one), *FLOWS), key=lambda record: own(record, "flowtagSequence"))
    told = [
        (
            r.number(7),
            r.number(11),
            r.number(1),
            r.number(2),
            r.number(1, REVERSE),
            r.number(2, REVERSE),
        )
        for r in flows
    ]
    assert told == [(50, 60, 10, 3, 2000, 40), (60, 50, 2000, 40, 10, 3)]


def test_own_elements_are_described_before_the_first_flow() -> None:
    """RFC 5610: with a type, a range and a name for each element that a template has."""
    kept, reader = Kept(), Reader()
    Session(config(enterprise=4242), kept).send_batch(batch(50), 0)
    messages = reader.stream(b"".join(kept.sent))
    order = [record.template for message in messages for record in message.records]
    assert order.index(min(FLOWS)) > max(place for place, number in enumerate(order) if number == 512)
    used = {
        (element, length)
        for template in reader.templates.values()
        for enterprise, element, length in template.fields
        if enterprise == 4242
    }
    types = of(messages, 512)
    assert {(r.number(346), r.number(303)) for r in types} == {(4242, element) for element, _ in used}
    lengths = {1: 1, 2: 2, 3: 4, 4: 8, 13: VARIABLE}
    assert {(r.number(303), lengths[r.number(339)]) for r in types} == used
    for record in types:
        name, octets = record.text(341, PLAIN), lengths[record.number(339)]
        assert name.startswith("flowtag")
        assert record.text(340, PLAIN)
        assert (record.number(342), record.number(343)) == (
            0,
            0 if octets == VARIABLE else (1 << 8 * octets) - 1,
        )
    assert len({record.text(341, PLAIN) for record in types}) == len(types)


def test_workloads_labels_and_origin_are_told_once_and_again_when_they_change() -> None:
    one = batch(20)
    changed = dataclasses.replace(
        one, labels={**one.labels, OTHER: Label(workload="vm-2", labels={"k": "v"})}
    )
    kept, reader = Kept(), Reader()
    session = Session(config(), kept)
    told = []
    for each in (one, one, changed):
        session.send_batch(each, 0)
        messages = reader.stream(b"".join(kept.take()))
        names = [(own(r, "flowtagWorkloadId"), r.text(3, PEN)) for r in of(messages, 514)]
        labels = [(own(r, "flowtagWorkloadId"), r.text(34, PEN), r.text(35, PEN)) for r in of(messages, 515)]
        told.append((len(of(messages, 513)), sum(m.described for m in messages), names, labels))
    assert told == [
        (
            1,
            8,
            [(OWNER, "shop/web-0/nginx"), (OTHER, "vm")],
            [(OWNER, "a", "1"), (OWNER, "q", '"\u2028')],
        ),
        (0, 0, [], []),
        (0, 0, [(OTHER, "vm-2")], [(OTHER, "k", "v")]),
    ]


def test_origin_says_host_boot_and_ring() -> None:
    messages = sent(batch(3))
    (origin,) = of(messages, 513)
    assert (origin.text(22, PEN), origin.text(23, PEN)) == (ORIGIN.host_id, ORIGIN.boot_id)
    assert own(origin, "flowtagRing") == ORIGIN.ring
    assert {own(flow, "flowtagOriginId") for flow in of(messages, *FLOWS)} == {own(origin, "flowtagOriginId")}


@pytest.mark.parametrize(("descriptions", "domains"), [("zero", {0}), ("same", {77}), ("off", set[int]())])
def test_descriptions_go_where_they_are_wanted(descriptions: str, domains: set[int]) -> None:
    messages = sent(batch(30), descriptions=descriptions, observation_domain=77)
    assert {record.domain for record in of(messages, *range(512, 516))} == domains
    assert {record.domain for record in of(messages, *FLOWS)} == {77}


def test_hosts_have_different_observation_domains_that_are_not_zero() -> None:
    domains = {ipfix.domain_of(f"{number:032x}") for number in range(1000)}
    assert len(domains) == 1000
    assert 0 not in domains


@pytest.mark.parametrize(("transport", "burst", "most"), [("udp", 1, 1400), ("tcp", 1 << 30, 32_768)])
def test_messages_fit_and_count_their_records(transport: str, burst: int, most: int) -> None:
    kept = Kept(burst)
    session = Session(config(transport=transport), kept)
    for number in range(0, 3000, 1000):
        session.send_batch(batch(1000, number), 0)
    reader = Reader()
    messages = reader.datagrams(kept.sent) if transport == "udp" else reader.stream(b"".join(kept.sent))
    assert reader.lost == 0
    assert max(message.size for message in messages) <= most
    assert sorted(own(r, "flowtagSequence") for r in of(messages, *FLOWS)) == list(range(3000))
    # RFC 7011, section 3.1: templates do not count; those of one domain do not for another.
    counts = Counter[int]()
    for message in messages:
        assert message.sequence == counts[message.domain]
        counts[message.domain] += len(message.records)


def test_sequence_begins_again_after_its_last_number() -> None:
    kept = Kept()
    session = Session(config(observation_domain=9), kept)
    session._sequence[9] = (1 << 32) - 100
    session.send_batch(batch(1000), 0)
    reader = Reader()
    messages = [message for message in reader.stream(b"".join(kept.sent)) if message.domain == 9]
    assert reader.lost == 0
    assert messages[0].sequence == (1 << 32) - 100
    assert 0 < messages[-1].sequence < 1000


def test_lost_datagrams_are_a_gap_in_the_sequence() -> None:
    kept = Kept(burst=1)
    Session(config(transport="udp"), kept).send_batch(batch(1000), 0)
    flows = [octets for octets in kept.sent if octets[16:18] in (b"\1\0", b"\1\1", b"\1\2", b"\1\3")]
    reader = Reader()
    gone = kept.sent.index(flows[len(flows) // 2])
    got = reader.datagrams(kept.sent[:gone] + kept.sent[gone + 1 :])
    assert 0 < reader.lost == 1000 - len(of(got, *FLOWS))


def test_templates_come_again_on_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("exporter.sinks.ipfix.time.monotonic", lambda: now)
    kept, reader = Kept(burst=1), Reader()
    session = Session(config(transport="udp", template_seconds=60, template_messages=100), kept)

    def told(count: int) -> tuple[int, int]:
        session.send_batch(batch(count), 0)
        messages = reader.datagrams(kept.take())
        return sum(message.described for message in messages), len(of(messages, 514))

    assert told(10) == (8, 2)
    assert told(10) == (0, 0)
    now += 60
    assert told(10) == (8, 2)
    now += 1
    assert told(1500) == (0, 0)
    assert told(10) == (8, 0)


def test_templates_come_once_on_a_stream() -> None:
    messages = sent(*(batch(1000) for _ in range(3)), template_messages=10)
    assert sum(message.described for message in messages) == 8


SIZES = (0, 1, 254, 255, 256, 65_532, 65_535)


@pytest.mark.parametrize("size", SIZES)
def test_strings_of_any_size_are_read_back(size: int) -> None:
    encoded = variable(b"x" * size)
    assert encoded[: 1 if size < 255 else 3] == (bytes([size]) if size < 255 else b"\xff" + size.to_bytes(2))
    assert len(encoded) == size + (1 if size < 255 else 3)


TEXT = st.one_of(
    st.tuples(st.text(max_size=40), st.just(1)),
    st.tuples(st.sampled_from(["x", "é", "\U0001f980"]), st.sampled_from(SIZES)),
)
Text = tuple[str, int]
"""What, and how often."""


@given(
    st.lists(st.tuples(TEXT, TEXT, st.binary(max_size=16)), min_size=1, max_size=6),
    st.integers(1200, 65_535),
    st.sampled_from(["tcp", "udp"]),
)
@settings(max_examples=25, deadline=None, database=None)
def test_any_names_fit_any_messages(drawn: list[tuple[Text, Text, bytes]], room: int, transport: str) -> None:
    """None is left out; where they do not fit, all that is lost is their end."""
    rows = [(name[0] * name[1], app[0] * app[1], comm) for name, app, comm in drawn]
    one = batch(len(rows))
    one.records["owner"] = np.arange(len(rows)) + abi.OWNER_SPECIAL + 1
    one.peers[:] = one.records["owner"]
    one.records["comm"] = np.array([comm for _, _, comm in rows], "S16").view("V16")
    labels = {
        owner: Label(workload=name, app=label, labels={label: name})
        for owner, (name, label, _) in zip(one.records["owner"].tolist(), rows, strict=True)
    }
    one = dataclasses.replace(one, labels=labels)
    messages = sent(one, message_bytes=room, transport=transport)
    assert max(message.size for message in messages) <= room
    flows = {own(record, "flowtagSequence"): record for record in of(messages, *FLOWS)}
    assert len(flows) == len(rows)
    longest = max(len(text.encode(errors="replace")) for row in rows for text in row[:2])
    for number, (name, _, comm) in enumerate(rows):
        texts = [
            flows[number].text(OWN[f"flowtag{n}"], PEN) for n in ("Workload", "PeerWorkload", "ProcessName")
        ]
        whole = [name, name, comm.split(b"\0")[0].decode(errors="replace")]
        for text, full in zip(texts, (each.encode(errors="replace").decode() for each in whole), strict=True):
            assert full.startswith(text)
            assert text == full or 2 * longest + 200 > room // 2
    told = {own(r, "flowtagWorkloadId"): r for r in of(messages, 514)}
    for owner, label in labels.items():
        if label.workload:
            assert label.workload.encode(errors="replace").decode().startswith(told[owner].text(3, PEN))


@given(
    st.lists(st.lists(TEXT, min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(200, 65_535),
)
@settings(max_examples=25, deadline=None, database=None)
def test_fields_leave_the_room_that_they_were_given(drawn: list[list[Text]], room: int) -> None:
    columns = [[text * often for text, often in column] for column in drawn]
    made = fields(columns, room)
    assert sum(max(map(len, column)) for column in made) <= room
    sizes = [max(len(t.encode(errors="replace")) for t in column) for column in columns]
    if sum(sizes) + 3 * len(sizes) <= room:
        assert made == [[variable(t.encode(errors="replace")) for t in column] for column in columns]


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=60), st.integers(1200, 5000))
def test_records_are_in_their_order_and_whole(contents: list[bytes], room: int) -> None:
    runs = list(by_record(contents, 300, room))
    assert sum(run.records for run in runs) == len(contents)
    assert b"".join(run.data[0, 20:].tobytes() for run in runs) == b"".join(contents)
    assert all(run.data.shape[1] <= room for run in runs)


def test_nobody_has_no_name_and_no_id() -> None:
    one = batch(4)
    one.records["owner"] = [0, abi.OWNER_CONTESTED, abi.OWNER_SPECIAL, 12345678]
    flows = of(sent(dataclasses.replace(one, labels={12345678: NOBODY})), *FLOWS)
    assert {r.text(3, PEN) for r in flows} == {""}
    assert sorted(own(r, "flowtagWorkloadId") for r in flows) == [0, 0, 0, 12345678]


def test_ownership_records_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    one = batch(6)
    one.records["kind"][::3] = abi.EVENTS.index("ownership")
    one.records["kind"][1] = abi.EVENTS.index("interim")
    kept = Kept()
    monkeypatch.setattr("exporter.sinks.ipfix.ipfix_transport.connect", lambda *_: kept)
    sink = open_sink(config())
    assert isinstance(sink, ipfix.IpfixCollector)
    sink.deliver(one)
    flows = of(Reader().stream(b"".join(kept.sent)), *FLOWS)
    assert {own(r, "flowtagSequence"): r.number(136) for r in flows} == {1: 2, 2: 3, 4: 3, 5: 3}
    assert sink.left_out == 2


def _bad() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"host": ""}, "host is ''"
    yield {"host": "a b"}, "host is 'a b'"
    yield {"transport": "sctp"}, "use one of tcp, tls, udp"
    yield {"descriptions": "on"}, "use one of zero, same, off"
    yield {"port": 65536}, "use 0 to 65535"
    yield {"enterprise": 0}, "use 1 to"
    yield {"message_bytes": 1199}, "use 0, or 1200 to 65535"
    yield {"message_bytes": 65536}, "use 0, or 1200 to 65535"
    yield {"tls": Tls(ca="/ca.pem")}, 'use transport = "tls"'
    yield {"transport": "udp", "tls": Tls(ca="/ca.pem")}, 'use transport = "tls"'
    for name in ("template_seconds", "template_messages", "messages_per_second", "timeout_seconds"):
        yield {name: 0}, name


@pytest.mark.parametrize(("values", "says"), list(_bad()))
def test_bad_values_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(FlowtagError) as raised:
        Ipfix(**{"host": "localhost", **values})
    assert says in f"{raised.value}; {raised.value.hint}"


def test_port_is_the_registered_one() -> None:
    ports = [Ipfix("localhost", transport=transport).used_port for transport in ("udp", "tcp", "tls")]
    assert ports == [4739, 4739, 4740]
    assert Ipfix("localhost", port=9).used_port == 9


def test_page_has_every_element() -> None:
    rows = re.findall(
        r"^\| (IANA|29305|own) \| (\d+) \| (\w+) \| (\w+) \| (\w+) \| [^|]+ \| ([^|]*)\|$", PAGE, re.MULTILINE
    )
    spaces = {"iana": "IANA", "reverse": "29305", "own": "own"}
    templates = (*ipfix_elements.FLOWS, *ipfix_elements.OPTIONS)
    expected = {
        (
            spaces[element.space],
            str(element.number),
            element.name,
            element.type,
            "variable" if element.length == VARIABLE else str(element.length),
            element.description,
        )
        for template in templates
        for element in template.fields
    }
    found = [(*row[:5], row[5].strip()) for row in rows]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_page_has_every_key_and_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*)\|", PAGE, re.MULTILINE))
    keys = {entry.name: entry for entry in dataclasses.fields(Ipfix) if entry.name != "tls"}
    assert set(rows) == set(keys)
    for name, default in rows.items():
        assert default.strip() == str("" if name == "host" else keys[name].default)
    for entry in dataclasses.fields(Tls):
        assert f"`tls.{entry.name}`" in PAGE


def test_page_has_examples_that_are_configurations() -> None:
    examples = [
        block.replace("\n    ", "\n")
        for block in re.findall(r"(?:\n    .*|\n(?=\n    ))+", PAGE)
        if "[sinks." in block
    ]
    kinds = [_value(Config, tomllib.loads(text), "").sinks["flows"] for text in examples]
    assert [kind.transport for kind in kinds] == ["tls", "udp"]

# SPDX-License-Identifier: Apache-2.0
"""Records as text: every name of the contract, null for what is unknown, one line each."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from exporter import record_table, records
from exporter.batch import Origin
from exporter.config import Identity
from exporter.describe import Describer
from exporter.ring import DTYPE, Batch
from exporter.workloads import Workloads
from identity import address
from identity.names import Names
from identity.workload import KIND_CONTAINER, Workload

ORIGIN = Origin("host-id", "boot-id", 7)
DESCRIBER = Describer(Identity(), [])
OWNER = 1 << 40
NAMES = [
    "kind", "time_open", "time_start", "time_end", "local_address", "local_port", "peer_address",
    "peer_port", "peer_address_v4", "role", "end_reason", "bytes_sent", "bytes_received",
    "segments_sent", "segments_received", "segments_retransmitted", "connect_us", "rtt_us",
    "rtt_min_us", "workload", "workload_kind", "app", "namespace", "pod", "container",
    "container_id", "image", "runtime", "labels", "attributed_by", "unattributed_reason",
    "attributed_at", "adopted", "identity_source", "identity_state", "pid", "comm", "peer_workload",
    "host_id", "boot_id", "ring", "batch", "sequence", "flow_id", "cgroup_id", "netns",
]  # fmt: skip


class OneWorkload(Workloads):
    """Workloads without a map: the kernel tests read the real one."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload

    def get(self, workload_id: int) -> Workload | None:
        return self._workload if workload_id == self._workload.id > 0 else None


def batch(**values: Any) -> Batch:
    rows = np.zeros(1, DTYPE)
    values = {
        "kind": 1,
        "local_address": np.void(address.from_text("192.0.2.1")),
        "peer_address": np.void(address.from_text("2001:db8::1")),
        **values,
    }
    for name, value in values.items():
        rows[name] = value
    return Batch(rows, np.array([41], np.uint64), 1, 0)


def record(workload: Workload | None = None, **values: Any) -> dict[str, Any]:
    text = records.json_lines(
        records.live(batch(**values), OneWorkload(workload or Workload()), ORIGIN, DESCRIBER)
    )
    assert text.count("\n") == 1
    found: dict[str, Any] = json.loads(text)
    return found


def test_json_has_every_name_of_the_contract() -> None:
    assert sorted(record()) == sorted(NAMES)


def test_json_unknown_is_null() -> None:
    found = record(connect_us=abi.UNKNOWN32, rtt_us=abi.UNKNOWN32, rtt_min_us=abi.UNKNOWN32, reason=8)
    for name in ("connect_us", "rtt_us", "rtt_min_us", "role", "workload", "pid", "comm", "app"):
        assert found[name] is None, name
    assert found["workload_kind"] == "none"
    assert found["attributed_by"] == "none"
    assert found["attributed_at"] is None
    assert found["unattributed_reason"] == "no_claim"


def test_json_workload_names() -> None:
    workload = Workload(
        id=OWNER, kind=KIND_CONTAINER, source=1, state=1, container="web", container_id="ab" * 32
    )
    found = record(workload, owner=OWNER, rule=1, flags=abi.FLOW_ATTR_AT_CLOSE, role=2)
    assert found["workload"] == "web"
    assert found["workload_kind"] == "container"
    assert found["identity_source"] == "hook"
    assert found["attributed_by"] == "cgroup"
    assert found["attributed_at"] == "close"
    assert found["unattributed_reason"] is None
    assert found["role"] == "server"


def test_json_addresses_ids_and_times() -> None:
    found = record(cgroup_id=1 << 60, netns=5, cookie=9, generation=2, time_end=1)
    assert found["local_address"] == "192.0.2.1"
    assert found["peer_address"] == "2001:db8::1"
    assert found["cgroup_id"] == str(1 << 60)
    assert found["netns"] == "5"
    assert found["flow_id"] == "host-id/boot-id/9/2"
    assert found["sequence"] == 41
    assert len(found["time_end"]) == len("2026-11-23T23:05:13.123456789Z")
    assert found["time_end"].endswith("Z")


def test_json_adopted_has_no_opening() -> None:
    found = record(flags=abi.FLOW_ADOPTED, time_open=5, time_start=5)
    assert found["adopted"] is True
    assert found["time_open"] is None
    assert found["time_start"] is None


def test_json_adopted_has_a_start_from_its_second_record_on() -> None:
    found = record(flags=abi.FLOW_ADOPTED, time_open=5, time_start=6)
    assert found["time_open"] is None
    assert found["time_start"] is not None


def test_json_interim_has_no_end() -> None:
    found = record(kind=abi.EVENT_INTERIM, bytes_sent=7)
    assert (found["kind"], found["end_reason"], found["bytes_sent"]) == ("interim", None, 7)


def test_json_ownership_says_address_owner_and_interval_only() -> None:
    workload = Workload(id=OWNER, kind=KIND_CONTAINER, source=1, state=1, container="web")
    unknown = dict.fromkeys(("connect_us", "rtt_us", "rtt_min_us"), abi.UNKNOWN32)
    found = record(workload, kind=abi.EVENT_OWNERSHIP, owner=OWNER, rule=2, **unknown)
    assert (found["kind"], found["local_address"], found["workload"]) == ("ownership", "192.0.2.1", "web")
    for name in (*records.NOT_OWNERSHIP, *unknown, "role", "end_reason", "pid", "comm"):
        assert found[name] is None, name


@given(st.binary(min_size=16, max_size=16))
def test_json_comm_is_untrusted(comm: bytes) -> None:
    found = record(comm=np.void(comm))
    assert found["comm"] is None or isinstance(found["comm"], str)


@given(st.text())
def test_json_workload_name_is_untrusted(name: str) -> None:
    found = record(Workload(id=OWNER, container=name, container_id="x"), owner=OWNER)
    assert isinstance(found["workload"], str)


def test_codes_of_a_newer_version_do_not_raise() -> None:
    codes: dict[str, Any] = dict.fromkeys(("kind", "end_reason", "rule", "reason", "role"), 200)
    assert record(**codes)["end_reason"] == "unknown"
    assert (
        records.table(records.live(batch(**codes), OneWorkload(Workload()), ORIGIN, DESCRIBER)).count("?")
        == 3
    )


def test_no_records_no_text() -> None:
    empty = Batch(np.zeros(0, DTYPE), np.zeros(0, np.uint64), 0, 0)
    assert records.json_lines(records.live(empty, OneWorkload(Workload()), ORIGIN, DESCRIBER)) == ""
    assert records.table(records.live(empty, OneWorkload(Workload()), ORIGIN, DESCRIBER)) == ""


class Renaming:
    """A source whose container is called otherwise each time it is asked."""

    name = "renaming"

    def __init__(self) -> None:
        self.asked = 0

    def names(self, workload: Workload) -> Names | None:
        self.asked += 1
        return Names(f"web{self.asked}", image="shop:1", labels={"z": "1", "a": 'q"\n', "m": "\u2028"})

    def close(self) -> None:
        pass


def many(owners: list[int]) -> Batch:
    rows = np.zeros(len(owners), DTYPE)
    rows["owner"] = owners
    return Batch(rows, np.arange(len(owners), dtype=np.uint64), len(owners), 0)


def test_records_have_the_names_that_are_in_force_at_their_batch() -> None:
    workload = Workload(id=OWNER, kind=KIND_CONTAINER, runtime="docker", container_id="ab" * 32)
    source = Renaming()
    describer = Describer(Identity(), [source])
    for expected in ("web1", "web2"):
        text = records.json_lines(records.live(many([OWNER] * 50), OneWorkload(workload), ORIGIN, describer))
        found = [json.loads(line) for line in text.split("\n") if line]
        assert len(found) == 50
        assert {record["workload"] for record in found} == {expected}
        assert {record["container"] for record in found} == {expected}
        assert found[0]["image"] == "shop:1"
        assert list(found[0]["labels"].items()) == [("a", 'q"\n'), ("m", "\u2028"), ("z", "1")]
    assert " web3 " in records.table(
        records.live(many([OWNER] * 50), OneWorkload(workload), ORIGIN, describer)
    )
    assert source.asked == 3, "once for each distinct owner of a batch"


def test_nobody_has_no_labels() -> None:
    assert record()["labels"] == {}


def test_arrow_is_null_where_json_is_for_every_kind() -> None:
    unknown = dict.fromkeys(("connect_us", "rtt_us", "rtt_min_us"), abi.UNKNOWN32)
    rows = np.concatenate([batch(kind=kind, **unknown).records for kind in (1, 2, 3)])
    taken = Batch(rows, np.arange(3, dtype=np.uint64), 3, 0)
    made = records.live(taken, OneWorkload(Workload()), ORIGIN, DESCRIBER)
    numbered = dataclasses.replace(made, number=1)
    lines = [json.loads(line) for line in records.json_lines(numbered).splitlines()]
    for line, row in zip(lines, record_table.table(numbered).to_pylist(), strict=True):
        assert [name for name in line if (line[name] is None) != (row[name] is None)] == []

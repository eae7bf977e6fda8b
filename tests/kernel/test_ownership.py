# SPDX-License-Identifier: Apache-2.0
"""Heartbeats: of which entries of ft_addr, for which interval, and not where the workload was heard."""

from __future__ import annotations

from bpf import abi
from exporter.ownership import Ownership
from identity import address
from identity.claim import Claim
from identity.workload import KIND_CONTAINER, Workload
from tests.rig.kernel import Watch

WEB, SHOP, GONE = 1 << 40, 1 << 41, 1 << 42


def _put(watch: Watch, text: str, owner: int, *, since: int = 100, until: int = 0, flags: int = 16) -> None:
    key = abi.ADDR_KEY.pack(128, address.from_text(text), bytes(2))
    watch.map("ft_addr").update(key, Claim(owner, since, until, flags).pack())


def _workload(watch: Watch, number: int, end: int = 0) -> None:
    made = Workload(id=number, kind=KIND_CONTAINER, start=1, end=end, container="web")
    watch.map("ft_workload").update(abi.ID.pack(number), made.pack())


def _told(watch: Watch) -> list[tuple[str, int, int, int]]:
    watch.settle()
    found = watch.everything()
    watch.forget()
    found = found[found["kind"] == abi.EVENT_OWNERSHIP]
    return sorted(
        (
            address.to_text(record["local_address"].tobytes()),
            int(record["owner"]),
            int(record["time_start"]),
            int(record["time_end"]),
        )
        for record in found
    )


def test_heartbeats_of_living_idle_owners_of_unique_addresses_only(kernel: None) -> None:
    with Watch(ring_bytes=1 << 20) as watch:
        for number in (WEB, SHOP):
            _workload(watch, number)
        _workload(watch, GONE, end=150)
        _put(watch, "192.0.2.10", WEB)
        _put(watch, "2001:db8::10", SHOP, since=120)
        _put(watch, "192.0.2.11", GONE)
        _put(watch, "192.0.2.12", WEB, until=140)
        _put(watch, "192.0.2.13", abi.OWNER_CONTESTED)
        _put(watch, "192.0.2.14", WEB, flags=0)  # a translator's
        ownership = Ownership(watch.map("ft_addr"), watch.map("ft_workload"), watch.programs.tell_owner)
        ownership.tell(set(), 200)
        assert _told(watch) == [("192.0.2.10", WEB, 100, 200), ("2001:db8::10", SHOP, 120, 200)]
        ownership.tell({WEB}, 300)
        assert _told(watch) == [("2001:db8::10", SHOP, 200, 300)]
        ownership.tell(set(), 400)
        assert _told(watch) == [("192.0.2.10", WEB, 200, 400), ("2001:db8::10", SHOP, 300, 400)]

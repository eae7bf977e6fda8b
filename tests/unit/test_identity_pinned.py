# SPDX-License-Identifier: Apache-2.0
"""Opening pinned maps: only those of our layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpf.error import FlowtagError, LayoutError
from identity.pinned import open_map
from tests.hook_maps import entry, make_map


def test_open_map_of_our_layout(pin_directory: Path) -> None:
    make_map(pin_directory, "ft_cgroup")
    with open_map("ft_cgroup", str(pin_directory)) as cgroups:
        cgroups.update(entry(7), bytes(32))
        assert cgroups.get(entry(7)) == bytes(32)


@pytest.mark.parametrize(("kind", "value"), [("hash", 40), ("lru_hash", 32)])
def test_open_map_of_another_layout(pin_directory: Path, kind: str, value: int) -> None:
    make_map(pin_directory, "ft_cgroup", kind=kind, value=value)
    with pytest.raises(LayoutError, match="ft_cgroup") as caught:
        open_map("ft_cgroup", str(pin_directory))
    assert "type 1, key 8 and value 32 bytes" in str(caught.value)
    assert f"value {value} bytes" in str(caught.value)
    assert "flowtag maps create" in caught.value.hint


def test_open_map_missing(tmp_path: Path) -> None:
    with pytest.raises(FlowtagError, match="ft_netns: it does not exist") as caught:
        open_map("ft_netns", str(tmp_path))
    assert caught.value.hint == "run `flowtag maps create`"


def test_open_map_not_a_pin(tmp_path: Path) -> None:
    (tmp_path / "ft_netns").write_bytes(b"")
    with pytest.raises(FlowtagError, match="opening pinned map"):
        open_map("ft_netns", str(tmp_path))

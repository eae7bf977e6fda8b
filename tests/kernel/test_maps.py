# SPDX-License-Identifier: Apache-2.0
"""`flowtag maps` on real pinned maps: made, filled, dumped, looked up, and refused."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bpf import abi, syscall
from bpf.error import LayoutError
from exporter import programs
from identity import address, cgroup, incarnation, netns
from identity.claim import Claim
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import KIND_CONTAINER, KIND_HOST, Workload
from tests.rig.exporter import COMMAND
from tests.rig.network import Network

CONTAINER_NETNS, TRANSLATOR_NETNS = 1, 2
WEB, OLD_WEB, SHOP, HOST = 0x1111_0000_0001, 0x1111_0000_0002, 0x1111_0000_0003, 0x1111_0000_0004
WEB_ID = "ab" * 32
SHOP_ID = "ac" * 32


@dataclass(frozen=True, slots=True)
class Host:
    """Private maps and a run directory, and the command that works on them."""

    pins: Path
    run: Path
    config: Path

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def lookup(self, target: str, status: int = 0) -> dict[str, Any]:
        done = self.call("maps", "lookup", "--json", target)
        assert (done.returncode, done.stderr) == (status, "")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def put(self, name: str, key: bytes, value: bytes) -> None:
        with open_map(name, str(self.pins)) as pinned:
            pinned.update(key, value)

    def claim(self, name: str, key: int, workload: int, **more: int) -> None:
        claim = Claim(workload, more.pop("since", now()), **more)
        self.put(name, abi.ID.pack(key), claim.pack())


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def workload(host: Host, number: int, **fields: int | str) -> None:
    fields.setdefault("kind", KIND_CONTAINER)
    known = Workload(id=number, start=now() - 90 * 10**9, source=1, state=2, **fields)
    host.put("ft_workload", abi.ID.pack(number), known.pack())


def port_key(text: str, port: int, cookie: int = 0) -> bytes:
    return abi.PORT_KEY.pack(address.from_text(text), cookie, port, socket.IPPROTO_TCP)


def addr_key(text: str, prefix_len: int, port: int = 0) -> bytes:
    return abi.ADDR_KEY.pack(prefix_len, address.from_text(text), port.to_bytes(2, "big"))


@pytest.fixture
def empty(pin_directory: Path, run_directory: Path, tmp_path: Path) -> Host:
    config = tmp_path / "flowtag.toml"
    config.write_text(
        f'[host]\npin_directory = "{pin_directory}"\nrun_directory = "{run_directory}"\n'
        "[exporter]\nring_bytes = 65536\n",
        encoding="utf-8",
    )
    return Host(pin_directory, run_directory, config)


@pytest.fixture
def host(empty: Host) -> Host:
    programs.create_maps(str(empty.pins), 65536)
    workload(empty, WEB, container="web", container_id=WEB_ID, runtime="runc")
    workload(empty, OLD_WEB, container="web", container_id=WEB_ID, runtime="runc", end=now())
    workload(empty, SHOP, container_id=SHOP_ID, namespace="prod", pod="shop-1")
    return empty


@pytest.fixture
def own_cgroup(kernel: None) -> Iterator[Path]:
    """A cgroup of the test's own; what it put there goes back where it was."""
    mount = cgroup.mount_point()
    if mount is None:
        pytest.skip("no cgroup v2 here")
    path = Path(f"{mount}/flowtag-test-maps-{os.getpid()}")
    path.mkdir()
    yield path
    path.rmdir()


@pytest.fixture
def sleeper(own_cgroup: Path) -> Iterator[int]:
    """A process in the cgroup of the test's own, and in a network namespace of the network's."""
    with Network() as network:
        process = subprocess.Popen(network.namespace("sleeper").command("sleep", "60"))
        (own_cgroup / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
        while netns.cookie(process.pid) == netns.host_cookie():
            time.sleep(0.01)  # not yet entered
        yield process.pid
        process.kill()
        process.wait()


def test_create_makes_everything_once(empty: Host) -> None:
    done = empty.call("maps", "create")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"made {empty.pins}/ft_cgroup\n" in done.stderr
    assert f"made {empty.run}/hook\n" in done.stderr
    for directory in (empty.run, empty.run / "live", empty.run / "pending", empty.run / "lock"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    stripes = sorted(path.name for path in (empty.run / "lock").iterdir())
    assert stripes == [f"{number:02x}" for number in range(64)]
    assert set(os.listdir(empty.pins)) == set(abi.MAPS)
    assert stat.S_IMODE((empty.pins / "ft_cgroup").stat().st_mode) == 0o660
    settings = dict(
        line.split(" ", 1) for line in (empty.run / "hook").read_text(encoding="ascii").splitlines()
    )
    assert settings == {
        "pin_directory": str(empty.pins),
        "cgroup_mount": cgroup.mount_point() or "",
        "host_netns": str(netns.host_cookie()),
        "shared_addresses": "",
        "engine_roots": "",
    }
    before = (empty.run / "hook").stat().st_ino
    assert empty.call("maps", "create").stderr == "everything is there\n"
    assert (empty.run / "hook").stat().st_ino == before


def test_create_puts_back_what_is_missing_and_keeps_the_rest(host: Host) -> None:
    os.unlink(host.pins / "ft_port")
    done = host.call("maps", "create")
    assert done.returncode == 0
    assert f"made {host.pins}/ft_port\n" in done.stderr
    assert "ft_workload" not in done.stderr
    assert host.lookup(f"container:{WEB_ID}", 1)["unattributed_reason"] == "no_claim"


def test_dump_explains_every_entry(host: Host, sleeper: int, own_cgroup: Path) -> None:
    number, cookie = cgroup.id_of(str(own_cgroup)), netns.cookie(sleeper)
    host.claim("ft_cgroup", number, WEB, flags=abi.FLAG_INHERITED)
    host.claim("ft_cgroup", 1 << 40, SHOP, since=5, until=10)
    host.claim("ft_cgroup", 2 << 40, abi.OWNER_UNCLAIMED)
    host.claim("ft_netns", cookie, WEB, kind=CONTAINER_NETNS)
    host.put("ft_port", port_key("100.64.0.7", 4000), Claim(WEB, now()).pack())
    host.put("ft_addr", addr_key("100.64.0.7", 129, 32768), Claim(SHOP, now()).pack())
    host.put("ft_addr", addr_key("2001:db8::", 64), Claim(WEB, now()).pack())
    host.claim("ft_socket", 77, WEB)

    done = host.call("maps", "dump")
    assert (done.returncode, done.stderr) == (0, "")
    path = f"/{own_cgroup.name}"
    for part in (
        "ft_workload: 3 of 65536 entries; names of the workloads",
        f"  workload {WEB}: container web, since ",
        "(1 min 30 s), by hook, unverified; runtime=runc container_id=ababab",
        f"  cgroup {number} {path}: workload {WEB} (web), since ",
        "(0 s), inherited\n",
        f"  cgroup {1 << 40} (gone): workload {SHOP} (prod/shop-1), since ",
        f"  cgroup {2 << 40} (gone): unclaimed, since ",
        f"  netns {cookie} (pid {sleeper} sleep): container's: workload {WEB} (web)",
        f"  100.64.0.7:4000 tcp in netns any translator's: workload {WEB}",
        f"  100.64.0.7 ports 32768-65535 (prefix 129): workload {SHOP}",
        f"  2001:db8::/64 (prefix 64): workload {WEB}",
        f"  socket 77: workload {WEB} (web)",
        "ft_events: 0 of 65536 bytes wait; ",
        "  records: 0\n",
        "  link_state: not attached; `flowtag run` attaches flowtag_state",
    ):
        assert part in done.stdout


def test_dump_json_has_raw_and_explained_values(host: Host) -> None:
    host.claim("ft_cgroup", (1 << 63) + 1, WEB, since=1, until=2, flags=abi.FLAG_RECONCILED)
    done = host.call("maps", "dump", "--json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert set(shown) == {*abi.MAPS, "links"}
    (item,) = shown["ft_cgroup"]["entries"]
    assert item["key"] == {"cgroup_id": str((1 << 63) + 1), "path": None}
    value = item["value"]
    assert (value["workload"], value["name"]) == (str(WEB), "web")
    assert (value["since_ns"], value["until_ns"], value["alive"]) == ("1", "2", False)
    assert value["since"].endswith("Z")
    assert value["flags"] == ["reconciled"]
    assert shown["ft_count"]["counters"]["lost_ring"] == "0"


def test_dump_shows_attached_links_with_misses(pin_directory: Path, empty: Host) -> None:
    knobs = programs.Knobs(netns.host_cookie(), False, (), ())
    with programs.Programs(knobs, str(pin_directory), 65536) as loaded:
        loaded.attach(programs.CGROUP_PROGRAMS + programs.FLOW_PROGRAMS)
    shown = json.loads(empty.call("maps", "dump", "--json").stdout)["links"]["entries"]
    assert {item["program"]: item["attached_to"] for item in shown} == {
        "flowtag_mkdir": "cgroup_mkdir",
        "flowtag_rmdir": "cgroup_rmdir",
        "flowtag_destroy": "tcp_destroy_sock",
        "flowtag_state": "inet_sock_set_state",
    }
    assert all(item["recursion_misses"].isdecimal() and item["link_id"] for item in shown)
    assert "ok    programs: attached: flowtag_mkdir" in empty.call("check").stdout


def test_dump_goes_on_past_a_missing_map(host: Host) -> None:
    os.unlink(host.pins / "ft_netns")
    done = host.call("maps", "dump")
    assert done.returncode == 1
    assert f"cannot be read: opening pinned map {host.pins}/ft_netns: it does not exist" in done.stdout
    assert "ft_socket: 0 of" in done.stdout
    assert json.loads(host.call("maps", "dump", "--json").stdout)["ft_netns"]["hint"]


def foreign_map(host: Host) -> None:
    """A map of another layout in ft_cgroup's place."""
    os.unlink(host.pins / "ft_cgroup")
    with open_map("ft_netns", str(host.pins)) as other:
        syscall.obj_pin(other.fd, str(host.pins / "ft_cgroup"))


def test_map_of_another_layout_is_refused_everywhere(host: Host) -> None:
    foreign_map(host)
    os.unlink(host.pins / "ft_port")  # so that there is something to create
    for arguments in (("maps", "create"), ("maps", "lookup", "cgroup:5"), ("run", "--for", "1")):
        done = host.call(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        message, hint = done.stderr.splitlines()
        assert f"{host.pins}/ft_cgroup" in message
        assert hint.startswith("hint: another version")
    dumped = host.call("maps", "dump")
    assert dumped.returncode == 1
    assert "value 40 bytes, but layout 1 has" in dumped.stdout
    assert "FAIL  maps: opening pinned map" in host.call("check").stdout
    assert not (host.pins / "ft_port").exists()
    with pytest.raises(LayoutError):
        open_map("ft_cgroup", str(host.pins))


def test_lookup_pid_of_a_container(host: Host, sleeper: int, own_cgroup: Path) -> None:
    number, cookie = cgroup.id_of(str(own_cgroup)), netns.cookie(sleeper)
    answer = host.lookup(f"pid:{sleeper}", 1)
    assert answer["unattributed_reason"] == "no_claim"
    host.claim("ft_netns", cookie, WEB, kind=CONTAINER_NETNS)
    assert host.lookup(f"pid:{sleeper}", 1)["unattributed_reason"] == "foreign_process"
    host.claim("ft_netns", cookie, SHOP, kind=CONTAINER_NETNS, flags=abi.FLAG_NO_CGROUP)
    answer = host.lookup(f"pid:{sleeper}")
    assert (answer["owner"]["workload"], answer["attributed_by"]) == (str(SHOP), "netns")
    host.claim("ft_cgroup", number, WEB)
    answer = host.lookup(f"pid:{sleeper}")
    assert (answer["owner"]["workload"], answer["attributed_by"]) == (str(WEB), "cgroup")
    assert answer["workload"]["container_id"] == WEB_ID
    assert f"workload {SHOP}" in answer["lost"][0]
    assert f"cgroup {number} /{own_cgroup.name}" in answer["steps"]
    host.claim("ft_netns", cookie, WEB, kind=TRANSLATOR_NETNS)
    assert host.lookup(f"pid:{sleeper}", 1)["unattributed_reason"] == "unpublished"
    host.claim("ft_netns", cookie, WEB, kind=CONTAINER_NETNS)
    host.claim("ft_cgroup", number, abi.OWNER_TRANSLATOR)
    assert host.lookup(f"pid:{sleeper}", 1)["unattributed_reason"] == "unpublished"
    host.claim("ft_cgroup", number, abi.OWNER_UNCLAIMED)
    assert host.lookup(f"pid:{sleeper}", 1)["unattributed_reason"] == "unclaimed_container"
    host.claim("ft_cgroup", number, abi.OWNER_CONTESTED)
    assert host.lookup(f"pid:{sleeper}", 1)["unattributed_reason"] == "contested"
    host.claim("ft_cgroup", number, WEB, since=1, until=2)
    assert host.lookup(f"pid:{sleeper}", 1)["unattributed_reason"] == "expired"


def test_lookup_pid_of_the_host(host: Host) -> None:
    target = f"pid:{os.getpid()}"
    assert host.lookup(target, 1)["unattributed_reason"] == "no_claim"
    known = Workload(id=HOST, start=now(), kind=KIND_HOST, source=7, state=2, host="box")
    host.put("ft_workload", abi.ID.pack(abi.OWNER_HOST_SLOT), known.pack())
    answer = host.lookup(target)
    assert (answer["owner"]["name"], answer["attributed_by"]) == ("box", "host")
    text = host.call("maps", "lookup", target).stdout
    assert text.startswith(f"{target}: workload {HOST} (box), since ")
    assert "; by host\n" in text


def test_lookup_cgroup_by_path_and_id(host: Host, own_cgroup: Path) -> None:
    number = cgroup.id_of(str(own_cgroup))
    assert host.lookup(f"cgroup:/{own_cgroup.name}", 1)["unattributed_reason"] == "no_claim"
    host.claim("ft_cgroup", number, WEB)
    for target in (f"cgroup:/{own_cgroup.name}", f"cgroup:{own_cgroup}", f"cgroup:{number}"):
        assert host.lookup(target)["owner"]["name"] == "web"


def test_lookup_container_by_prefix(host: Host) -> None:
    host.claim("ft_cgroup", 4711, WEB)
    answer = host.lookup("container:abab")
    assert answer["owner"]["workload"] == str(WEB)
    assert any("cgroup 4711" in step for step in answer["steps"])
    assert f"an earlier incarnation, workload {OLD_WEB}" in answer["lost"][0]
    ambiguous = host.lookup("container:a", 1)
    assert "several workloads" in ambiguous["steps"][0]
    assert len(ambiguous["steps"]) == 3
    assert "no workload" in host.lookup("container:feed", 1)["steps"][0]


def test_lookup_address_takes_the_most_exact_claim(host: Host) -> None:
    host.put("ft_addr", addr_key("100.64.0.0", 96 + 24), Claim(OLD_WEB, now()).pack())
    host.put("ft_addr", addr_key("100.64.0.7", 129, 32768), Claim(SHOP, now()).pack())
    host.put("ft_port", port_key("100.64.0.7", 40000), Claim(WEB, now()).pack())
    exact = host.lookup("100.64.0.7:40000")
    assert (exact["owner"]["workload"], exact["attributed_by"]) == (str(WEB), "port")
    assert len(exact["lost"]) == 2
    mapped = host.lookup("[::ffff:100.64.0.7]:40000")
    assert mapped["owner"]["workload"] == str(WEB)
    block = host.lookup("100.64.0.7:50000")
    assert (block["owner"]["workload"], block["attributed_by"]) == (str(SHOP), "block")
    whole = host.lookup("100.64.0.7:80")
    assert whole["owner"]["workload"] == str(OLD_WEB)
    assert host.lookup("100.64.0.9")["owner"]["workload"] == str(OLD_WEB)
    host.put("ft_port", port_key("100.64.0.7", 50000), Claim(WEB, 1, 2).pack())
    ended = host.lookup("100.64.0.7:50000", 1)
    assert ended["unattributed_reason"] == "expired"  # as in the kernel: the most exact claim decides
    nobody = host.call("maps", "lookup", "100.64.1.9")
    assert nobody.returncode == 1
    assert nobody.stdout.startswith("100.64.1.9: nobody's, no_claim\n")


def test_lookup_address_finds_the_open_socket(host: Host) -> None:
    known = Workload(id=HOST, start=now(), kind=KIND_HOST, source=7, state=2, host="box")
    host.put("ft_workload", abi.ID.pack(abi.OWNER_HOST_SLOT), known.pack())
    for family, text in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listener:
            listener.bind((text, 0))
            listener.listen()
            port = listener.getsockname()[1]
            end = f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
            answer = host.lookup(end)
        assert answer["owner"]["name"] == "box"
        assert any(f"{end} LISTEN" in step and f"pid {os.getpid()} " in step for step in answer["steps"])


def test_lookup_socket_by_cookie(host: Host) -> None:
    assert host.lookup("socket:77", 1)["unattributed_reason"] == "no_claim"
    host.claim("ft_socket", 77, WEB)
    answer = host.lookup("socket:77")
    assert (answer["owner"]["workload"], answer["attributed_by"]) == (str(WEB), "socket")


@pytest.mark.parametrize(
    "target",
    ["pid:0x3", "pid:", "cgroup:/no/such", "socket:99999999999999999999", "1.2.3.4:99999", "1.2.3", "web"],
)
def test_lookup_of_nonsense_is_one_line_and_a_hint(host: Host, target: str) -> None:
    done = host.call("maps", "lookup", target)
    assert (done.returncode, done.stdout) == (1, "")
    message, hint = done.stderr.splitlines()
    assert message.startswith("flowtag: looking up ")
    assert hint.startswith("hint: ")


def test_lookup_without_maps_says_what_to_do(empty: Host) -> None:
    done = empty.call("maps", "lookup", "cgroup:5")
    assert done.returncode == 1
    assert done.stderr == (
        f"flowtag: opening pinned map {empty.pins}/ft_cgroup: it does not exist\n"
        "hint: run `flowtag maps create`\n"
    )


def test_check_says_what_is_missing_and_what_to_do(empty: Host) -> None:
    before = json.loads(empty.call("check", "--json").stdout)
    assert any(c["subject"] == "maps" and c["state"] == "warn" for c in before["checks"])
    assert empty.call("maps", "create").returncode == 0
    done = empty.call("check")
    assert done.returncode == 0
    assert f"ok    maps: all {len(abi.MAPS)} in {empty.pins}, of layout 1\n" in done.stdout
    left = Incarnation(Workload(container_id="x"), reason="no room")
    incarnation.write(f"{empty.run}/pending/x.json", left)
    done = empty.call("check")
    assert done.returncode == 1
    assert f"FAIL  hook: 1 identities could not be written and wait in {empty.run}/pending\n" in done.stdout
    os.unlink(empty.pins / "ft_port")
    done = empty.call("check")
    assert done.returncode == 1
    assert f"FAIL  maps: ft_port not in {empty.pins}\n      -> run `flowtag maps create`\n" in done.stdout

# SPDX-License-Identifier: Apache-2.0
"""The configuration: what is taken, and that every mistake is an error that names its key."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.error import FlowtagError
from exporter.config import Config, Exporter, Host, Identity, Spool
from exporter.config_file import dump, load
from exporter.sinks.config import Json, Parquet

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=40)


def write(directory: Path, text: str) -> str:
    path = directory / "flowtag.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(directory: Path, text: str) -> FlowtagError:
    path = write(directory, text)
    with pytest.raises(FlowtagError) as caught:
        load(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == Config()


def test_keys_are_taken(tmp_path: Path) -> None:
    text = (
        '[host]\nrun_directory = "/x"\nactivators = ["a", "b"]\nhost_network_containers = false\n'
        "[exporter]\nring_bytes = 8192\n"
        '[identity]\ndocker = "off"\npodman = "/srv/storage"\napp_labels = ["app"]\n'
    )
    assert load(write(tmp_path, text)) == Config(
        Host(run_directory="/x", activators=("a", "b"), host_network_containers=False),
        Exporter(ring_bytes=8192),
        identity=Identity("off", "/srv/storage", ("app",)),
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[hots]\n", "hots"),
        ("ring_bytes = 4096\n", "ring_bytes"),
        ("[exporter]\nringbytes = 4096\n", "exporter.ringbytes"),
        ("[host.exporter]\n", "host.exporter"),
        ("[identity]\nkubeconfig = '/x'\n", "identity.kubeconfig"),
    ],
)
def test_unknown_key_is_named_with_its_path(tmp_path: Path, text: str, key: str) -> None:
    error = refused(tmp_path, text)
    assert f"unknown key {key}" in str(error)
    assert error.hint.startswith("known here: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("host = 3\n", "host must be a table"),
        ("[host]\npin_directory = 3\n", "host.pin_directory must be of type str, not int"),
        ('[host]\nengine_roots = "docker"\n', "host.engine_roots must be a list"),
        ("[host]\nengine_roots = [1]\n", "host.engine_roots[] must be of type str, not int"),
        ("[host]\nhost_network_containers = 1\n", "must be of type bool, not int"),
        ("[exporter]\nring_bytes = true\n", "exporter.ring_bytes must be of type int, not bool"),
        ("[exporter]\ndrain_ms = 1.5\n", "exporter.drain_ms must be of type int, not float"),
    ],
)
def test_wrong_type_is_named_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    assert message in str(refused(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[exporter]\nring_bytes = 5000\n", "exporter.ring_bytes"),
        ("[exporter]\nring_bytes = 2048\n", "exporter.ring_bytes"),
        ("[exporter]\nring_bytes = -4096\n", "exporter.ring_bytes"),
        ("[exporter]\nring_bytes = 8589934592\n", "exporter.ring_bytes"),
        ("[exporter]\ndrain_ms = 0\n", "exporter.drain_ms"),
        ("[exporter]\ndrain_ms = 60001\n", "exporter.drain_ms"),
        ('[host]\npin_directory = "pins"\n', "host.pin_directory"),
        ('[host]\nrun_directory = ""\n', "host.run_directory"),
        ('[host]\nrun_directory = "/run/a b\\n"\n', "host.run_directory"),
        ('[host]\nengine_roots = ["a/b"]\n', "host.engine_roots"),
        ('[host]\nengine_roots = [""]\n', "host.engine_roots"),
        (f'[host]\nengine_roots = ["{"a" * 32}"]\n', "host.engine_roots"),
        (f'[host]\nactivators = ["{"a" * 16}"]\n', "host.activators"),
        ('[host]\nactivators = [""]\n', "host.activators"),
        ('[identity]\ndocker = "on"\n', "identity.docker"),
        ('[identity]\ndocker = "unix:///run/docker.sock"\n', "identity.docker"),
        ('[identity]\npodman = "/a\\nb"\n', "identity.podman"),
        ('[identity]\napp_labels = ["app", ""]\n', "identity.app_labels"),
    ],
)
def test_bad_value_is_named_with_a_hint(tmp_path: Path, text: str, key: str) -> None:
    error = refused(tmp_path, text)
    assert key in str(error)
    assert error.hint


@pytest.mark.parametrize("data", [b"[host\n", b"\xff", b"a = 1\na = 2\n"])
def test_broken_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "flowtag.toml"
    path.write_bytes(data)
    with pytest.raises(FlowtagError, match=r"reading the configuration .*flowtag\.toml: "):
        load(str(path))


def test_missing_file_is_an_error_only_if_it_was_named() -> None:
    with pytest.raises(FlowtagError, match="no such file"):
        load("/nonexistent/flowtag.toml")


def test_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FlowtagError, match="directory"):
        load(str(tmp_path))


@given(
    place=st.text(string.ascii_letters + string.digits + '/._-"\\ äß', max_size=40),
    roots=st.lists(st.text(string.ascii_letters + '.-_ü"\\', min_size=1, max_size=12), max_size=4),
    power=st.integers(12, 30),
    drain_ms=st.integers(1, 60_000),
    shared=st.booleans(),
)
def test_dump_reads_back_as_the_same_configuration(
    tmp_path_factory: pytest.TempPathFactory,
    place: str,
    roots: list[str],
    power: int,
    drain_ms: int,
    shared: bool,
) -> None:
    config = Config(
        Host(
            pin_directory="/" + place,
            engine_roots=tuple(roots),
            host_network_containers=shared,
        ),
        Exporter(ring_bytes=1 << power, drain_ms=drain_ms),
    )
    path = tmp_path_factory.mktemp("config") / "flowtag.toml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(str(path)) == config


@given(section=TEXT, key=TEXT, value=st.one_of(st.integers(), st.booleans(), TEXT))
def test_any_other_key_is_refused(
    tmp_path_factory: pytest.TempPathFactory, section: str, key: str, value: object
) -> None:
    def quoted(text: str) -> str:
        return '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'

    shown = quoted(value) if isinstance(value, str) else str(value).lower()
    path = tmp_path_factory.mktemp("config") / "flowtag.toml"
    name = section if section not in ("host", "exporter") else section + "_"
    path.write_text(f"[{quoted(name)}]\n{quoted(key)} = {shown}\n", encoding="utf-8")
    with pytest.raises(FlowtagError, match="unknown key"):
        load(str(path))


def test_sinks_have_types_and_come_back_from_the_dump(tmp_path: Path) -> None:
    path = tmp_path / "flowtag.toml"
    path.write_text(
        '[spool]\nmax_bytes = 2097152\n[sinks.lake]\ntype = "parquet"\ndirectory = "/srv/flows"\n'
        '[sinks.out]\ntype = "json"\npath = "-"\n',
        encoding="utf-8",
    )
    config = load(str(path))
    assert config.sinks == {"lake": Parquet("/srv/flows"), "out": Json("-")}
    assert config.spooled
    path.write_text(dump(config), encoding="utf-8")
    assert load(str(path)) == config


def test_without_spool_and_sinks_nothing_is_spooled() -> None:
    assert not Config().spooled
    assert Config(spool=Spool(enabled=True)).spooled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[sinks.a]\ntype = "carrier-pigeon"', "sinks.a.type is 'carrier-pigeon'"),
        ("[sinks.a]", "sinks.a.type is None"),
        ("sinks = 1", "sinks must be a table"),
        ("[sinks]\na = 1", "sinks.a.type is None"),
        ('[sinks.a]\ntype = "parquet"', "sinks.a has no key directory"),
        ('[sinks.a]\ntype = "parquet"\ndirectory = "x"', "directory is 'x'"),
        ('[sinks.a]\ntype = "parquet"\ndirectory = "/x"\npath = "/y"', "unknown key sinks.a.path"),
        ('[sinks.spool]\ntype = "json"\npath = "-"', "sinks.spool: no name for a sink"),
        ('[sinks."a_b"]\ntype = "json"\npath = "-"', "sinks.a_b: no name for a sink"),
        ('[sinks.a]\ntype = "json"\npath = "-"\nkeep = 0', "keep is 0"),
        ('[sinks.a]\ntype = "json"\npath = "-"\nrotate_bytes = 1', "rotate_bytes is 1"),
        ('[spool]\ndirectory = "spool"', "spool.directory is 'spool'"),
        ("[spool]\nmax_bytes = 5", "spool.max_bytes is 5"),
        ("[spool]\nmin_free_bytes = -1", "spool.min_free_bytes is -1"),
        ("[spool]\nkeep_seconds = -1", "spool.keep_seconds is -1"),
        ("[spool]\nstop_seconds = 61", "spool.stop_seconds is 61"),
    ],
)
def test_spool_or_sink_that_cannot_be_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "flowtag.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FlowtagError, match=re.escape(message)):
        load(str(path))

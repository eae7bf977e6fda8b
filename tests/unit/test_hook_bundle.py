# SPDX-License-Identifier: Apache-2.0
"""The hook in a bundle's config.json: appended, with nothing else changed, or the file is left alone."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks import bundle, exact_json
from hooks.run_line import RUN_DIRECTORY

STUB = "/var/lib/flowtag/hook/flowtag-hook"
OURS = bundle.entries(STUB)
EXACT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
HOOK = (
    st.fixed_dictionaries({"path": st.sampled_from(["/a", "/usr/bin/nvidia"])}, optional={"args": EXACT})
    | EXACT
)
EVENTS = st.sampled_from(
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
)
HOOKS = st.none() | st.dictionaries(EVENTS, st.none() | st.lists(HOOK, max_size=3), max_size=6)
NAMES = st.text().filter(lambda name: name.casefold() != "hooks")
CONFIGS = st.builds(
    lambda rest, hooks, where: dict([*list(rest.items())[:where], *hooks, *list(rest.items())[where:]]),
    st.dictionaries(NAMES | st.sampled_from(["process", "linux"]), EXACT, max_size=6),
    HOOKS.map(lambda hooks: [("hooks", hooks)]) | st.just([]),
    st.integers(0, 6),
)
LAYOUTS = st.sampled_from([{}, {"indent": "\t"}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def inject(directory: Path) -> bool:
    return bundle.inject(str(directory), STUB, RUN_DIRECTORY)


@given(CONFIGS, LAYOUTS)
def test_injected_config_is_the_same_but_for_ours(config: dict[str, Any], layout: dict[str, Any]) -> None:
    text = json.dumps(config, **{"ensure_ascii": True, **layout})
    before = copy.deepcopy(config)
    with tempfile.TemporaryDirectory() as directory:
        try:
            path = write(Path(directory), text)
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, unescaped: not JSON
            with pytest.raises(ValueError, match="utf-8"):
                inject(Path(directory))
            return
        assert inject(Path(directory))
        data = path.read_bytes()
        result: dict[str, Any] = json.loads(data)
        assert not inject(Path(directory))  # once is enough
        assert path.read_bytes() == data
        assert os.listdir(directory) == ["config.json"]
    assert list(result)[: len(before)] == list(before)
    for event, entry in OURS.items():
        assert result["hooks"][event].pop() == entry
    assert meaning(result) == meaning(before)


def meaning(config: dict[str, Any]) -> str:
    """As text, because True equals 1; an empty list of hooks is the same as none."""
    hooks = config.get("hooks") or {}
    left = {event: hooks[event] for event in hooks if hooks[event] or event not in OURS}
    return json.dumps({**config, "hooks": left}, sort_keys=True)


@given(st.binary(max_size=200) | CONFIGS.map(lambda config: json.dumps(config).encode()[:-1]))
def test_decoding_refuses_or_gives_the_same(data: bytes) -> None:
    try:
        value = exact_json.decode(data, 1 << 20)
    except ValueError:
        return
    assert json.loads(data) == value
    assert exact_json.decode(exact_json.encode(value), 1 << 20) == value


LEFT_ALONE = {
    "float": b'{"a": 1.0}',
    "exponent": b'{"a": 1e2}',
    "deep float": b'{"a": [{"b": [0.1]}]}',
    "negative zero": b'{"a": -0}',
    "huge number": b'{"a": ' + b"9" * 5000 + b"}",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "key twice": b'{"a": 1, "a": 1}',
    "key twice below": b'{"a": {"b": 1, "b": 2}}',
    "hooks twice": b'{"hooks": {}, "hooks": {}}',
    "hooks in another case": b'{"Hooks": {"poststop": []}}',
    "event in another case": b'{"hooks": {"createruntime": []}}',
    "hooks of another type": b'{"hooks": []}',
    "event of another type": b'{"hooks": {"poststop": {}}}',
    "no object": b"[]",
    "number": b"1",
    "empty": b"",
    "cut": b'{"a": ',
    "trailing": b"{} {}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "latin-1": b'{"a": "\xe9"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "raw newline in a string": b'{"a": "\n"}',
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "large": b'{"a": "' + b" " * (4 << 20) + b'"}',
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_inject_leaves_alone_what_would_not_come_back(text: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    inode = path.stat().st_ino
    with pytest.raises(ValueError, match=r"."):
        inject(tmp_path)
    assert (path.read_bytes(), path.stat().st_ino) == (text, inode)
    assert os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize(
    "text",
    ['{"a": 9007199254740993}', '{"a": 18446744073709551615}', '{"a": "\\ud800"}', '{"": {"é": "\\u0000"}}'],
)
def test_inject_keeps_what_some_readers_round(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    inject(tmp_path)
    (name,) = json.loads(text)
    assert json.loads(path.read_bytes())[name] == json.loads(text)[name]


def test_inject_comes_last_and_once(tmp_path: Path) -> None:
    first, second = {"path": "/usr/bin/dockerd", "args": ["libnetwork-setkey"]}, {"path": "/b"}
    path = write(tmp_path, json.dumps({"hooks": {"prestart": [first], "createRuntime": [second, second]}}))
    assert inject(tmp_path)
    hooks = json.loads(path.read_bytes())["hooks"]
    assert list(hooks) == ["prestart", "createRuntime", "poststop"]
    assert hooks["prestart"] == [first]
    assert hooks["createRuntime"] == [second, second, OURS["createRuntime"]]
    for event in ("prestart", "startContainer"):  # wherever ours is, somebody has put it there
        text = json.dumps({"hooks": {event: [{"path": "/b"}, {"path": STUB, "args": ["x"]}]}})
        write(tmp_path, text)
        assert not inject(tmp_path)
        assert path.read_text(encoding="ascii") == text


def test_inject_keeps_owner_and_mode(tmp_path: Path) -> None:
    path = write(tmp_path, "{}")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    before = path.stat()
    assert inject(tmp_path)
    after = path.stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: (path.with_name("other").write_bytes(b"{}"), path.symlink_to("other")),
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: None,
    ],
    ids=["symlink", "fifo", "directory", "missing"],
)
def test_inject_leaves_alone_what_is_no_file(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "config.json")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((OSError, ValueError)):
        inject(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    if (tmp_path / "other").exists():
        assert (tmp_path / "other").read_bytes() == b"{}"
        assert (tmp_path / "config.json").is_symlink()


def test_inject_into_a_read_only_bundle(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        path = write(tmp_path, "{}")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(OSError, match="Read-only"):
            inject(tmp_path)
        assert path.read_bytes() == b"{}"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_inject_on_a_full_disk(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], check=True)
    try:
        path = write(tmp_path, json.dumps({"a": "b" * 6000}))
        (tmp_path / "rest").write_bytes(bytes(8192))
        with pytest.raises(OSError, match="No space"):
            inject(tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["config.json", "rest"]
        assert json.loads(path.read_bytes()) == {"a": "b" * 6000}
    finally:
        subprocess.run(["umount", tmp_path], check=True)

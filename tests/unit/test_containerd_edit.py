# SPDX-License-Identifier: Apache-2.0
"""containerd's config.toml: what put() writes, and that take() gives the same bytes back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, reject
from hypothesis import settings as setup
from hypothesis import strategies as st

from bpf.error import FlowtagError
from hooks.runtimes.containerd_config import BASE_SPEC, BINARY, Setting, parse, runtimes_of, settings_of
from hooks.runtimes.containerd_cri import V2, V3
from hooks.runtimes.containerd_edit import put, take

FIXTURES = Path(__file__).parent / "fixtures" / "containerd"
DEBIAN = (FIXTURES / "debian.toml").read_text(encoding="utf-8")
DUMPS = {
    version: (FIXTURES / f"dump-{version}.toml").read_text(encoding="utf-8")
    for version in ("1.6", "1.7", "2.1")
}
WRAPPER = "/var/lib/flowtag/hook/flowtag-runc"
ENTRY = {
    "runtime_type": "io.containerd.runc.v2",
    "base_runtime_spec": "",
    "options": {"SystemdCgroup": True, "Root": ""},
}
RUNC = '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc'
KUBEADM = f"""version = 2
{RUNC}]
  runtime_type = "io.containerd.runc.v2"
  {RUNC}.options]
    SystemdCgroup = true  # as the kubelet has it

# Prometheus
[metrics]
  address = "127.0.0.1:1338"
"""


def settings(key: str, *handlers: str) -> list[Setting]:
    return [Setting(handler, key, WRAPPER) for handler in handlers or ("runc",)]


def put_all(text: str, wanted: list[Setting], section: str = V2) -> str:
    for setting in wanted:
        text = put(text, section, setting, ENTRY)
    return text


def test_put_key_in_existing_table_is_one_line() -> None:
    assert put_all(KUBEADM, settings(BINARY)) == KUBEADM.replace(
        "    SystemdCgroup", f'    BinaryName = "{WRAPPER}" # flowtag\n    SystemdCgroup'
    )


def test_put_missing_table_repeats_what_is_in_force() -> None:
    text = put_all(DEBIAN, settings(BINARY))
    assert text.startswith(DEBIAN)
    assert runtimes_of(tomllib.loads(text), V2)["runc"] == {
        "runtime_type": "io.containerd.runc.v2",
        "options": {"BinaryName": WRAPPER, "SystemdCgroup": True},
    }


def test_put_changes_nothing_but_its_key() -> None:
    before, after = tomllib.loads(KUBEADM), tomllib.loads(put_all(KUBEADM, settings(BASE_SPEC)))
    assert after["plugins"][V2]["containerd"]["runtimes"]["runc"].pop(BASE_SPEC) == WRAPPER
    assert after == before


@pytest.mark.parametrize("key", [BINARY, BASE_SPEC])
@pytest.mark.parametrize(
    ("text", "section"),
    [
        (DEBIAN, V2),
        (KUBEADM, V2),
        (DUMPS["1.6"], V2),
        (DUMPS["1.7"], V2),
        (DUMPS["2.1"], V3),
        ("version = 2\n", V2),
        ("version = 2\n\n", V2),
        ("version = 2", V2),
        ("", V2),
        (f"version = 2\n{RUNC}.options]", V2),
        (KUBEADM.replace("\n", "\r\n"), V2),
        (KUBEADM.replace("SystemdCgroup = true ", "BinaryName = '' "), V2),
        (f'version = 2\n{RUNC}.options]\nBinaryName = ""  \n  # eh\nSystemdCgroup = true', V2),
    ],
)
def test_take_gives_same_bytes_back(text: str, section: str, key: str) -> None:
    wanted = settings(key, "runc", "other")
    changed = put_all(text, wanted, section)
    assert set(settings_of(tomllib.loads(changed), section, [key])) == set(wanted)
    assert take(changed, section, wanted) == text


@pytest.mark.parametrize(
    "text",
    [
        f'version = 2\n{RUNC.removesuffix(".runc")}]\nrunc = {{ runtime_type = "io.containerd.runc.v2" }}\n',
        f'version = 2\n[plugins."{V2}"]\ncontainerd.runtimes.runc.options.SystemdCgroup = true\n',
    ],
)
def test_put_refuses_form_that_it_cannot_extend(text: str) -> None:
    with pytest.raises(FlowtagError, match="disturbing") as caught:
        put_all(text, settings(BINARY))
    assert f'BinaryName = "{WRAPPER}"' in caught.value.hint


def test_take_leaves_keys_that_somebody_added() -> None:
    changed = put_all(DEBIAN, settings(BINARY)) + "ShimCgroup = '/x'\n"
    left = tomllib.loads(take(changed, V2, settings(BINARY)))
    assert runtimes_of(left, V2)["runc"] == {
        "runtime_type": "io.containerd.runc.v2",
        "options": {"SystemdCgroup": True, "ShimCgroup": "/x"},
    }


def test_take_leaves_tables_and_comments_that_somebody_appended() -> None:
    added = "\n# mine\n[metrics]\naddress = ''\n"
    left = take(put_all(DEBIAN, settings(BINARY)) + added, V2, settings(BINARY))
    assert left.endswith(added)
    assert not list(settings_of(tomllib.loads(left), V2, [BINARY]))


def test_take_without_appended_comment_takes_whole_table() -> None:
    added = "[metrics]\naddress = ''\n"
    assert take(put_all(DEBIAN, settings(BINARY)) + added, V2, settings(BINARY)) == DEBIAN + added


def test_parse_invalid_toml_names_file() -> None:
    with pytest.raises(FlowtagError, match=r"reading /x/config\.toml: not TOML"):
        parse("version = 2\n[plug", "/x/config.toml")


_words = st.sampled_from(["alpha", '"io.containerd.internal.v1.opt"', "'q uoted'", "metrics", "grpc"])
_values = st.sampled_from(
    ["1", "true", '"text # no"', "'x'", "[1,\n 2]", "{ a = 1 }", '"""\n[x]\n"""', "1979-05-27"]
)
_ends = st.sampled_from(["\n", " # note\n", "\n\n", "  \n", "\r\n"])
_indents = st.sampled_from(["", "  ", "\t"])


@st.composite
def _configurations(draw: st.DrawFn) -> str:
    """A valid file with tables in any order, some of them on the handler's path."""
    quote = draw(st.sampled_from(["'", '"']))
    cri = f"plugins.{quote}{V2}{quote}"
    path = [cri, "containerd", "runtimes", "runc", "options"]
    headers = {".".join(path[: draw(st.integers(1, 5))]) for _ in range(draw(st.integers(0, 4)))}
    headers |= {f"{cri}.cni", f"{cri}.registry"} if draw(st.booleans()) else set()
    headers |= set(draw(st.lists(_words.map(lambda word: f"other.{word}"), max_size=3)))
    text = "version = 2" + draw(_ends)
    for header in draw(st.permutations(sorted(headers))):
        indent = draw(_indents)
        text += draw(st.sampled_from(["", "# about what follows\n", "\n"]))
        text += f"{indent}[{header}]{draw(_ends)}"
        keys = draw(st.lists(st.sampled_from(["one", "Two", "'th ree'", "four"]), unique=True, max_size=3))
        for key in keys:
            text += f"{indent}{draw(_indents)}{key} = {draw(_values)}{draw(_ends)}"
        if header.endswith("options") and draw(st.booleans()):
            text += f"{indent}BinaryName = {quote * 2}{draw(_ends)}"
    return text.rstrip("\r\n ") if draw(st.booleans()) else text


@setup(deadline=None)
@given(_configurations(), st.sampled_from([BINARY, BASE_SPEC]), st.booleans())
def test_put_and_take_of_any_file_give_same_bytes(text: str, key: str, two: bool) -> None:
    tomllib.loads(text)
    wanted = settings(key, *(("runc", "other") if two else ("runc",)))
    try:
        changed = put_all(text, wanted)
    except FlowtagError:
        reject()  # seldom: else Hypothesis complains
    assert set(settings_of(tomllib.loads(changed), V2, [key])) == set(wanted)
    assert take(changed, V2, wanted) == text

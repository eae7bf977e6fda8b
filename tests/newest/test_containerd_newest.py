# SPDX-License-Identifier: Apache-2.0
"""Registration with containerd 1.7 and 2.1: the tests of tests/engines, with other binaries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.test_containerd_config import (  # noqa: F401 - collected here again
    site,
    test_base_spec_is_the_default_of_this_version_without_limits,
    test_engine_without_socket_is_found_in_path,
    test_register_is_in_force_and_unregister_gives_same_bytes,
    test_register_keeps_options_and_covers_runc_handlers,
    test_register_refuses_default_set_by_somebody_else,
    test_register_refuses_file_whose_section_an_import_replaces,
    test_register_refuses_what_it_cannot_do_safely,
    test_register_with_other_method_than_in_force_is_refused,
    test_register_without_file_makes_one_that_unregister_removes,
    test_validate_refuses_any_other_change,
)
from tests.engines.test_containerd_register import (  # noqa: F401
    node,
    test_register_and_unregister_leave_every_pod_its_life,
    test_register_changes_nothing_else_in_container,
)
from tests.rig import debian, versions
from tests.rig.containerd import Containerd
from tests.rig.view import View

VERSIONS = ("1.7", "2.1")


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    chosen: str = request.param
    folder: Path = versions.containerd_1_7() if chosen == "1.7" else debian.sid_root() / "usr/bin"
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin")
    return chosen


@pytest.fixture(params=VERSIONS)
def containerd(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    if request.param == "1.7":
        with Containerd(binaries=versions.containerd_1_7()) as engine:
            yield engine
        return
    with View(root=debian.sid_root()) as view, Containerd(view=view) as engine:
        yield engine

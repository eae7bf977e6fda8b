# SPDX-License-Identifier: Apache-2.0
"""A tenth of the traffic of most scenarios; the whole is `.venv/bin/python -m tests.truth`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.truth.methods import FLOWTAG
from tests.truth.mutation import MUTATIONS, mutated
from tests.truth.scenario import SCENARIOS
from tests.truth.tally import tally

SIZE = 0.1
SLOW = ("late_close", "slow_connect", "slow_netns", "slow_translated", "degraded", "missing_claim")


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in SLOW])
def test_no_flow_is_misattributed(kernel: None, tmp_path: Path, name: str) -> None:
    found = tally(SCENARIOS[name](tmp_path, SIZE))
    assert found.methods[FLOWTAG].flows > 0
    assert found.green, found.faults


@pytest.mark.parametrize("rule", ["cgroup", "foreign_process"])
def test_a_program_without_a_rule_is_caught(kernel: None, tmp_path: Path, rule: str) -> None:
    """All of them: `.venv/bin/python -m tests.truth --mutate all`."""
    mutation = MUTATIONS[rule]
    with mutated(mutation, tmp_path / "mutant"):
        found = tally(SCENARIOS[mutation.scenario](tmp_path, SIZE))
    assert found.methods[FLOWTAG].misattributed > 0

# SPDX-License-Identifier: Apache-2.0
"""No chain is verified that `openssl verify -purpose sslclient` refuses: 1,000 chains, good and bad.

More: `.venv/bin/python -m tests.rig.chain_verdicts --count 20000 --first 1000`.
"""

from __future__ import annotations

from pathlib import Path

from tests.rig.chain_faults import FAULTS, chain
from tests.rig.chain_verdicts import compare, openssl, ours
from tests.rig.chains import Plan, good

COUNT = 1000


def test_verdicts_on_a_thousand_chains(tmp_path: Path) -> None:
    found = compare(range(COUNT), tmp_path)
    assert not found.wrong, {number: (chain(number).faults, said) for number, said in found.wrong.items()}
    # Both answers are frequent, or the comparison proves nothing.
    assert len(found.both) > COUNT / 4
    assert len(found.neither) > COUNT / 4


def test_every_fault_is_among_the_thousand() -> None:
    names = {fault.partition(": ")[2] or fault for number in range(COUNT) for fault in chain(number).faults}
    assert len(names) >= len(FAULTS) - 1  # two root trusts of a cross-signed one are one fault each


def test_good_chains_are_accepted_by_both(tmp_path: Path) -> None:
    for links in range(4):
        made = good(links).make()
        assert (ours(made), openssl(made, tmp_path)) == ("", "")


def test_chain_without_its_root_is_refused_by_both(tmp_path: Path) -> None:
    plan: Plan = good(1)
    plan.trust_root = False
    made = plan.make()
    assert "neither in it nor in the chain" in ours(made)
    assert openssl(made, tmp_path)

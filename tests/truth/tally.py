# SPDX-License-Identifier: Apache-2.0
"""Right, wrong, nobody's, missing, doubled: the answers counted against the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from tests.truth.methods import FLOWTAG, Answer, answers
from tests.truth.owner import Expectation, without_identity
from tests.truth.stage import Evidence
from tests.truth.tap import Verdict

EXAMPLES = 5


@dataclass(slots=True)
class Count:
    """flows = correct + misattributed + unattributed + missing; doubled flows count once in those.

    by_design: how many of the unattributed the design leaves to nobody. lost_counted: losses that the
    kernel side counted itself.
    """

    flows: int = 0
    correct: int = 0
    misattributed: int = 0
    unattributed: int = 0
    by_design: int = 0
    missing: int = 0
    doubled: int = 0
    lost_counted: int = 0

    def add(self, other: Count) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def green(self) -> bool:
        """Nothing wrong, nothing twice, no gap that is not counted or the design's."""
        return (
            self.misattributed == 0
            and self.doubled == 0
            and self.missing <= self.lost_counted
            and self.unattributed == self.by_design
        )


@dataclass(slots=True)
class Tally:
    """One scenario: by method, and flowtag's verdicts by rule or reason. faults: some of what is wrong.

    hooked: flowtag's verdicts on containers whose hook ran, by rule or reason.
    """

    methods: dict[str, Count]
    by_rule: dict[str, Count]
    hooked: dict[str, Count]
    seconds: float
    faults: list[str] = field(default_factory=list)

    @property
    def green(self) -> bool:
        return self.methods[FLOWTAG].green


def tally(evidence: Evidence) -> Tally:
    """Count one scenario."""
    by_rule: dict[str, Count] = defaultdict(Count)
    hooked: dict[str, Count] = defaultdict(Count)
    faults: list[str] = []
    methods: dict[str, Count] = {}
    for name, given in answers(evidence).items():
        methods[name] = Count()
        for answer in given:
            expected = evidence.expected[answer.socket.nonce]
            if name != FLOWTAG:
                expected = replace(expected, owner=without_identity(expected.owner))
            one = judge(answer, expected, strict=name == FLOWTAG)
            methods[name].add(one)
            if name == FLOWTAG:
                by_rule[_heading(answer.verdicts)].add(one)
                if expected.hooked:
                    hooked[_heading(answer.verdicts)].add(one)
                if not one.green and len(faults) < EXAMPLES:
                    faults.append(f"{expected}: {answer}")
    methods[FLOWTAG].lost_counted = evidence.lost
    return Tally(
        methods, dict(sorted(by_rule.items())), dict(sorted(hooked.items())), evidence.seconds, faults
    )


def judge(answer: Answer, expected: Expectation, *, strict: bool) -> Count:
    """One flow. Only flowtag (`strict`) is held to the design's reasons and to whom it may not name."""
    count = Count(flows=1, doubled=int(len(answer.owners) > 1))
    if not answer.owners:
        count.missing = 1
        return count
    verdict = answer.verdicts[0] if answer.verdicts else None
    wrong = [owner for owner in answer.owners if owner not in (None, expected.owner)]
    named = any(owner is not None for owner in answer.owners)
    if wrong or (strict and named and expected.nobodys) or _role_is_wrong(answer, verdict):
        count.misattributed = 1
    elif named:
        count.correct = 1
    else:
        count.unattributed = 1
        count.by_design = int(verdict.reason in expected.reasons if verdict else expected.nobodys)
    return count


def _role_is_wrong(answer: Answer, verdict: Verdict | None) -> bool:
    """Of an adopted socket nobody knows who called whom."""
    return verdict is not None and verdict.opened is not None and verdict.role != answer.socket.role


def _heading(verdicts: tuple[Verdict, ...]) -> str:
    if not verdicts:
        return "missing"
    return verdicts[0].reason or verdicts[0].rule


def total(counts: Iterable[Count]) -> Count:
    whole = Count()
    for count in counts:
        whole.add(count)
    return whole

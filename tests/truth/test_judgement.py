# SPDX-License-Identifier: Apache-2.0
"""The harness itself: it sees what is wrong, twice, missing or nobody's. No kernel needed."""

from __future__ import annotations

import pytest

from tests.truth import log
from tests.truth.join import join
from tests.truth.methods import Answer
from tests.truth.owner import HOST, Expectation, hooked, nobodys
from tests.truth.tally import Count, judge
from tests.truth.tap import Verdict

NONCE_A, NONCE_B = "a" * 16, "b" * 16
TAIL = "00000000" * 2
HERE, THERE = ("10.0.0.2", 40000), ("10.0.0.3", 80)
KEY = 7, HERE, THERE


def socket(since: int = 100, until: int = 200, nonce: str = NONCE_A) -> log.Socket:
    return log.Socket(KEY, "client", since, until, nonce, witnessed=True)


def verdict(
    owner: str | None, *, opened: int | None = 150, reason: str = "", role: str = "client"
) -> Verdict:
    return Verdict(
        KEY, role, opened, ended=300, read=400, owner=owner, rule="cgroup", reason=reason, source=""
    )


def judged(expected: Expectation, *verdicts: Verdict) -> Count:
    return judge(Answer(socket(), tuple(v.owner for v in verdicts), verdicts), expected, strict=True)


def test_right_owner_is_green() -> None:
    count = judged(hooked("web"), verdict("web"))
    assert count.green
    assert count.correct == 1


@pytest.mark.parametrize("wrong", ["shop", HOST])
def test_another_owner_is_misattributed(wrong: str) -> None:
    assert judged(hooked("web"), verdict(wrong)).misattributed == 1


def test_wrong_role_is_misattributed() -> None:
    assert judged(hooked("web"), verdict("web", role="server")).misattributed == 1
    assert judged(hooked("web"), verdict("web", role="unknown", opened=None)).correct == 1


def test_an_owner_where_the_design_says_nobody_is_misattributed() -> None:
    assert judged(nobodys(HOST, "foreign_process"), verdict(HOST)).misattributed == 1


def test_nobody_is_green_for_the_designs_reason_only() -> None:
    assert judged(nobodys(HOST, "no_claim"), verdict(None, reason="no_claim")).green
    assert not judged(nobodys(HOST, "no_claim"), verdict(None, reason="expired")).green
    assert not judged(hooked("web"), verdict(None, reason="no_claim")).green


def test_two_records_of_one_flow_are_doubled_and_none_is_missing() -> None:
    twice = judged(hooked("web"), verdict("web"), verdict("web"))
    assert (twice.doubled, twice.green) == (1, False)
    none = judged(hooked("web"))
    assert (none.missing, none.green) == (1, False)
    none.lost_counted = 1
    assert none.green


def joined(sockets: list[log.Socket], times: list[int]) -> list[list[int]]:
    found = join(sockets, times, lambda _: KEY, lambda moment: moment)
    return [one.seen for one in found]


def test_one_address_and_port_for_two_sockets_are_told_by_time() -> None:
    ms = 1_000_000
    first, second = socket(0, 10 * ms), socket(50 * ms, 60 * ms)
    assert joined([second, first], [55 * ms, 5 * ms]) == [[5 * ms], [55 * ms]]
    # The first was lost, or the second came twice.
    assert joined([first, second], [55 * ms]) == [[], [55 * ms]]
    assert joined([first, second], [5 * ms, 55 * ms, 56 * ms]) == [[5 * ms], [55 * ms, 56 * ms]]


def test_of_two_that_could_have_opened_the_one_with_less_time_did() -> None:
    ms = 1_000_000
    long, short = socket(0, 100 * ms), socket(1 * ms, 20 * ms)
    assert joined([long, short], [10 * ms, 90 * ms]) == [[90 * ms], [10 * ms]]


def line(token: str, role: str, said: str) -> log.Line:
    local, peer = (HERE, THERE) if role == "client" else (THERE, HERE)
    return log.Line(token, role, 7, local, peer, 100, 200, said, "ok")


def test_the_far_end_says_who_it_was() -> None:
    a, b = f"{NONCE_A}{TAIL}c", f"{NONCE_B}{TAIL}c"
    client, server = log.sockets([line(a, "client", b), line(b, "server", a)])
    assert (client.nonce, server.nonce) == (NONCE_A, NONCE_B)
    assert client.witnessed
    assert server.since == 100


def test_two_ends_that_differ_are_a_contradiction() -> None:
    a, b = f"{NONCE_A}{TAIL}c", f"{NONCE_B}{TAIL}c"
    with pytest.raises(log.Contradiction):
        log.sockets([line(a, "client", b), line(b, "client", a)])
    with pytest.raises(log.Contradiction):
        log.sockets([line(a, "client", ""), line(a, "client", "")])

# SPDX-License-Identifier: Apache-2.0
"""Rules from a certificate's fields to workload, app and labels."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bpf.error import FlowtagError
from identity import certificate_rules
from identity.certificate_rules import Rule, apply
from identity.instance import Refused

SPIFFE = Rule(
    "uri",
    "spiffe://example.org/ns/(?P<ns>[^/]+)/sa/(?P<sa>.+)",
    "{ns}/{sa}",
    "{sa}",
    {"team": "{ns}", "id": "{value}"},
)
URI = "spiffe://example.org/ns/shop/sa/web"


def test_rule_fills_workload_app_and_labels() -> None:
    found = apply((SPIFFE,), {"uri": ["https://example.org", URI]})
    assert (found.workload, found.app) == ("shop/web", "web")
    assert found.labels == {"team": "shop", "id": URI}


def test_first_rule_that_matches_decides() -> None:
    rules = (Rule("ou", "x", "no"), Rule("o", ".*", "o-{value}"), Rule("cn", ".*", "cn"))
    assert apply(rules, {"cn": ["a"], "o": ["b"], "ou": ["c"]}).workload == "o-b"


def test_match_is_for_the_whole_value() -> None:
    with pytest.raises(Refused, match="no rule matches"):
        apply((Rule("cn", "web", "{value}"),), {"cn": ["web-2", "aweb"]})


def test_long_values_match_nothing() -> None:
    rules = (Rule("cn", ".+", "{value}"),)
    assert apply(rules, {"cn": ["a" * 256]}).workload == "a" * 256
    with pytest.raises(Refused):
        apply(rules, {"cn": ["a" * 257]})


def test_without_rules_the_spiffe_id_goes_before_the_name() -> None:
    assert apply((), {"cn": ["web"], "dns": ["web.example.org"], "uri": [URI]}).workload == URI
    assert apply((), {"cn": ["web"], "dns": ["web.example.org"]}).workload == "web"
    assert apply((), {"dns": ["web.example.org"], "uri": ["https://x"]}).workload == "web.example.org"


@pytest.mark.parametrize("value", ["b", "a b", "a\n\tb"])
def test_name_of_nothing_is_refused(value: str) -> None:
    """A group that took no part, or what is no text."""
    with pytest.raises(Refused, match="makes no name of"):
        apply((Rule("cn", "(?:a(?P<name>\\s+))?b", "{name}"),), {"cn": [value]})


def test_braces_in_a_value_stand_for_themselves() -> None:
    assert apply((Rule("cn", ".+", "{value}", "{value}"),), {"cn": ["{app}"]}).app == "{app}"


@pytest.mark.parametrize(
    ("field", "match", "workload", "said"),
    [
        ("email", ".+", "x", "field is 'email'"),
        ("oid:", ".+", "x", "field is 'oid:'"),
        ("oid:9.1", ".+", "x", "field is"),
        ("cn", "(", "x", "match is"),
        ("cn", "a" * 513, "x", "longer than 512"),
        ("cn", "(a+)+", "x", "could take for ever"),
        ("cn", "(?:a|aa)*b", "x", "could take for ever"),
        ("cn", "((a?)b?){40}", "x", "could take for ever"),
        ("cn", ".*.*.*.*", "x", "could take for ever"),
        ("cn", ".+", "", "names no workload"),
        ("cn", "(?P<a>.+)", "{b}", "has no group for"),
    ],
)
def test_bad_rule_is_refused_when_configured(field: str, match: str, workload: str, said: str) -> None:
    with pytest.raises(FlowtagError, match=re.escape(said)):
        Rule(field, match, workload)


def test_labels_may_not_take_a_sources_names() -> None:
    with pytest.raises(FlowtagError, match=r"flowtag\.io/"):
        Rule("cn", ".+", "x", labels={"flowtag.io/region": "eu"})


@pytest.mark.parametrize(
    "match", [r"[(a+)+]+", r"\(a+\)+", "(?P<a>[^/]+)/(?P<b>[^]*+]+)", "(a+)b+", "(ab)+", "[^]]+", r"[\]]+x"]
)
def test_harmless_patterns_are_taken(match: str) -> None:
    Rule("cn", match, "x")


@given(st.text("ab(|)*+?[]^\\.{1,}", max_size=14))
def test_patterns_that_are_taken_are_quick(match: str) -> None:
    """With a few repeats: several in a row, as in a*a*a*a*, are polynomial, and docs/ec2.md says so."""
    assume(sum(map(match.count, "*+{")) <= 3)
    try:
        rule = Rule("cn", match, "x")
    except FlowtagError:
        return
    began = time.monotonic()
    for value in ("a" * 64, "ab" * 32, "a" * 63 + "!"):
        certificate_rules._compile(rule.match).fullmatch(value)
    assert time.monotonic() - began < 2

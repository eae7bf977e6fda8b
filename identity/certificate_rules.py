# SPDX-License-Identifier: Apache-2.0
"""From the fields of a certificate to workload, app and labels, by rules of the configuration.

    [[identity.certificate.rules]]
    field = "uri"
    match = "spiffe://example.org/ns/(?P<ns>[^/]+)/sa/(?P<sa>.+)"
    workload = "{ns}/{sa}"
    app = "{sa}"
    labels = { team = "{ns}" }

The first rule of which a value of its field matches as a whole decides. Values come from a certificate,
so from others: they are bounded, and patterns that could take for ever on them are refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as _default

from bpf.error import FlowtagError
from identity.instance import NO_RULE, Refused, check_labels
from identity.workload import fit

FIELDS = ("uri", "dns", "cn", "o", "ou")
VALUE_MAX = 256
"""Longer values match nothing."""
PATTERN_MAX = 512
ANYTHING_MAX = 3
_ANYTHING = re.compile(r"\.[*+{]")
_PLACE = re.compile(r"\{(\w+)\}")
_OID = re.compile(r"oid:[0-2](\.(0|[1-9][0-9]{0,9})){1,15}")

Fields = Mapping[str, Sequence[str]]
"""The values of a certificate by the name of their field: FIELDS, or oid:1.2.3 for an extension."""


@dataclass(frozen=True, slots=True)
class Rule:
    """[[identity.certificate.rules]] what to make of one field.

    field: uri, dns, cn, o, ou, or oid:1.2.3 for an extension whose value is one ASN.1 string. match: a
    regular expression for the whole value. workload, app, labels: texts in which {name} stands for a
    named group and {value} for the whole value; app and labels may be left out.
    """

    field: str
    match: str
    workload: str
    app: str = ""
    labels: Mapping[str, str] = _default(default_factory=dict)

    def __post_init__(self) -> None:
        path = "identity.certificate.rules"
        if self.field not in FIELDS and not _OID.fullmatch(self.field):
            raise FlowtagError(
                f"{path}: field is {self.field!r}", f"use {', '.join(FIELDS)} or oid:1.2.3 (an extension)"
            )
        try:
            groups = {*_compile(self.match).groupindex, "value"}
        except (re.error, RecursionError, OverflowError) as error:
            raise FlowtagError(f"{path}: match is {self.match!r}: {error}") from None
        if not self.workload:
            raise FlowtagError(f"{path}: the rule for {self.field} names no workload")
        check_labels(f"{path}: labels", self.labels)
        for text in (self.workload, self.app, *self.labels.values()):
            for name in _PLACE.findall(text):
                if name not in groups:
                    raise FlowtagError(
                        f"{path}: {text!r} names {name!r}, which match has no group for",
                        f"write (?P<{name}>...) in match; known here: {', '.join(sorted(groups))}",
                    )


@dataclass(frozen=True, slots=True)
class Named:
    """What a rule made of a certificate."""

    workload: str
    app: str
    labels: Mapping[str, str]


def apply(rules: tuple[Rule, ...], fields: Fields) -> Named:
    """What the first rule that matches makes of these fields; Refused where none does."""
    for rule in rules or DEFAULT:
        pattern = _compile(rule.match)
        for value in fields.get(rule.field, ()):
            found = pattern.fullmatch(value) if len(value) <= VALUE_MAX else None
            if found:
                groups = {name: text or "" for name, text in found.groupdict().items()}
                return _named(rule, {**groups, "value": value})
    tried = ", ".join(f"{rule.field} = {rule.match!r}" for rule in rules or DEFAULT)
    has = ", ".join(
        f"{name} = {value[:VALUE_MAX]!r}" for name in sorted(fields) for value in fields[name][:4]
    )
    raise Refused(
        NO_RULE,
        f"no rule matches the certificate: tried {tried}; the certificate has {has or 'no usable field'}",
        "see [[identity.certificate.rules]]: match is for the whole value",
    )


def _named(rule: Rule, groups: Mapping[str, str]) -> Named:
    def fill(text: str) -> str:
        return _PLACE.sub(lambda place: groups[place[1]], text)[: 4 * VALUE_MAX]

    named = Named(fill(rule.workload), fill(rule.app), {key: fill(text) for key, text in rule.labels.items()})
    if not fit(named.workload, VALUE_MAX).strip():
        raise Refused(NO_RULE, f"the rule for {rule.field} makes no name of {groups['value']!r}")
    return named


def _compile(pattern: str) -> re.Pattern[str]:
    if len(pattern) > PATTERN_MAX:
        raise re.error(f"longer than {PATTERN_MAX} characters")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what Python may read otherwise one day
        try:
            compiled = re.compile(pattern)
        except Warning as warning:
            raise re.error(str(warning)) from None
    if _backtracks(pattern):
        raise re.error("a repeated group that repeats or branches inside could take for ever on some values")
    if len(_ANYTHING.findall(pattern)) > ANYTHING_MAX:
        raise re.error(f"more than {ANYTHING_MAX} times .* or .+ could take for ever on some values")
    return compiled


def _backtracks(pattern: str) -> bool:
    """Whether a group is repeated in which something is repeated, optional or branches: (a+)+, (aa?)*.

    Such patterns try exponentially many ways on some values, and Python's matcher knows no time limit.
    More than is needed is refused; what is left takes polynomial time on VALUE_MAX characters.
    """
    open_groups = [False]
    index, end = 0, len(pattern)
    while index < end:
        char = pattern[index]
        if char == "\\":
            index += 2
        elif char == "[":
            index = _end_of_class(pattern, index)
        elif char == "(":
            open_groups.append(False)
            index += 2 if pattern[index + 1 : index + 2] == "?" else 1
        elif char == ")":
            inside = open_groups.pop()
            index += 1
            repeated = pattern[index : index + 1] in ("*", "+", "{")
            if inside and repeated:
                return True
            if inside or repeated:
                open_groups[-1] = True
        else:
            if char in "*+?{|":
                open_groups[-1] = True
            index += 1
    return False


def _end_of_class(pattern: str, index: int) -> int:
    """The index behind a character class that begins at `index`; the pattern has been compiled."""
    index += 1
    if pattern[index] == "^":
        index += 1
    if pattern[index] == "]":
        index += 1
    while pattern[index] != "]":
        index += 2 if pattern[index] == "\\" else 1
    return index + 1


DEFAULT = (
    Rule("uri", "spiffe://.+", "{value}"),
    Rule("cn", ".+", "{value}"),
    Rule("dns", ".+", "{value}"),
)
"""Without rules: the SPIFFE id, else the common name, else the first DNS name."""

# SPDX-License-Identifier: Apache-2.0
"""/healthz and /readyz: 200 or 503, and what is wrong, a line each; as JSON for who accepts that."""

from __future__ import annotations

import json

from exporter.health.health import Health
from exporter.health.problem import DEGRADED, LIVE, Problem
from exporter.metrics.endpoint import TEXT, Answer, Page

JSON = "application/json"


def page(health: Health, *, ready: bool) -> Page:
    """ready: every problem is told, and all but the degraded fail; else those that a restart would cure."""

    def answer(accept: str) -> Answer:
        found = [one for one in health.problems() if ready or one.severity == LIVE]
        status = 503 if any(one.severity != DEGRADED for one in found) else 200
        if JSON in accept:
            return Answer(status, JSON, json.dumps(_values(status, found)).encode() + b"\n")
        return Answer(status, TEXT, "".join(f"{line}\n" for line in _lines(status, found)).encode())

    return answer


def _values(status: int, found: list[Problem]) -> dict[str, object]:
    problems = [
        {"problem": one.name, "severity": one.severity, "text": one.text, "hint": one.hint} for one in found
    ]
    return {"ok": status == 200, "problems": problems}


def _lines(status: int, found: list[Problem]) -> list[str]:
    head = "ok" if status == 200 else "failing"
    return [head, *(f"{one.severity}: {one.name}: {one.text}; {one.hint}" for one in found)]

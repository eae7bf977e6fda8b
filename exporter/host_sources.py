# SPDX-License-Identifier: Apache-2.0
"""The sources of the host's identity, as configured: one look at each, in order."""

from __future__ import annotations

import time
from dataclasses import dataclass

from exporter.config import Identity as Settings
from identity import certificate, instance, instance_document
from identity.instance import MISSING, UNREACHABLE, Identity, Outcome, Refused

DOCUMENT_AGAIN = 30.0
"""Seconds until the metadata service is asked again after it gave no answer."""
DOCUMENT_GOOD = 600.0
"""Seconds that an answer of it is good for."""


@dataclass(slots=True)
class Sources:
    """Looks at the sources; what the metadata service said is kept, so that it is not asked too often."""

    settings: Settings
    _answer: Identity | Refused | None = None
    _asked: float = 0.0

    def look(self, *, ask: bool = True) -> Outcome:
        """The first source that speaks. ask: False leaves the metadata service alone."""
        now = time.time()
        readers: dict[str, instance.Reader] = {
            "certificate": lambda: certificate.read(self.settings.certificate, now),
            "document": lambda: self._document(now, ask),
            "static": lambda: instance.static(self.settings.static),
            "hostname": instance.hostname,
        }
        return instance.look(self.settings.order, readers)

    def _document(self, now: float, ask: bool) -> Identity:
        age = time.monotonic() - self._asked
        good = DOCUMENT_GOOD if isinstance(self._answer, Identity) else DOCUMENT_AGAIN
        if self._answer is None or age > good:
            if not ask:
                raise Refused(UNREACHABLE, "the metadata service has not been asked yet")
            try:
                self._answer = instance_document.read(self.settings.document, now)
            except Refused as error:
                self._answer = error
            self._asked = time.monotonic()
        if isinstance(self._answer, Refused):
            raise self._answer
        return self._answer


def waited_for(settings: Settings, outcome: Outcome) -> bool:
    """Whether a better source than the one that spoke may still come."""
    return any(name != "static" or error.reason != MISSING for name, error in outcome.refused.items())

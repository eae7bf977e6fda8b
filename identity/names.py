# SPDX-License-Identifier: Apache-2.0
"""What an engine, an orchestrator or a certificate says about a workload, beside what the hook wrote.

Names are learned after the fact, by the exporter, and never decide who owned a flow: that is the id in
ft_workload. They fill what the hook could not know and carry the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from identity.workload import Workload


@dataclass(frozen=True, slots=True)
class Names:
    """Empty means unknown. labels are the tenant's own, under their own keys; what the source itself
    knows more is in labels too, under keys that begin with `flowtag.io/`, which no tenant's key may.
    """

    container: str = ""
    pod: str = ""
    namespace: str = ""
    app: str = ""
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Somebody who knows names: an engine's API or files, Kubernetes, the instance's certificate."""

    name: str

    @property
    def working(self) -> bool | None:
        """Whether its names are up to date; None: on this host there is nothing to ask."""

    def names(self, workload: Workload) -> Names | None:
        """What is known now, from memory; never waits, never raises. None: not mine, or not known yet."""

    def close(self) -> None:
        """Stop whatever keeps the memory up to date."""

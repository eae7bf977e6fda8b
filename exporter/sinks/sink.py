# SPDX-License-Identifier: Apache-2.0
"""What a sink is: where batches go. Each kind is a module of its own behind this Protocol."""

from __future__ import annotations

from typing import Protocol

from exporter.batch import Batch


class RefusedError(Exception):
    """The sink will never take this batch: it is dropped, `refused`, and the next one has its turn."""


class Sink(Protocol):
    """Called by one thread of its own. Delivery is at least once: the same key is the same batch again."""

    def deliver(self, batch: Batch) -> None:
        """Return when the batch is safe where it belongs. Any exception but RefusedError: once more, later.

        Must end by itself, by timeouts of its own, however dead the other end is.
        """

    def close(self) -> None:
        """No batch follows."""

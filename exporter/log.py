# SPDX-License-Identifier: Apache-2.0
"""The log: structlog, one line an event on standard error; records have standard output to themselves."""

from __future__ import annotations

import sys

import structlog


def configure() -> None:
    """Log to standard error; colours only on a terminal."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

# SPDX-License-Identifier: Apache-2.0
"""The sinks that the configuration names, by their types."""

from __future__ import annotations

from collections.abc import Mapping

from exporter import sink_config
from exporter.sink import Sink


def open_sink(config: sink_config.Sink) -> Sink:
    """What the others need is not imported."""
    match config:
        case sink_config.Json(path="-"):
            from exporter.json_sink import JsonOutput

            return JsonOutput()
        case sink_config.Json():
            from exporter.json_sink import JsonFile

            return JsonFile(config)
        case sink_config.Parquet():
            from exporter.parquet_sink import ParquetDirectory

            return ParquetDirectory(config)


def open_sinks(config: Mapping[str, sink_config.Sink]) -> dict[str, Sink]:
    """By name. None of them reaches out before its first batch."""
    return {name: open_sink(sink) for name, sink in config.items()}

# SPDX-License-Identifier: Apache-2.0
"""The sinks that the configuration names, by their types."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.sinks import config as sink_config
from exporter.sinks import otlp_config
from exporter.sinks.sink import Sink


def open_sink(config: sink_config.Sink) -> Sink:
    """What the others need is not imported."""
    match config:
        case sink_config.Json(path="-"):
            from exporter.sinks.json_lines import JsonOutput

            return JsonOutput()
        case sink_config.Json():
            from exporter.sinks.json_lines import JsonFile

            return JsonFile(config)
        case sink_config.Parquet():
            from exporter.sinks.parquet import ParquetDirectory

            return ParquetDirectory(config)
        case otlp_config.Otlp():
            from exporter.sinks.otlp import OtlpReceiver

            return OtlpReceiver(config)
        case sink_config.Kafka():
            from exporter.sinks.kafka import KafkaTopic

            return KafkaTopic(config)
        case sink_config.ClickHouse():
            from exporter.sinks.clickhouse import ClickHouseTable

            return ClickHouseTable(config)
        case sink_config.Ipfix():
            from exporter.sinks.ipfix import IpfixCollector

            return IpfixCollector(config)


def open_sinks(config: Mapping[str, sink_config.Sink]) -> dict[str, Sink]:
    """By name. None of them reaches out before its first batch."""
    return {name: open_sink(sink) for name, sink in config.items()}

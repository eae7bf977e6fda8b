# SPDX-License-Identifier: Apache-2.0
"""Short forms for what most families are: one number, or one number for each value of a label."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Values = Mapping[str, float]


def counter(name: str, text: str, value: float) -> CounterMetricFamily:
    """name is without _total."""
    return CounterMetricFamily(name, text, value=value)


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def counters(name: str, text: str, label: str, values: Values) -> CounterMetricFamily:
    """One for each value of `label`; name is without _total."""
    family = CounterMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def gauges(name: str, text: str, label: str, values: Values) -> GaugeMetricFamily:
    """One for each value of `label`."""
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family

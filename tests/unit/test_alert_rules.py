# SPDX-License-Identifier: Apache-2.0
"""Every shipped alert fires when it should and not before, by promtool; docs/operations.md names each."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from exporter.health.problem import KINDS
from tests.rig.prometheus import program

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging/prometheus/flowtag.rules.yml"
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
ALERTS = re.findall(r"alert: (\w+)", RULES.read_text(encoding="utf-8"))
# For each alert: series that make it fire, and the same as they are where all is well. One value a minute.
FIRING: dict[str, dict[str, tuple[str, str]]] = {
    "FlowtagDown": {'up{job="flowtag"}': ("0x60", "1x60")},
    "FlowtagProblem": {'flowtag_problem{severity="live",problem="blind"}': ("1x60", "0x60")},
    "FlowtagDegraded": {'flowtag_problem{severity="degraded",problem="sink_failing"}': ("1x60", "0x60")},
    "FlowtagLostRecords": {
        "flowtag_kernel_lost_ring_total": ("0+5x60", "7x60"),
        "flowtag_kernel_lost_storage_total": ("0x60", "0x60"),
    },
    "FlowtagUnattributed": {
        'flowtag_unattributed_flows_total{unattributed_reason="unclaimed_container"}': ("0+20x60", "0+1x60"),
        'flowtag_records_total{kind="close"}': ("0+100x60", "0+100x60"),
    },
    "FlowtagRingFilling": {
        "flowtag_ring_waiting_bytes": ("60x60", "10x60"),
        "flowtag_ring_size_bytes": ("100x60", "100x60"),
    },
    "FlowtagSpoolFilling": {
        "flowtag_spool_bytes": ("90x60", "10x60"),
        "flowtag_spool_limit_bytes": ("100x60", "100x60"),
    },
    "FlowtagDropped": {'flowtag_sink_dropped_records_total{sink="a",reason="max_bytes"}': ("0+9x60", "9x60")},
    "FlowtagLedger": {'flowtag_sink_unaccounted_records{sink="a"}': ("3x60", "0x60")},
    "FlowtagSinkLagging": {'flowtag_sink_lag_seconds{sink="a"}': ("700x60", "60x60")},
    "FlowtagHookFailing": {'flowtag_hook_failures_total{kind="killed"}': ("0+1x60", "4x60")},
    "FlowtagCertificateExpires": {"flowtag_certificate_not_after_seconds": ("3700x60", "9999x60")},
    "FlowtagNamesStale": {'flowtag_names_source_up{source="docker"}': ("0x60", "1x60")},
    "FlowtagMapFilling": {
        'flowtag_map_entries{map="ft_cgroup"}': ("80x60", "8x60"),
        'flowtag_map_limit_entries{map="ft_cgroup"}': ("100x60", "100x60"),
    },
}


def promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_rules() -> None:
    promtool("check", "rules", str(RULES))


def test_each_alert_fires_and_is_silent(tmp_path: Path) -> None:
    """alert_rule_test compares labels too, so the query counts alerts."""
    assert list(FIRING) == ALERTS
    tests = []
    for alert, series in FIRING.items():
        for which, expected in ((0, 1), (1, 0)):
            query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
            samples = [{"labels": "{}", "value": expected}]
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [
                        {"series": name, "values": values[which]} for name, values in series.items()
                    ],
                    "promql_expr_test": [{"expr": query, "eval_time": "55m", "exp_samples": samples}],
                }
            )
    path = tmp_path / "tests.json"  # JSON is YAML
    path.write_text(json.dumps({"rule_files": [str(RULES)], "tests": tests}), encoding="utf-8")
    promtool("test", "rules", str(path))


def test_page_says_what_to_do_for_each_alert_and_problem() -> None:
    for name in (*ALERTS, *KINDS):
        assert re.search(rf"^\| {name} \|", PAGE, re.MULTILINE), name


def test_page_names_every_metric() -> None:
    """flowtag_kernel_* but one are ft_count's, which docs/maps.md tells."""
    sources = (ROOT / "exporter/metrics").glob("*.py")
    named = {name for path in sources for name in re.findall(r'"(flowtag_[a-z_]*[a-z])"', path.read_text())}
    named |= {f"flowtag_sink_{name}_records" for name in ("seen", "delivered")}
    named |= {f"flowtag_identities_{name}" for name in ("pending", "live")}
    assert len(named) > 35
    for name in named:
        assert name in PAGE, name

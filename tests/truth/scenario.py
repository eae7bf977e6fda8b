# SPDX-License-Identifier: Apache-2.0
"""The scenarios by name. Each takes a directory and a size (1: whole) and returns its evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.truth.scenarios.cgroups import degraded, missing_claim, pure_v2, v1_only
from tests.truth.scenarios.churn import churn
from tests.truth.scenarios.end import killed, late_close
from tests.truth.scenarios.exporter import adopted, adopted_cgroup, adopted_netns, restart
from tests.truth.scenarios.host import found_later, hook_delayed, hook_failed, host_network
from tests.truth.scenarios.passed import activated_listener, inherited_listener, scm_rights
from tests.truth.scenarios.rotation import rotation
from tests.truth.scenarios.shared import nested, nsenter, pod, two_in_one_cgroup, unshare
from tests.truth.scenarios.slow import slow_connect, slow_netns
from tests.truth.scenarios.translated import slow_translated, translated
from tests.truth.stage import Evidence

SCENARIOS: dict[str, Callable[[Path, float], Evidence]] = {
    scenario.__name__: scenario
    for scenario in (
        churn,
        host_network,
        hook_failed,
        found_later,
        hook_delayed,
        pod,
        nested,
        two_in_one_cgroup,
        nsenter,
        unshare,
        scm_rights,
        inherited_listener,
        activated_listener,
        late_close,
        killed,
        slow_connect,
        slow_netns,
        translated,
        slow_translated,
        rotation,
        v1_only,
        pure_v2,
        degraded,
        missing_claim,
        restart,
        adopted,
        adopted_cgroup,
        adopted_netns,
    )
}

# SPDX-License-Identifier: Apache-2.0
"""One rule taken out of the kernel program, in a copy: the scenario that must turn red by it.

with mutated(MUTATIONS["netns"], directory): ...   # every `flowtag` and hook started inside is the copy
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bpf import build
from tests.rig.exporter import ROOT

_PARTS = ("bpf", "identity", "hooks", "exporter")


@dataclass(frozen=True, slots=True)
class Mutation:
    """In `file` the text `old`, which is there exactly once, becomes `new`; `scenario` must turn red."""

    scenario: str
    file: str
    old: str
    new: str = ""


MUTATIONS = {
    # The rules.
    "cgroup": Mutation(
        "host_network", "owner.h", "\telse if (claim)\n\t\tjudge(v, flow, claim, FT_RULE_CGROUP);\n"
    ),
    "netns": Mutation(
        "v1_only",
        "owner.h",
        "\telse if (home->owner.flags & FT_OWNER_NO_CGROUP)\n"
        "\t\tjudge(v, flow, &home->owner, FT_RULE_NETNS);\n",
    ),
    "socket": Mutation(
        "translated", "translator.h", "if (!take_by_cookie(sk, flow)) {", "if (!flow->published) {"
    ),
    "port": Mutation(
        "translated",
        "translator.h",
        "claim = by_port(sk, netns, local_port(tp), &key);",
        "by_port(sk, netns, local_port(tp), &key);\n\t\tclaim = NULL;",
    ),
    "block": Mutation("translated", "translator.h", "claim = by_block(&key);", "claim = NULL;"),
    "host": Mutation(
        "host_network",
        "owner.h",
        "give(v, host->workload, FT_RULE_HOST);",
        "refuse(v, FT_REASON_NO_CLAIM);",
    ),
    # The reasons: what is nobody's becomes somebody's.
    "unclaimed_container": Mutation(
        "hook_failed",
        "cgroup.h",
        "} else if (engine_root(cgroup)) {",
        "} else if (engine_root(cgroup) && false) {",
    ),
    "unclaimed_claim": Mutation(
        "hook_failed",
        "claim.h",
        "if (claim->workload == FT_OWNER_UNCLAIMED)\n\t\trefuse(v, FT_REASON_UNCLAIMED_CONTAINER);\n\telse ",
    ),
    "foreign_process": Mutation(
        "nsenter",
        "owner.h",
        "refuse(v, FT_REASON_FOREIGN_PROCESS);",
        "judge(v, flow, &home->owner, FT_RULE_NETNS);",
    ),
    "unpublished": Mutation(
        "translated",
        "translator.h",
        "\telse\n\t\trefuse(v, FT_REASON_UNPUBLISHED);",
        "\telse\n\t\tgive(v, state.host[0].workload, FT_RULE_HOST);",
    ),
    "activated": Mutation(
        "activated_listener",
        "owner.h",
        "\tif (flow->flags & FT_FLOW_ACTIVATED)\n\t\trefuse(v, FT_REASON_ACTIVATED);\n\telse ",
        "\t",
    ),
    "contested": Mutation(
        "two_in_one_cgroup",
        "claim.h",
        "\telse if (claim->workload == FT_OWNER_CONTESTED)\n\t\trefuse(v, FT_REASON_CONTESTED);\n",
    ),
    "expired_since": Mutation("slow_netns", "claim.h", "since <= flow->time_open && ", ""),
    "expired_until": Mutation(
        "inherited_listener", "claim.h", "(until == 0 || flow->time_open < until)", "true"
    ),
    "expired_offline": Mutation(
        "inherited_listener", "owner.h", "cgroup && !(cgroup->self.flags & CSS_ONLINE)", "false"
    ),
    "degraded": Mutation(
        "degraded", "owner.h", "state.gaps != state.gaps_closed || config.host_needs_claim", "false"
    ),
    "missing_claim": Mutation("missing_claim", "owner.h", " || claim_missing(flow)", ""),
    "no_claim": Mutation(
        "unshare",
        "owner.h",
        "\telse if (!home || home->kind != FT_NETNS_CONTAINER)\n\t\trefuse(v, FT_REASON_NO_CLAIM);",
        "\telse if (!home || home->kind != FT_NETNS_CONTAINER)\n\t\thost_owner(v, flow, cgroup);",
    ),
    "identity_since": Mutation(
        "rotation",
        "owner.h",
        "if (flow->time_open < since)",
        "if (since == FT_HOST_NEVER)",
    ),
    # What the rules stand on.
    "translator": Mutation(
        "translated", "owner.h", "home && home->kind == FT_NETNS_TRANSLATOR", "home && home->kind == 77"
    ),
    "inheritance": Mutation(
        "nested",
        "cgroup.h",
        "\tif (parent) {\n",
        "\tif (parent && false) {\n",
    ),
    "tombstone": Mutation("inherited_listener", "cgroup.h", "\t\towner->until = bpf_ktime_get_boot_ns();\n"),
    "socket_cgroup": Mutation(
        "churn", "owner.h", "cgroup_id = cgroup->kn->id;", "cgroup_id = bpf_get_current_cgroup_id();"
    ),
    "late_look_up": Mutation("killed", "flow.bpf.c", "\t\town(sk, flow, FT_FLOW_ATTR_AT_CLOSE);\n"),
    "adopted_cgroup": Mutation(
        "adopted", "claim.h", "FT_FLOW_ADOPTED && rule != FT_RULE_CGROUP", "FT_FLOW_ADOPTED"
    ),
    "adopted_netns": Mutation(
        "adopted_netns",
        "claim.h",
        "\t\treturn false;\n\treturn since",
        "\t\treturn true;\n\treturn since",
    ),
    "adopted_since": Mutation(
        "adopted_cgroup",
        "claim.h",
        "\tif (flow->flags & FT_FLOW_ADOPTED && rule != FT_RULE_CGROUP)\n\t\treturn false;\n",
        "\tif (flow->flags & FT_FLOW_ADOPTED)\n\t\treturn rule == FT_RULE_CGROUP;\n",
    ),
    "closed_once": Mutation(
        "host_network", "flow.bpf.c", "__sync_fetch_and_or(&flow->closed, 1)", "flow->closed > 1"
    ),
}


@contextmanager
def mutated(mutation: Mutation, directory: Path) -> Iterator[None]:
    """Build the copy in `directory`; commands started meanwhile import from there."""
    for part in _PARTS:
        shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
    shutil.copy(ROOT / "flowtag.py", directory)
    path = directory / "bpf" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"bpf/{mutation.file}: {mutation.old!r} is there {text.count(mutation.old)} times")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    build.build(directory / "bpf" / build.OBJECT.name, directory / "bpf" / build.SOURCE.name)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before

# SPDX-License-Identifier: Apache-2.0
"""Which containers still need the stub, the wrapper or an engine's runtime entry.

Docker keeps a runtime's name with each container, and needs that entry to start it again. Other containers
refer by the hooks in their bundle (poststop is still to come), or by what their shim was told to run. What no
file in a known place tells, the hook itself does: whoever it has announced, and who lives, has it.

Not needed by: a stopped container of Podman's, whose bundle is made anew at each start; one that CRI
created and never started, or that has ended and was collected, which CRI starts never again. Not seen: a
container of `nerdctl --runtime .../flowtag-runc` that is stopped, which containerd's database alone knows.
"""

from __future__ import annotations

from collections.abc import Sequence

from bpf.error import FlowtagError
from hooks.bundles import BUNDLES as BUNDLES
from hooks.bundles import Known, every
from hooks.runtime import Options, Reference
from hooks.runtimes.containerd_tasks import STATE, TASKS
from hooks.runtimes.docker import Docker
from identity import incarnation


def find(
    options: Options,
    engine: str = "auto",
    docker_roots: Sequence[str] | None = None,
    bundles: Sequence[tuple[str, str]] | None = None,
) -> list[Reference]:
    """Every container that refers. Files that vanish meanwhile are none.

    engine: the one that the file and the socket in `options` are of. docker_roots and bundles: where to
    look; None: in the usual places, and where the engines that run say.
    """
    return referring(containers(options, engine, docker_roots, bundles), options.run_directory)


def containers(
    options: Options,
    engine: str = "auto",
    docker_roots: Sequence[str] | None = None,
    bundles: Sequence[tuple[str, str]] | None = None,
) -> list[Known]:
    """Every container that a file in these places speaks of, whether it refers or not."""
    roots = [Docker().data_root(_own(options, engine, "docker"))] if docker_roots is None else docker_roots
    if bundles is None:
        state = containerd_state(_own(options, engine, "containerd"))
        pattern = ("containerd", f"{state}/{TASKS}/*/*/config.json")
        bundles = BUNDLES if pattern in BUNDLES else (pattern, *BUNDLES)
    return every(options.hook_directory, roots, bundles)


def referring(known: Sequence[Known], run_directory: str) -> list[Reference]:
    """Those of them that refer, and those that only the hook's memory knows."""
    found = [
        Reference(one.engine, one.name or one.container_id, one.refers, one.container_id, one.running)
        for one in known
        if one.refers
    ]
    ids = {one.container_id for one in known}
    live = f"{run_directory}/live"
    try:
        remembered = list(incarnation.every(live))
    except OSError:
        return found
    for name, one in remembered:
        workload = one.workload
        if workload.container_id not in ids and one.lives():
            engine = workload.runtime or "runc"
            said = workload.name or workload.container_id
            found.append(Reference(engine, said, f"{live}/{name}", workload.container_id, True))
    return found


def containerd_state(options: Options) -> str:
    """Where the containerd of this machine keeps what lives."""
    from hooks.runtimes.containerd_site import look

    try:
        return str(look(options).effective().get("state") or STATE)
    except (FlowtagError, OSError):
        return STATE  # its state is in force all the same; status and register say what is wrong


def _own(options: Options, engine: str, name: str) -> Options:
    """The options for an engine, which another's file and socket are not."""
    return options if engine == name else options._replace(file="", socket="", method="")

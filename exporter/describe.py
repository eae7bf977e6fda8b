# SPDX-License-Identifier: Apache-2.0
"""A workload's names as they are now: what the hook wrote, filled up by engines and orchestrators.

Asked with every batch, once for each distinct owner of it, and nothing is kept between batches: so a
renamed container has its new name in the next batch, at the price of a look into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import structlog

from exporter.config import Identity
from identity import docker, kubernetes, podman
from identity.names import Names, Source
from identity.workload import KIND_POD, Workload

# Their containers can be renamed, and of those the hook knows no name.
RENAMING = ("docker", "podman")


def open_sources(config: Identity) -> list[Source]:
    """Every source that the configuration asks for, the most telling first; each keeps itself up to date."""
    sources: list[Source] = []
    # Before Docker, which may run Kubernetes' containers, and calls them k8s_CONTAINER_POD_...
    pods = kubernetes.open_source(config.kubernetes, config.kubernetes_node)
    if pods is not None:
        sources.append(pods)
    if config.docker != "off":
        sources.append(docker.Docker(docker.SOCKET if config.docker == "auto" else config.docker))
    if config.podman != "off":
        sources.append(podman.Podman(podman.STORAGE if config.podman == "auto" else config.podman))
    return sources


class Describer:
    """Merges what the sources know. A source answers from memory or not at all, so no record waits.

    What the hook wrote stays, for it is of the annotations that the engine itself sets; a source fills
    what is empty, the first that knows. Labels are put together, again the first first.
    """

    def __init__(self, config: Identity, sources: Sequence[Source] | None = None) -> None:
        self._sources = list(open_sources(config) if sources is None else sources)
        self._app_labels = config.app_labels
        self._raised: set[str] = set()  # sources whose fault has been told

    def __enter__(self) -> Describer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self._sources:
            source.close()

    def describe(self, workload: Workload) -> Names:
        """The names in force now; never waits, never raises."""
        container, image = workload.container, workload.image
        pod, namespace, app = workload.pod, workload.namespace, workload.app
        renaming = workload.runtime in RENAMING
        labels: dict[str, str] = {}
        others = ""
        for names in self._ask(workload):
            if workload.kind != KIND_POD:  # a sandbox is its pod, and has neither
                if renaming and names.container:
                    container, renaming = names.container, False
                container = container or names.container
                image = image or names.image
            if not pod and not namespace:  # never one's pod in another's namespace
                pod, namespace = names.pod, names.namespace
            others = others or names.app
            labels = {**names.labels, **labels}
        chosen = next(filter(None, map(labels.get, self._app_labels)), "")
        return Names(container, pod, namespace, app or chosen or others, image, labels)

    def _ask(self, workload: Workload) -> list[Names]:
        found = []
        for source in self._sources:
            try:
                names = source.names(workload)
            except Exception as error:
                # A source must not raise. If it does, records without its names are better than none.
                if source.name not in self._raised:
                    structlog.get_logger().error("names left out", source=source.name, error=repr(error))
                    self._raised.add(source.name)
                continue
            if names is not None:
                found.append(names)
        return found

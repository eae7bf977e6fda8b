# SPDX-License-Identifier: Apache-2.0
"""What a record says of its workload, and how the spool keeps that beside a batch.

Names are joined once for a batch, when its minute is over, and kept: a sink that was down for hours,
or a reboot later, still gets those that were in force then.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from bpf import abi
from exporter.describe import Describer
from identity.workload import Workload, display_name


@dataclass(frozen=True, slots=True)
class Label:
    """The fields of the record that its workload gives, in the record's order; None is unknown."""

    workload: str | None = None
    workload_kind: str = "none"
    app: str | None = None
    namespace: str | None = None
    pod: str | None = None
    container: str | None = None
    container_id: str | None = None
    image: str | None = None
    runtime: str | None = None
    identity_source: str | None = None
    identity_state: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


NOBODY = Label()
FIELDS = tuple(f.name for f in dataclasses.fields(Label))


def label(workload: Workload | None, describer: Describer) -> Label:
    """With the names that are in force now; NOBODY for nobody."""
    if workload is None:
        return NOBODY
    names = describer.describe(workload)
    otherwise = workload.container_id or workload.host
    return Label(
        workload=display_name(names.namespace, names.pod, names.container, otherwise),
        workload_kind=abi.WORKLOAD_KINDS[workload.kind],
        app=names.app or None,
        namespace=names.namespace or None,
        pod=names.pod or None,
        container=names.container or None,
        container_id=workload.container_id or None,
        image=names.image or None,
        runtime=workload.runtime or None,
        identity_source=abi.SOURCES[workload.source] if workload.source else None,
        identity_state=abi.STATES[workload.state] if workload.state else None,
        labels={key: names.labels[key] for key in sorted(names.labels)},
    )


def as_dict(value: Label) -> dict[str, object]:
    """By field name, in the record's order."""
    return {name: getattr(value, name) for name in FIELDS}


def pack(labels: Mapping[int, Label]) -> bytes:
    """Labels by owner id, as bytes of a file."""
    text = json.dumps({str(owner): as_dict(value) for owner, value in labels.items()})
    return zlib.compress(text.encode())


def unpack(data: bytes) -> dict[int, Label]:
    """What pack() was given; the caller has checked that these are its bytes."""
    found = json.loads(zlib.decompress(data))
    return {int(owner): Label(**fields) for owner, fields in found.items()}

# SPDX-License-Identifier: Apache-2.0
"""What Docker's API says about a container, as names; whatever its shape, nothing raises."""

from __future__ import annotations

import re
from typing import Any

from identity.labels import RESERVED, VALUE_ROOM, tenant
from identity.names import Names
from identity.workload import ROOM, fit

_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
MOST_NETWORKS = 64


def table(value: object) -> dict[str, Any]:
    """A JSON object, or an empty one for all else."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    """A JSON string, or an empty one for all else."""
    return value if isinstance(value, str) else ""


def identifier(value: object) -> str:
    """A container's full id, or nothing for all else."""
    found = text(value)
    return found if _ID.fullmatch(found) else ""


def _names(container: object, image: object, labels: object, networks: object) -> Names:
    found = tenant(labels)
    attached = ",".join(sorted(table(networks))[:MOST_NETWORKS])
    if attached:
        found[f"{RESERVED}networks"] = fit(attached, VALUE_ROOM)
    return Names(
        container=fit(text(container).removeprefix("/"), ROOM["container"]),
        image=fit(text(image), ROOM["image"]),
        labels=found,
    )


def from_list(entry: object) -> tuple[str, Names, bool]:
    """Id (empty: no container), names, and whether it runs, of an entry of GET /containers/json."""
    values = table(entry)
    called = values.get("Names")
    # Beside its own name, `/web`, a container has one for each link: `/other/alias`.
    own = [name for name in called if text(name).count("/") == 1] if isinstance(called, list) else []
    networks = table(values.get("NetworkSettings")).get("Networks")
    names = _names(own[0] if own else "", values.get("Image"), values.get("Labels"), networks)
    return identifier(values.get("Id")), names, values.get("State") not in ("exited", "dead", "created")


def from_inspect(description: object) -> tuple[str, Names, bool]:
    """The same of the answer to GET /containers/ID/json."""
    values = table(description)
    config = table(values.get("Config"))
    networks = table(values.get("NetworkSettings")).get("Networks")
    names = _names(values.get("Name"), config.get("Image"), config.get("Labels"), networks)
    return identifier(values.get("Id")), names, table(values.get("State")).get("Running") is True


def from_create(event: object) -> tuple[str, Names]:
    """Id and names of a `create` event, whose attributes are the labels with `name` and `image` set over.

    Good enough for a container that is gone before it can be asked for.
    """
    actor = table(table(event).get("Actor"))
    attributes = table(actor.get("Attributes"))
    labels = {key: value for key, value in attributes.items() if key not in ("name", "image")}
    names = _names(attributes.get("name"), attributes.get("image"), labels, {})
    return identifier(actor.get("ID")), names

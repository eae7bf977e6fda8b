# SPDX-License-Identifier: Apache-2.0
"""A tenant's labels, bounded and cleaned before anybody keeps them.

Whoever may start a container chooses its labels, and so does whoever built its image: they are data,
shown beside the identity, and never part of it unless configured.
"""

from __future__ import annotations

import heapq

from identity.workload import fit

RESERVED = "flowtag.io/"
"""Keys of a source's own; a tenant's that begin so are dropped."""
MOST = 64
KEY_ROOM = 317  # Kubernetes' longest: a prefix of 253 bytes, a slash, a name of 63
VALUE_ROOM = 256
ROOM = 4096
"""Bytes of UTF-8 that all labels of one workload have together."""


def tenant(labels: object) -> dict[str, str]:
    """What of a tenant's labels is kept, by key: sorted, at most MOST, within the three bounds above.

    Control characters go, what is too long is cut, what is no pair of strings is left out; never raises.
    A key that had to be changed never takes the place of one that another label has as it is.
    """
    if not isinstance(labels, dict):
        return {}
    pairs = ((k, v) for k, v in labels.items() if isinstance(k, str) and isinstance(v, str))
    kept: dict[str, str] = {}
    room = ROOM
    for key, value in heapq.nsmallest(MOST, pairs, lambda pair: pair[0]):
        name = fit(key, KEY_ROOM)
        # After the cleaning: "\0flowtag.io/" must not become what it pretends to be.
        if not name or name.startswith(RESERVED) or (name != key and name in kept):
            continue
        text = fit(value, VALUE_ROOM)
        room -= len(name.encode()) + len(text.encode())
        if room < 0:
            break
        kept[name] = text
    return dict(sorted(kept.items()))

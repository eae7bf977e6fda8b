# SPDX-License-Identifier: Apache-2.0
"""Objects of the Kubernetes API as its server shows them."""

from __future__ import annotations

from typing import Any

NODE = "node-1"
Json = dict[str, Any]


def status(code: int, reason: str, message: str = "made by the test") -> Json:
    """A Status object."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def pod(
    name: str,
    *,
    uid: str = "",
    namespace: str = "shop",
    node: str = NODE,
    labels: dict[str, str] | None = None,
    owners: list[Json] | None = None,
    containers: dict[str, str] | None = None,
) -> Json:
    """A running pod as the API shows it; containers: container id by name."""
    running = containers if containers is not None else {"main": (name.encode().hex() + "0" * 64)[:64]}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "labels": labels or {},
            "annotations": {"tenant.example/says": "anything"},
            **({"ownerReferences": owners} if owners is not None else {}),
        },
        "spec": {
            "nodeName": node,
            "serviceAccountName": "default",
            "containers": [{"name": key, "image": f"registry.example/{key}:1"} for key in running],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {
                    "name": key,
                    "image": f"registry.example/{key}:1",
                    "containerID": f"containerd://{value}",
                    "state": {"running": {"startedAt": "2026-11-24T12:00:00Z"}},
                    "lastState": {},
                }
                for key, value in running.items()
            ],
        },
    }


def reference(kind: str, name: str, uid: str, api: str = "apps/v1", controls: bool = True) -> Json:
    """An entry of ownerReferences."""
    return {
        "apiVersion": api,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": controls,
        "blockOwnerDeletion": True,
    }

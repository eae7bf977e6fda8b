# SPDX-License-Identifier: Apache-2.0
"""A client of the Kubernetes container runtime interface, as the kubelet is one.

    with Cri("/tmp/ft1/containerd.sock") as cri:
        cri.ready()                                # runtime and network are up
        cri.runtime("StopContainer", container_id=id, timeout=1)     # any call of RuntimeService
        cri.message("Mount", container_path="/usr", host_path="/usr", readonly=True)

Requests and answers are the API's own messages, k8s.io/cri-api/pkg/apis/runtime/v1/api.proto of Debian
trixie; what protoc makes of it is kept in the cache folder of debian.py.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from tests.rig import debian

_PACKAGE = "golang-github-kubernetes-cri-api-dev"
_PROTO = "usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto"


class Cri:
    """One connection to a runtime's socket."""

    def __init__(self, socket: str) -> None:
        self._errors: Any = grpc.RpcError
        self._messages = _compiled("flowtag_cri_pb2")
        services = _compiled("flowtag_cri_pb2_grpc")
        # An authority of its own: grpc would send the socket's path, which Go's HTTP/2 refuses.
        self._channel = grpc.insecure_channel(f"unix://{socket}", [("grpc.default_authority", "localhost")])
        self._runtime = services.RuntimeServiceStub(self._channel)

    def __enter__(self) -> Cri:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def message(self, name: str, /, **fields: Any) -> Any:
        """A message of the API."""
        return getattr(self._messages, name)(**fields)

    def runtime(self, call: str, timeout: float = 60, /, **fields: Any) -> Any:
        """One call: its answer, or a RuntimeError with what the runtime said."""
        try:
            return getattr(self._runtime, call)(self.message(f"{call}Request", **fields), timeout=timeout)
        except self._errors as error:
            raise RuntimeError(f"CRI {call}: {error.details()}") from None

    def ready(self) -> bool:
        """Whether the runtime answers and says that it and its network are ready."""
        try:
            conditions = self.runtime("Status", 2).status.conditions
        except RuntimeError:
            return False
        up = {condition.type for condition in conditions if condition.status}
        return {"RuntimeReady", "NetworkReady"} <= up  # 2.x adds one that tells of deprecated settings


def _compiled(module: str) -> Any:
    """A module that protoc makes, from the cache or made now."""
    source = debian.unpacked("trixie", _PACKAGE) / _PROTO
    folder = debian.CACHE / "cri"
    if not (folder / f"{module}.py").exists():
        _compile(source, folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(module)


def _compile(source: Path, folder: Path) -> None:
    from grpc_tools import protoc

    folder.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8")
    # gogoproto only tells Go's generator what to write; it is another package.
    text = re.sub(r'^(import "[^"]*gogo\.proto"|option \(gogoproto\.[^;]*);$', "", text, flags=re.MULTILINE)
    text = re.sub(r"\s*\[\(gogoproto\.[^\]]*\]", "", text)
    proto = folder / "flowtag_cri.proto"
    proto.write_text(text, encoding="utf-8")
    places = [f"--proto_path={folder}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", *places, str(proto)]):
        raise RuntimeError(f"protoc cannot compile {proto}")

# SPDX-License-Identifier: Apache-2.0
"""`python -m bpf.build`: compile flow.bpf.c to flow.bpf.o, if a source is newer than the object.

The object is the same wherever the checkout lies, and a host that only runs it needs no compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bpf.error import FlowtagError

DIRECTORY = Path(__file__).resolve().parent
OBJECT = DIRECTORY / "flow.bpf.o"
SOURCE = DIRECTORY / "flow.bpf.c"
# -mcpu=v3: atomics that return a value. Unused parameters: BPF_PROG declares all that a hook has.
FLAGS = (
    "--target=bpf",
    "-mcpu=v3",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Werror",
)


def include_flags() -> tuple[str, ...]:
    """Where <asm/types.h> is on Debian and Ubuntu; elsewhere clang finds it itself."""
    path = f"/usr/include/{os.uname().machine}-linux-gnu"
    return ("-I", path) if os.path.isdir(path) else ()


def is_stale(target: Path, directory: Path = DIRECTORY) -> bool:
    """Whether a C source, a header or this module is newer than `target`."""
    if not target.exists():
        return True
    made = target.stat().st_mtime_ns
    sources = (*directory.glob("*.[ch]"), Path(__file__))
    return any(source.stat().st_mtime_ns > made for source in sources)


def build(target: Path = OBJECT, source: Path = SOURCE) -> None:
    """Compile `source` to `target`, which appears whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    directory = source.parent
    command = [
        *(_tool("clang"), *FLAGS, *include_flags()),
        # No path of this machine in the debug information: the same source gives the same bytes.
        *(f"-ffile-prefix-map={directory}=.", "-fdebug-compilation-dir=."),
        *("-c", source.name, "-o", str(part)),
    ]
    try:
        _run(command, directory)
        strip = shutil.which("llvm-strip")
        if strip:  # DWARF goes, BTF stays
            _run([strip, "-g", str(part)], directory)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FlowtagError(f"building the kernel programs: no {name}", f"apt install {name}")
    return path


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FlowtagError(
            f"building the kernel programs: {Path(command[0]).name} failed\n{done.stderr.rstrip()}",
            "needs clang >= 14, libbpf-dev and linux-libc-dev",
        )


def main() -> int:
    if not is_stale(OBJECT):
        return 0
    try:
        build()
    except FlowtagError as error:
        print(f"flowtag: {error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    print(f"built {OBJECT.name}, {OBJECT.stat().st_size} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

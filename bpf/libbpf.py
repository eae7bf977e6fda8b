# SPDX-License-Identifier: Apache-2.0
"""The system's libbpf.so.1 through ctypes: open, load, attach and pin one CO-RE object.

Errors carry what libbpf and the verifier said. Source: libbpf 1.x, src/libbpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from types import TracebackType

from bpf.error import FlowtagError, LoadError

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_log: list[str] = []


def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise FlowtagError(
            f"loading libbpf.so.1: {error}", "install libbpf1 (Debian, Ubuntu) or libbpf (Fedora)"
        ) from None
    pointer, text, number, size = (
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_size_t,
    )
    for name, result, arguments in (
        ("libbpf_major_version", ctypes.c_uint32, ()),
        ("libbpf_minor_version", ctypes.c_uint32, ()),
        ("libbpf_set_print", pointer, (_PRINT,)),
        ("bpf_object__open_file", pointer, (text, pointer)),
        ("bpf_object__close", None, (pointer,)),
        ("bpf_object__load", number, (pointer,)),
        ("bpf_object__next_map", pointer, (pointer, pointer)),
        ("bpf_object__next_program", pointer, (pointer, pointer)),
        ("bpf_map__name", text, (pointer,)),
        ("bpf_map__fd", number, (pointer,)),
        ("bpf_map__set_pin_path", number, (pointer, text)),
        ("bpf_map__set_max_entries", number, (pointer, ctypes.c_uint32)),
        ("bpf_map__initial_value", pointer, (pointer, ctypes.POINTER(size))),
        ("bpf_program__name", text, (pointer,)),
        ("bpf_program__fd", number, (pointer,)),
        ("bpf_program__set_autoload", number, (pointer, ctypes.c_bool)),
        ("bpf_program__attach", pointer, (pointer,)),
        ("bpf_program__attach_iter", pointer, (pointer, pointer)),
        ("bpf_link__fd", number, (pointer,)),
        ("bpf_iter_create", number, (number,)),
        ("bpf_link__pin", number, (pointer, text)),
        ("bpf_link__destroy", number, (pointer,)),
    ):
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    lib.libbpf_set_print(_callback)
    return lib


def _keep_log(level: int, form: bytes, arguments: int) -> int:
    """Keep warnings (level 0), among them the verifier's log; no exception may leave a callback."""
    try:
        if level == 0:
            room = ctypes.create_string_buffer(1 << 20)
            ctypes.CDLL(None).vsnprintf(room, ctypes.c_size_t(len(room)), form, ctypes.c_void_p(arguments))
            _log.append(room.value.decode(errors="replace"))
    except Exception:
        return -1
    return 0


_callback = _PRINT(_keep_log)


def _failed(what: str, result: int | None = None) -> LoadError:
    error = -result if result else ctypes.get_errno()
    log = "".join(_log)
    _log.clear()
    hint = ""
    if error == errno.EPERM:  # EACCES is the verifier's, and its log says why
        log = ""
        hint = "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; `flowtag check` tells"
    return LoadError(f"{what}: {os.strerror(error)}", log, hint)


def version() -> tuple[int, int]:
    """(major, minor) of libbpf.so.1; FlowtagError where there is none."""
    lib = _library()
    return int(lib.libbpf_major_version()), int(lib.libbpf_minor_version())


class Object:
    """An opened BPF object; load() puts its maps and programs into the kernel. A context manager.

    Closing releases what is not pinned or attached by a pinned link.
    """

    def __init__(self, path: str) -> None:
        self._lib = _library()
        _log.clear()
        self.path = path
        self._object = self._lib.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise _failed(f"opening the BPF object {path}")
        self.maps = self._walk("map")
        self.programs = self._walk("program")
        self._links: dict[str, int] = {}

    def _walk(self, kind: str) -> dict[str, int]:
        following = getattr(self._lib, f"bpf_object__next_{kind}")
        name = getattr(self._lib, f"bpf_{kind}__name")
        found: dict[str, int] = {}
        item = following(self._object, None)
        while item:
            found[name(item).decode()] = item
            item = following(self._object, item)
        return found

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._object:
            for link in self._links.values():
                self._lib.bpf_link__destroy(link)
            self._lib.bpf_object__close(self._object)
            self._object = None
            self._links = {}

    def write(self, section: str, data: bytes) -> None:
        """Set the beginning of a global section (`.rodata`); before load()."""
        size = ctypes.c_size_t()
        address = self._lib.bpf_map__initial_value(self._section(section), ctypes.byref(size))
        if not address or size.value < len(data):
            raise LoadError(f"{self.path}: section {section} has no room for {len(data)} bytes")
        ctypes.memmove(address, data, len(data))

    def share(self, section: str) -> mmap.mmap:
        """Map a global section (`.bss`), which the programs read and write meanwhile; after load()."""
        return mmap.mmap(int(self._lib.bpf_map__fd(self._section(section))), mmap.PAGESIZE)

    def _section(self, section: str) -> int:
        # libbpf puts the object's name before the section's.
        for name, item in self.maps.items():
            if name.endswith(section):
                return item
        raise LoadError(f"{self.path} has no section {section}")

    def pin_map_at(self, name: str, path: str) -> None:
        """At load, use the map pinned at `path`, or pin the new one there."""
        result = self._lib.bpf_map__set_pin_path(self.maps[name], os.fsencode(path))
        if result:
            raise _failed(f"setting the pin path of map {name}", result)

    def set_max_entries(self, name: str, entries: int) -> None:
        result = self._lib.bpf_map__set_max_entries(self.maps[name], entries)
        if result:
            raise _failed(f"sizing map {name} to {entries}", result)

    def skip_program(self, name: str) -> None:
        """Do not load this program."""
        self._lib.bpf_program__set_autoload(self.programs[name], False)

    def load(self) -> None:
        """Create or reuse the maps, verify and load the programs; LoadError with the verifier's log."""
        result = self._lib.bpf_object__load(self._object)
        if result:
            raise _failed(f"loading the BPF object {self.path}", result)

    def map_fd(self, name: str) -> int:
        return int(self._lib.bpf_map__fd(self.maps[name]))

    def attach(self, name: str, pin: str) -> None:
        """Attach a program by its section and pin the link at `pin`, which must not exist."""
        link = self._lib.bpf_program__attach(self.programs[name])
        if not link:
            raise _failed(f"attaching program {name}")
        self._links[name] = link
        result = self._lib.bpf_link__pin(link, os.fsencode(pin))
        if result:
            raise _failed(f"pinning the link of {name} at {pin}", result)

    def program_fd(self, name: str) -> int:
        return int(self._lib.bpf_program__fd(self.programs[name]))

    def iterate(self, name: str) -> bytes:
        """Run an iterator program once, over all there is in the thread's namespaces; what it wrote."""
        link = self._lib.bpf_program__attach_iter(self.programs[name], None)
        if not link:
            raise _failed(f"attaching iterator {name}")
        try:
            fd = self._lib.bpf_iter_create(self._lib.bpf_link__fd(link))
            if fd < 0:
                raise _failed(f"running iterator {name}", fd)
            parts = []
            with open(fd, "rb", buffering=0) as run:
                while (part := run.read(1 << 16)) != b"":  # None: EAGAIN after a million objects, not the end
                    parts.append(part or b"")
            return b"".join(parts)
        finally:
            self._lib.bpf_link__destroy(link)


class Word:
    """One 64-bit number in shared memory, stored and loaded whole."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._word = ctypes.c_uint64.from_buffer(memory, offset)

    def get(self) -> int:
        return int(self._word.value)

    def set(self, value: int) -> None:
        self._word.value = value

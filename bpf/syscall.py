# SPDX-License-Identifier: Apache-2.0
"""bpf(2) for pinned maps, and the namespace calls Python 3.11 lacks: standard library only.

The hook uses this on a container's start, so imports stay few (bpf/libc.py). Every call raises
OSError with the object it was about. Source: linux/include/uapi/linux/bpf.h (union bpf_attr).
"""

from __future__ import annotations

import posix
from _struct import Struct

from bpf import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from bpf.libc import Buffer

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[posix.uname().machine]
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT = 1, 2, 3, 4
_OBJ_PIN, _OBJ_GET, _PROG_RUN, _PROG_BY_ID, _OBJ_INFO, _MAP_LOOKUP_BATCH = 6, 7, 10, 13, 15, 24

ANY, NOEXIST, EXIST = 0, 1, 2

_ELEM = Struct("=IIQQQ")  # map_fd, pad, key, value | next_key, flags
_OBJ = Struct("=QII")  # pathname, bpf_fd, file_flags
_RUN = Struct("=II32xIIQQ")  # prog_fd, retval, data and repeat, ctx sizes, ctx_in, ctx_out
_INFO = Struct("=IIQ")  # bpf_fd, info_len, info
_BATCH = Struct("=QQQQIIQQ")  # in, out, keys, values, count, map_fd, elem_flags, flags
_MAP_INFO = Struct("=IIIIII16s")  # type, id, key_size, value_size, max_entries, flags, name

_HANDLE = Struct("=IiQ")  # struct file_handle: handle_bytes, handle_type, id
_FILEID_KERNFS = 0xFE
_ESTALE = 116

CLONE_NEWNET = 0x40000000
_NS_GET_ID = 0x8008B70D  # _IOR(0xb7, 13, __u64), linux/nsfs.h


def _bpf(command: int, attr: bytes, what: str) -> int:
    """Call bpf(2); raises OSError that names `what`."""
    result: int = libc.syscall(_SYS_BPF, command, attr, len(attr))
    if result < 0:
        error = libc.get_errno()
        raise OSError(error, posix.strerror(error), what)
    return result


def _path(path: str) -> Buffer:
    return libc.buffer(path.encode("utf-8", "surrogateescape") + b"\0")  # as os.fsencode, without os


def obj_get(path: str) -> int:
    """Open a pinned object; returns its descriptor."""
    name = _path(path)
    return _bpf(_OBJ_GET, _OBJ.pack(libc.addressof(name), 0, 0), path)


def obj_pin(fd: int, path: str) -> None:
    """Pin a map, program or link at `path` in a bpf file system."""
    name = _path(path)
    _bpf(_OBJ_PIN, _OBJ.pack(libc.addressof(name), fd, 0), path)


def obj_info(fd: int, size: int, what: str) -> bytes:
    """The first `size` bytes of the kernel's info on a map, program or link."""
    info = libc.buffer(size)
    _bpf(_OBJ_INFO, _INFO.pack(fd, size, libc.addressof(info)), what)
    return info.raw


def program_by_id(number: int) -> int:
    """A descriptor of the loaded program with this id."""
    attr = number.to_bytes(4, "little") + bytes(8)  # prog_id, next_id, open_flags
    return _bpf(_PROG_BY_ID, attr, f"program {number}")


def run_program(fd: int, context: bytes, what: str) -> int:
    """Run a SEC("syscall") program once on a copy of `context`; what it returned."""
    told = libc.buffer(context)
    attr = libc.buffer(_RUN.pack(fd, 0, len(context), 0, libc.addressof(told), 0))
    result = libc.syscall(_SYS_BPF, _PROG_RUN, attr, len(attr))
    if result < 0:
        error = libc.get_errno()
        raise OSError(error, posix.strerror(error), what)
    return int(_RUN.unpack(attr.raw)[1])


class Map:
    """A BPF map: an owned descriptor, closed by close() or at the end of a `with`.

    Keys and values are bytes of key_size and value_size; a per-CPU map's value holds one 8-byte-aligned
    value for each possible CPU.
    """

    __slots__ = ("fd", "id", "key_size", "max_entries", "name", "type", "value_size")

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        info = obj_info(fd, _MAP_INFO.size, name)
        (self.type, self.id, self.key_size, self.value_size, self.max_entries, _, _) = _MAP_INFO.unpack(info)
        if self.type == 6:  # BPF_MAP_TYPE_PERCPU_ARRAY
            self.value_size = (self.value_size + 7) // 8 * 8 * possible_cpus()

    @classmethod
    def open(cls, path: str) -> Map:
        """Open the map pinned at `path`."""
        return cls(obj_get(path), path)

    def close(self) -> None:
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Map:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _elem(self, command: int, key: bytes, value: Buffer | None, flags: int) -> None:
        if len(key) != self.key_size:
            raise ValueError(f"{self.name}: key of {len(key)} bytes, not {self.key_size}")
        name = libc.buffer(key)
        address = 0 if value is None else libc.addressof(value)
        _bpf(command, _ELEM.pack(self.fd, 0, libc.addressof(name), address, flags), self.name)

    def get(self, key: bytes) -> bytes | None:
        """The value under `key`, or None."""
        value = libc.buffer(self.value_size)
        try:
            self._elem(_MAP_LOOKUP, key, value, 0)
        except FileNotFoundError:
            return None
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Write a value; FileExistsError under NOEXIST, FileNotFoundError under EXIST, E2BIG when full."""
        if len(value) != self.value_size:
            raise ValueError(f"{self.name}: value of {len(value)} bytes, not {self.value_size}")
        self._elem(_MAP_UPDATE, key, libc.buffer(value), flags)

    def delete(self, key: bytes) -> bool:
        """Remove a key; False if it was not there."""
        try:
            self._elem(_MAP_DELETE, key, None, 0)
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Iterator[bytes]:
        """Every key, one call each; a key deleted meanwhile may restart the walk at the beginning."""
        following = libc.buffer(self.key_size)
        key: Buffer | None = None
        while True:
            attr = _ELEM.pack(self.fd, 0, libc.addressof(key) if key else 0, libc.addressof(following), 0)
            try:
                _bpf(_MAP_NEXT, attr, self.name)
            except FileNotFoundError:
                return
            yield following.raw
            key = libc.buffer(following.raw)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value; in batches where the map type has them."""
        try:
            yield from self._items_batch()
        except OSError as error:
            if error.errno not in (22, 95, 524):  # EINVAL, EOPNOTSUPP, ENOTSUPP: no batches
                raise
            for key in list(self.keys()):
                value = self.get(key)
                if value is not None:
                    yield key, value

    def _items_batch(self) -> Iterator[tuple[bytes, bytes]]:
        room = 4096
        token = libc.buffer(max(self.key_size, 8))
        started = done = False
        while not done:
            keys = libc.buffer(self.key_size * room)
            values = libc.buffer(self.value_size * room)
            attr = libc.buffer(
                _BATCH.pack(
                    libc.addressof(token) if started else 0,
                    libc.addressof(token),
                    libc.addressof(keys),
                    libc.addressof(values),
                    room,
                    self.fd,
                    0,
                    0,
                )
            )
            result = libc.syscall(_SYS_BPF, _MAP_LOOKUP_BATCH, attr, len(attr))
            if result < 0:
                error = libc.get_errno()
                if error == 28 and room < self.max_entries:  # ENOSPC: one bucket holds more
                    room *= 2
                    continue
                if error != 2:  # ENOENT: that was the last batch
                    raise OSError(error, posix.strerror(error), self.name)
                done = True
            started = True
            count = _BATCH.unpack(attr.raw)[4]
            ks, vs = self.key_size, self.value_size
            raw_keys, raw_values = keys.raw, values.raw
            for i in range(count):
                yield raw_keys[i * ks : (i + 1) * ks], raw_values[i * vs : (i + 1) * vs]


def possible_cpus() -> int:
    """How many CPUs the kernel may ever have: the number of values in a per-CPU element."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().rpartition(",")[2].rpartition("-")[2]) + 1


def setns(fd: int, kind: int = CLONE_NEWNET) -> None:
    """Move the calling thread into the namespace behind `fd`."""
    if libc.setns(fd, kind) != 0:
        error = libc.get_errno()
        raise OSError(error, posix.strerror(error), f"setns of descriptor {fd}")


def cgroup_exists(mount: int, number: int) -> bool:
    """Whether the cgroup v2 with this id is there; `mount` is a descriptor of a cgroup2 directory.

    By its file handle (FILEID_KERNFS), so however deep it lies. Needs CAP_DAC_READ_SEARCH.
    """
    handle = libc.buffer(_HANDLE.pack(8, _FILEID_KERNFS, number))
    fd = libc.open_by_handle_at(mount, handle, posix.O_RDONLY | posix.O_CLOEXEC)
    if fd >= 0:
        posix.close(fd)
        return True
    error = libc.get_errno()
    if error == _ESTALE:
        return False
    raise OSError(error, posix.strerror(error), f"cgroup {number}")


def namespace_id(fd: int) -> int | None:
    """The unique id of the namespace behind `fd`; None where the kernel has no NS_GET_ID.

    For a network namespace it is the cookie that SO_NETNS_COOKIE gives.
    """
    value = libc.buffer(8)
    if libc.ioctl(fd, _NS_GET_ID, value) != 0:
        return None
    return int.from_bytes(value.raw, "little")

# SPDX-License-Identifier: Apache-2.0
"""bpf(2) for pinned maps, and the namespace calls Python 3.11 lacks: standard library only.

The hook uses this on a container's start, so imports stay at ctypes, os and struct. Every call raises
OSError with the object it was about. Source: linux/include/uapi/linux/bpf.h (union bpf_attr).
"""

from __future__ import annotations

import ctypes
import os
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT = 1, 2, 3, 4
_OBJ_PIN, _OBJ_GET, _PROG_RUN, _PROG_BY_ID, _OBJ_INFO, _MAP_LOOKUP_BATCH = 6, 7, 10, 13, 15, 24

ANY, NOEXIST, EXIST = 0, 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong)
_syscall.restype = ctypes.c_long
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.setns.restype = ctypes.c_int
_libc.open_by_handle_at.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_libc.open_by_handle_at.restype = ctypes.c_int
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_libc.ioctl.restype = ctypes.c_int

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
    result: int = _syscall(_SYS_BPF, command, attr, len(attr))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def obj_get(path: str) -> int:
    """Open a pinned object; returns its descriptor."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, _OBJ.pack(_address(name), 0, 0), path)


def obj_pin(fd: int, path: str) -> None:
    """Pin a map, program or link at `path` in a bpf file system."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, _OBJ.pack(_address(name), fd, 0), path)


def obj_info(fd: int, size: int, what: str) -> bytes:
    """The first `size` bytes of the kernel's info on a map, program or link."""
    info = ctypes.create_string_buffer(size)
    _bpf(_OBJ_INFO, _INFO.pack(fd, size, _address(info)), what)
    return info.raw


def program_by_id(number: int) -> int:
    """A descriptor of the loaded program with this id."""
    attr = number.to_bytes(4, "little") + bytes(8)  # prog_id, next_id, open_flags
    return _bpf(_PROG_BY_ID, attr, f"program {number}")


def run_program(fd: int, context: bytes, what: str) -> int:
    """Run a SEC("syscall") program once on a copy of `context`; what it returned."""
    told = ctypes.create_string_buffer(context, len(context))
    attr = ctypes.create_string_buffer(_RUN.pack(fd, 0, len(context), 0, _address(told), 0), _RUN.size)
    result = _syscall(_SYS_BPF, _PROG_RUN, attr, len(attr))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
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
            os.close(self.fd)
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

    def _elem(self, command: int, key: bytes, value: object, flags: int) -> None:
        if len(key) != self.key_size:
            raise ValueError(f"{self.name}: key of {len(key)} bytes, not {self.key_size}")
        name = ctypes.create_string_buffer(key, len(key))
        address = ctypes.addressof(value) if isinstance(value, ctypes.Array) else 0
        _bpf(command, _ELEM.pack(self.fd, 0, _address(name), address, flags), self.name)

    def get(self, key: bytes) -> bytes | None:
        """The value under `key`, or None."""
        value = ctypes.create_string_buffer(self.value_size)
        try:
            self._elem(_MAP_LOOKUP, key, value, 0)
        except FileNotFoundError:
            return None
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Write a value; FileExistsError under NOEXIST, FileNotFoundError under EXIST, E2BIG when full."""
        if len(value) != self.value_size:
            raise ValueError(f"{self.name}: value of {len(value)} bytes, not {self.value_size}")
        self._elem(_MAP_UPDATE, key, ctypes.create_string_buffer(value, len(value)), flags)

    def delete(self, key: bytes) -> bool:
        """Remove a key; False if it was not there."""
        try:
            self._elem(_MAP_DELETE, key, None, 0)
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Iterator[bytes]:
        """Every key, one call each; a key deleted meanwhile may restart the walk at the beginning."""
        following = ctypes.create_string_buffer(self.key_size)
        key: ctypes.Array[ctypes.c_char] | None = None
        while True:
            attr = _ELEM.pack(self.fd, 0, _address(key) if key else 0, _address(following), 0)
            try:
                _bpf(_MAP_NEXT, attr, self.name)
            except FileNotFoundError:
                return
            yield following.raw
            key = ctypes.create_string_buffer(following.raw, self.key_size)

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
        token = ctypes.create_string_buffer(max(self.key_size, 8))
        started = done = False
        while not done:
            keys = ctypes.create_string_buffer(self.key_size * room)
            values = ctypes.create_string_buffer(self.value_size * room)
            attr = ctypes.create_string_buffer(
                _BATCH.pack(
                    _address(token) if started else 0,
                    _address(token),
                    _address(keys),
                    _address(values),
                    room,
                    self.fd,
                    0,
                    0,
                ),
                _BATCH.size,
            )
            result = _syscall(_SYS_BPF, _MAP_LOOKUP_BATCH, attr, len(attr))
            if result < 0:
                error = ctypes.get_errno()
                if error == 28 and room < self.max_entries:  # ENOSPC: one bucket holds more
                    room *= 2
                    continue
                if error != 2:  # ENOENT: that was the last batch
                    raise OSError(error, os.strerror(error), self.name)
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
    if _libc.setns(fd, kind) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"setns of descriptor {fd}")


def cgroup_exists(mount: int, number: int) -> bool:
    """Whether the cgroup v2 with this id is there; `mount` is a descriptor of a cgroup2 directory.

    By its file handle (FILEID_KERNFS), so however deep it lies. Needs CAP_DAC_READ_SEARCH.
    """
    handle = ctypes.create_string_buffer(_HANDLE.pack(8, _FILEID_KERNFS, number), _HANDLE.size)
    fd = _libc.open_by_handle_at(mount, handle, os.O_RDONLY | os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
        return True
    error = ctypes.get_errno()
    if error == _ESTALE:
        return False
    raise OSError(error, os.strerror(error), f"cgroup {number}")


def namespace_id(fd: int) -> int | None:
    """The unique id of the namespace behind `fd`; None where the kernel has no NS_GET_ID.

    For a network namespace it is the cookie that SO_NETNS_COOKIE gives.
    """
    value = ctypes.create_string_buffer(8)
    if _libc.ioctl(fd, _NS_GET_ID, value) != 0:
        return None
    return int.from_bytes(value.raw, "little")

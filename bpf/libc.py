# SPDX-License-Identifier: Apache-2.0
"""The calls of the C library that the hook needs, by the C half of ctypes alone.

`import ctypes` brings os too and costs every container's start 4.3 ms; `_ctypes`, of which that package is
made, costs 0.8 (medians of 60 where `python3 -I -S -c pass` takes 9.4). CPython 3.11 to 3.14
have the same names in it.
"""

from __future__ import annotations

from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import Array
    from ctypes import c_char as _Char
    from ctypes import c_int as _Int
    from ctypes import c_long as _Long
    from ctypes import c_void_p as _Pointer

    Buffer = Array[_Char]
    """Bytes in memory that C may write: `.raw` is what they are, len() how many."""
else:

    class _Char(_SimpleCData):
        _type_ = "c"

    class _Int(_SimpleCData):
        _type_ = "i"

    class _Long(_SimpleCData):
        _type_ = "l"

    class _Pointer(_SimpleCData):
        _type_ = "P"


_RTLD_NOW = 2


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_program = dlopen(None, _RTLD_NOW)  # type: ignore[arg-type]  # None: this process; typeshed knows names only


def _function(name: str, restype: type, *argtypes: type) -> _Function:
    found = _Function(dlsym(_program, name))
    found.restype = restype
    found.argtypes = argtypes
    return found


syscall = _function("syscall", _Long, _Long, _Long, _Pointer, _Long)
setns = _function("setns", _Int, _Int, _Int)
open_by_handle_at = _function("open_by_handle_at", _Int, _Int, _Pointer, _Int)
ioctl = _function("ioctl", _Int, _Int, _Long, _Pointer)


def buffer(content: bytes | int) -> Buffer:
    """Memory of these bytes, or of so many zeroes."""
    data = content if isinstance(content, bytes) else bytes(content)
    made: Buffer = (_Char * len(data)).from_buffer_copy(data)
    return made


__all__ = ["addressof", "buffer", "get_errno", "ioctl", "open_by_handle_at", "setns", "syscall"]

# SPDX-License-Identifier: Apache-2.0
"""Files that say who the host is: read whole, once, and only where nobody else may write them."""

from __future__ import annotations

import os
import stat

from identity.instance import MISSING, UNREADABLE, Refused

SIZE_MAX = 1 << 20


def read(path: str, what: str, *, anchors: bool = False) -> bytes:
    """The content of a regular file; links are followed, as a SPIFFE helper and Kubernetes make them.

    Refused if it is missing, larger than SIZE_MAX, no regular file, or writable by everybody; where others
    are believed because of it (`anchors`), also if it is not root's or its group may write it.
    """
    try:
        # Not to wait for the writer of a fifo, and not to make a terminal ours.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise Refused(MISSING, f"reading {what} {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, getattr(error, "strerror", None) or str(error)) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(path, what, "not a regular file")
        forbidden = stat.S_IWOTH | stat.S_IWGRP if anchors else stat.S_IWOTH
        if status.st_mode & forbidden or (anchors and status.st_uid not in (0, os.geteuid())):
            owner = f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
            raise Refused(
                UNREADABLE,
                f"reading {what} {path}: others may write it ({owner})",
                "make it root's, 0644 or less",
            )
        with open(fd, "rb", closefd=False) as file:
            data = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise _unreadable(path, what, error.strerror or str(error)) from None
    finally:
        os.close(fd)
    if len(data) > SIZE_MAX:
        raise _unreadable(path, what, f"larger than {SIZE_MAX} bytes")
    return data


def _unreadable(path: str, what: str, cause: str) -> Refused:
    return Refused(UNREADABLE, f"reading {what} {path}: {cause}")

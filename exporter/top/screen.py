# SPDX-License-Identifier: Apache-2.0
"""The terminal while `top` has it: one key at a time, no echo, and given back as it was at any end."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType

HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the other screen, without a cursor


def usable() -> bool:
    """Whether in and out are a terminal that can be drawn on."""
    dumb = os.environ.get("TERM", "dumb") in ("dumb", "")
    return sys.stdin.isatty() and sys.stdout.isatty() and not dumb


class Screen:
    """A context manager. SIGTERM and SIGHUP end it by SystemExit(128 + signal), as Ctrl-C does by its own."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()

    def __enter__(self) -> Screen:
        self._before = termios.tcgetattr(self._fd)
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        self._winch = signal.getsignal(signal.SIGWINCH)
        for number in self._handlers:
            signal.signal(number, _end)
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGWINCH, lambda *_: None)  # a handler, so that the wakeup descriptor is written
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        tty.setcbreak(self._fd)
        self._write(ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGWINCH, self._winch)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)
        self._write(LEAVE)

    def draw(self, lines: list[str]) -> None:
        """Over what is there: nothing is blank in between."""
        self._write(HOME + "\n".join(line + CLEAR_LINE for line in lines) + CLEAR_BELOW)

    def key(self, seconds: float) -> str | None:
        """A key; "" if the size has changed; None if neither comes in that time."""
        ready, _, _ = select.select([self._fd, self._reader], [], [], max(0.0, seconds))
        if self._reader in ready:
            os.read(self._reader, 256)
            return ""
        if not ready:
            return None
        # The terminal has gone: q.
        return os.read(self._fd, 1).decode("ascii", "replace") or "q"

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)

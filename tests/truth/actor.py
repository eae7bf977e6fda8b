# SPDX-License-Identifier: Apache-2.0
"""Somebody who makes traffic: a payload in a container or a plain process, and the nonce that it bears.

web.do("listen 0.0.0.0 80")            # AssertionError unless the payload says ok
job = shop.begin("connect 10.0.0.2 80 50 end=server")
shop.end(job)
shop.become(hooked("shop"))            # another nonce from now on: something has changed
shop.exit()                            # the payload ends, all sockets with it
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Protocol

from tests.truth.owner import Expectation, Register

SECONDS = 60


class Speaker(Protocol):
    """What a rig container and a Process have in common."""

    @property
    def output(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def say(self, text: str) -> None: ...
    def await_line(self, text: str, timeout: float = ...) -> str: ...
    def wait(self, timeout: float = ...) -> int: ...


class Actor:
    """One payload."""

    def __init__(
        self, speaker: Speaker, register: Register, expectation: Expectation, *, hooked: bool = False
    ) -> None:
        self.speaker = speaker
        self._hooked = hooked
        self._register = register
        self._commands = itertools.count()
        self.become(expectation)

    def become(self, expectation: Expectation) -> str:
        """Take a fresh nonce, for sockets of which this is expected; returns it."""
        nonce = self._register.nonce(replace(expectation, hooked=self._hooked))
        self.do(f"nonce {nonce}")
        return nonce

    def begin(self, command: str) -> int:
        """Give a command without waiting for its end."""
        number = next(self._commands)
        self.speaker.say(command)
        return number

    def end(self, number: int, timeout: float = SECONDS) -> None:
        """Wait until that command has been obeyed."""
        line = self.speaker.await_line(f" #{number}.", timeout)
        if not line.startswith("ok "):
            raise AssertionError(f"a payload failed: {self.speaker.output}")

    def do(self, command: str, timeout: float = SECONDS) -> None:
        self.end(self.begin(command), timeout)

    def exit(self) -> None:
        """End the payload and wait until its process, or its container, has gone."""
        self.begin("exit")
        self.speaker.wait()

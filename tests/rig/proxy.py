# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback between a sink and its receiver, whose faults can be changed while it runs.

    with Proxy(("127.0.0.1", 9092)) as proxy:
        connect_to(proxy.address)        # ("127.0.0.1", a free port, or Proxy(..., port=N))
        proxy.delay(0.2)                 # every piece that long later, both ways; 0: at once
        proxy.cut()                      # reset every connection that is open
        proxy.cut_after(to_server=5000)  # once that many more bytes have passed, reset the connection
        proxy.cut_after(to_client=0)     # the same before the next answer: the server did the work
        proxy.black_hole()               # connections open, old ones stay; nothing passes either way
        proxy.deaf()                     # as a host that is gone: a SYN gets no answer, nothing passes
        proxy.refuse()                   # open connections are reset, new ones refused
        proxy.forward()                  # all of that is over; what a black hole held passes now
        proxy.connections, proxy.open, proxy.to_server, proxy.to_client, proxy.cuts
        proxy.target = ("127.0.0.1", 9093)   # for connections from now on
    Proxy(..., tls=context)              # ends TLS: clients speak it with the proxy, the target does not

A method returns when what it asks for is in force. Bytes are counted when they pass. deaf() fills the
listener's queue, in which Linux then drops SYNs: connect() hangs as it does towards a host without power.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Literal, Self

PIECE = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST
Way = Literal["to_server", "to_client"]
Pair = tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class Proxy:
    """Owns a thread, a listener and the connections of both sides."""

    def __init__(self, target: tuple[str, int], port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.tls = tls
        self.connections = self.cuts = 0
        self.to_server = self.to_client = 0
        self._wanted_port = port
        self._delay = 0.0
        self._left: dict[Way, int | None] = {"to_server": None, "to_client": None}
        self._pairs: set[Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fillers: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._accepting = False
        self._clients: set[socket.socket] = set()
        self._loop = asyncio.new_event_loop()
        self._gate = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._forward())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        return self._wanted_port

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def open(self) -> int:
        return len(self._pairs)

    def delay(self, seconds: float) -> None:
        self._delay = seconds

    def cut(self) -> None:
        self._call(self._cut())

    def cut_after(self, *, to_server: int | None = None, to_client: int | None = None) -> None:
        """Once; forgotten by forward(). 0: before the next piece."""
        self._left = {"to_server": to_server, "to_client": to_client}

    def black_hole(self) -> None:
        self._call(self._hold())

    def deaf(self) -> None:
        self._call(self._hold(deaf=True))

    def refuse(self) -> None:
        self._call(self._refuse())

    def forward(self) -> None:
        self._call(self._forward())

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _forward(self) -> None:
        self._delay = 0.0
        self._left = {"to_server": None, "to_client": None}
        self._gate.set()
        await self._let_in()

    async def _let_in(self) -> None:
        if not self._accepting:
            await self._close_listener()
            self._listen(128)
            assert self._listener
            self._loop.add_reader(self._listener, self._accept, self._listener)
            self._accepting = True

    async def _hold(self, *, deaf: bool = False) -> None:
        self._gate.clear()
        if not deaf:
            await self._let_in()
        else:
            await self._close_listener()
            self._listen(0)
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(self.address)
                self._fillers.append(filler)

    async def _refuse(self) -> None:
        await self._close_listener()
        await self._cut()

    async def _cut(self) -> None:
        for pair in list(self._pairs):
            self._reset(pair)

    async def _stop(self) -> None:
        await self._close_listener()
        await self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close their sockets in a later turn of the loop
        for client in self._clients:  # a task that was cancelled before its first step has closed nothing
            client.close()

    def _listen(self, queue: int) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setblocking(False)
        self._listener.bind(self.address)
        self._listener.listen(queue)
        self._wanted_port = self._listener.getsockname()[1]

    async def _close_listener(self) -> None:
        if self._accepting and self._listener:
            self._loop.remove_reader(self._listener)
        self._accepting = False
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        if self._listener:
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # it is gone again
            return
        client.setblocking(False)
        self.connections += 1
        self._clients.add(client)
        task = self._loop.create_task(self._connection(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, client: socket.socket) -> None:
        try:
            await self._gate.wait()
            server_reader, server = await asyncio.open_connection(*self.target)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            return
        except asyncio.CancelledError:
            client.close()
            raise
        try:
            client_reader, writer = await self._accepted(client)
        except OSError:  # ssl.SSLError is one
            server.transport.abort()
            client.close()
            return
        except asyncio.CancelledError:
            server.transport.abort()
            client.close()
            raise
        pair = (writer, server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pump(client_reader, server, "to_server", pair),
                self._pump(server_reader, writer, "to_client", pair),
            )
        except OSError:
            self._reset(pair)
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.close()
            for end in pair:
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _accepted(self, client: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, client, ssl=self.tls)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _pump(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, way: Way, pair: Pair
    ) -> None:
        while pair in self._pairs and (data := await reader.read(PIECE)):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._gate.wait()
            left = self._left[way]
            passing = data[:left]
            to.write(passing)
            setattr(self, way, getattr(self, way) + len(passing))
            if left is not None:
                self._left[way] = left - len(passing) or None
            if left == len(passing):
                with contextlib.suppress(OSError, TimeoutError):  # so that what has passed arrives
                    await asyncio.wait_for(to.drain(), 1)
                self._reset(pair)
                return
            await to.drain()
        if pair in self._pairs:
            with contextlib.suppress(OSError):
                to.write_eof() if to.can_write_eof() else to.close()

    def _reset(self, pair: Pair) -> None:
        if pair not in self._pairs:
            return
        self._pairs.discard(pair)
        self.cuts += 1
        for end in pair:
            if not end.is_closing():  # a closed transport with TLS has nothing to abort
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.transport.abort()

"""A link to the server that is as slow as a real one, so that progress can be seen.

On the loopback a chunk disappears into the kernel's buffers at once: no bar would move, and no chunk could be
interrupted. Here all bytes to the server share one rate, and the buffers are as small as those of an Ethernet. Bytes
are passed on unchanged and in order. Those from the server pass at full speed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Final

from uploader.runtime.clock import Clock

HOST: Final = "127.0.0.1"
PIECE: Final = 32 * 1024  # bytes passed at a time: 250 pieces a second at 64 Mbit/s, so uploads share the link evenly
WINDOW: Final = 64 * 1024  # bytes of receive buffer
SEGMENT: Final = 1400  # bytes; with the loopback's 64 KiB segments, send buffers grow to megabytes


class Link:
    """A link of *rate* bytes per second, shared by all connections."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._rate, self._clock = rate, clock
        self._free_at = 0.0  # monotonic
        self._server: asyncio.Server | None = None
        self._carriers: set[asyncio.Task[None]] = set()

    async def open(self, target: int, port: int = 0) -> int:
        """Forward *port* (0: any free one) to the port *target* of this machine; return the port."""

        def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            carrier = asyncio.create_task(self._carry(target, reader, writer))
            self._carriers.add(carrier)

            def ended(_: object) -> None:
                self._carriers.discard(carrier)
                if carrier.cancelled():  # perhaps before its first step: then it has not closed the connection
                    writer.transport.abort()

            carrier.add_done_callback(ended)

        entrance = socket.socket()
        entrance.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        entrance.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        entrance.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        try:
            entrance.bind((HOST, port))
            self._server = await asyncio.start_server(carry, sock=entrance, limit=PIECE)
        except BaseException:
            entrance.close()
            raise
        bound: int = entrance.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Cut every connection and accept no more. It may be opened again."""
        if self._server is not None:
            self._server.close()
        for carrier in self._carriers:
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    async def _carry(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it, or the link is closed."""
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, target)
            writers.append(far_writer)
            await _first_of(self._pass_on(reader, far_writer, paced=True), self._pass_on(far_reader, writer))
        except asyncio.CancelledError:
            for end in writers:
                end.transport.abort()
            raise
        except OSError:  # one end is gone, so the connection ends
            pass
        finally:
            for end in writers:
                end.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, paced: bool = False
    ) -> None:
        while piece := await reader.read(PIECE):
            if paced:
                now = self._clock.monotonic()
                self._free_at = max(self._free_at, now) + len(piece) / self._rate
                await self._clock.sleep(self._free_at - now)
            writer.write(piece)
            await writer.drain()


async def _first_of(*directions: Coroutine[None, None, None]) -> None:
    """Return when one of *directions* has ended; the others are cancelled."""
    tasks = [asyncio.create_task(direction) for direction in directions]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

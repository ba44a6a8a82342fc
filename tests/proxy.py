"""A TCP proxy between the daemon and a server that makes the connection fail: one ``LineFault`` for each request.

All that it knows of HTTP: the first bytes that the client sends, or sends after an answer, begin a request. Its receive
buffers are small, so that a large chunk is still being sent when the connection fails.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

HOST = "127.0.0.1"
PIECE = 16 * 1024  # bytes that pass at a time
WINDOW = 32 * 1024  # bytes of receive buffer
SEGMENT = 1400  # bytes: large ones earn the sender buffers of megabytes
ON_CLOSE_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: an RST in place of a FIN

UPLOAD, CREATE = b"/videos/", b"/create-upload"


@dataclass(eq=False)
class LineFault:
    """A fault of requests whose first line holds *request*: the first *skip* pass, the next *times* are affected."""

    request: bytes
    act: Literal[
        "reset",  # both ends, after *after* bytes of the request
        "black-hole",  # nothing passes any more, and neither end gets an error
        "answer",  # *answer* comes from the proxy, after *after* bytes; the server sees the request cut
        "lose-answer",  # the request passes, and a reset comes in place of its answer
        "replace-answer",  # the request passes, and *answer* comes in place of the server's
        "drip",  # the answer comes byte by byte, one in *pause* seconds
    ]
    after: int = 0
    skip: int = 0
    times: int = 1
    answer: bytes = b""
    pause: float = 0.2


def an_answer(status: str, body: str) -> bytes:
    """Build an answer that the proxy itself gives before it closes the connection."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return (head + body).encode()


@dataclass(eq=False)
class Proxy:
    """A proxy to the port *target* of this machine. *rate*: bytes per second towards the server, of each connection."""

    target: int
    faults: list[LineFault] = field(default_factory=list)
    rate: float | None = None
    struck: int = 0  # requests that a fault has affected
    _lines: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> asyncio.Server:
        """Listen on a free port."""
        entrance = socket.socket()
        entrance.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        entrance.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        entrance.bind((HOST, 0))
        return await asyncio.start_server(self._carry, sock=entrance, limit=PIECE)

    async def close(self) -> None:
        """Abort every connection."""
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:  # the server has stopped
            self._lines.discard(task)
            return writer.transport.abort()
        line = _Line(self, reader, writer, far_reader, far_writer)
        try:
            await line.carry()
        except asyncio.CancelledError:  # by ``close``; asyncio's server would log it
            pass
        finally:
            self._lines.discard(task)
            for end in (writer, far_writer):
                end.transport.abort()
        return None

    def fault_for(self, head: bytes) -> LineFault | None:
        """Return the fault of the request that begins with *head*, and count it."""
        first = head.partition(b"\r\n")[0]
        for fault in self.faults:
            if fault.request not in first:
                continue
            fault.skip -= 1
            if fault.skip < 0 <= fault.times + fault.skip:
                self.struck += 1
                return fault
        return None


class _Line:
    """One connection, and the fault of its current request."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._far_reader, self._far_writer = far_reader, far_writer
        self._fresh = True  # what the client sends next begins a request
        self._fault: LineFault | None = None
        self._passed = 0  # bytes of the request
        self._ended = asyncio.Event()

    async def carry(self) -> None:
        """Pass bytes on until either end, or a fault, closes the connection."""
        directions = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
        directions.append(asyncio.create_task(self._end()))
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _end(self) -> None:
        await self._ended.wait()

    async def _up(self) -> None:
        while piece := await self._reader.read(PIECE):
            if self._fresh:
                self._fresh, self._passed = False, 0
                self._fault = self._proxy.fault_for(piece)
            if self._proxy.rate is not None:
                await asyncio.sleep(len(piece) / self._proxy.rate)
            fault = self._fault
            if fault is not None and fault.act in {"reset", "black-hole", "answer"}:
                room = fault.after - self._passed
                if len(piece) > room:
                    await self._send(self._far_writer, piece[:room])
                    return await self._strike(fault)
            self._passed += len(piece)
            await self._send(self._far_writer, piece)
        return None

    async def _strike(self, fault: LineFault) -> None:
        if fault.act == "reset":
            self._reset(self._far_writer)
            self._reset(self._writer)
        elif fault.act == "black-hole":
            await asyncio.Event().wait()
        else:
            self._reset(self._far_writer)
            await self._send(self._writer, fault.answer)
            while await self._reader.read(PIECE):  # until the client closes: an RST could overtake the answer
                pass

    async def _down(self) -> None:
        while piece := await self._far_reader.read(PIECE):
            fault, self._fresh = self._fault, True
            if fault is None or fault.act in {"reset", "answer"}:
                await self._send(self._writer, piece)
            elif fault.act == "lose-answer":
                return self._reset(self._writer)
            elif fault.act == "replace-answer":
                await self._send(self._writer, fault.answer)
                return self._ended.set()
            elif fault.act == "drip":
                for at in range(len(piece)):
                    await self._send(self._writer, piece[at : at + 1])
                    await asyncio.sleep(fault.pause)
            else:
                await asyncio.Event().wait()
        if self._fault is not None and self._fault.act in {"black-hole", "answer"}:
            await asyncio.Event().wait()  # the client does not see that the server has closed
        return None

    async def _send(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        with suppress(ConnectionError):
            writer.write(piece)
            await writer.drain()

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ON_CLOSE_RESET)
        writer.transport.abort()
        if writer is self._writer:
            self._ended.set()


@asynccontextmanager
async def line_to(url: str, *faults: LineFault, rate: float | None = None) -> AsyncIterator[tuple[Proxy, str]]:
    """Put a proxy before the server at *url*. Yields the proxy and its address."""
    proxy = Proxy(int(url.rpartition(":")[2]), list(faults), rate)
    server = await proxy.open()
    try:
        yield proxy, f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await proxy.close()

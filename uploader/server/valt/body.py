"""The body of an upload request: one multipart part of known length, streamed in constant memory.

Bytes take one of two ways, chosen for each chunk. On a plain connection, from a file that allows it, they go from the
page cache to the socket on the share's threads (``SocketWriter``): in two thirds of the time of a copy. Else, and
always under TLS, block by block through aiohttp's writer, the next one being read and hashed while one is sent.
``docs/performance.md`` has the figures of what else was tried.

The closing boundary is held back until ``before_last_byte`` has returned: servers hand a request to the
application only when its whole body has arrived, so up to then the chunk is known not to have been seen (rules 3
and 4 of docs/protocol.md). Must never be sent twice: a second try is a new body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from uploader.files.sending import CannotPass
from uploader.server.port import ByteSource, Throttle
from uploader.server.valt.sendfile import SocketWriter

# bytes handed over at a time at first: on a slow link a whole block would look like a stall
FIRST_PIECE_SIZE: Final = 64 * 1024
FAST_PIECE_TIME: Final = 0.05  # s: a piece that went faster may be twice as large next time
SLOW_PIECE_TIME: Final = 0.5  # s: one that took longer is halved
# bytes; larger ones cost more again: what the socket leaves is copied
SMALLEST_PIECE, LARGEST_PIECE = 4 * 1024, 256 * 1024
SENDFILE_BATCH: Final = 16 * 1024 * 1024  # bytes: one turn of hash and socket, side by side; a turn costs 0.2 ms
SENDFILE_THRESHOLD: Final = 1024 * 1024  # bytes: up to one block the other way costs no more, and proves more


class NoThrottle:
    """A lane that is always free."""

    async def take(self, wanted: int) -> int:
        """Allow it."""
        return wanted


class ChunkBody(Payload):
    """A part's head, the bytes of the chunk, and the closing boundary."""

    def __init__(
        self,
        frame: tuple[bytes, bytes],
        source: ByteSource,
        span: tuple[int, int],
        *,
        lane: Throttle,
        before_last_byte: Callable[[], Awaitable[None]],
        on_progress: Callable[[int], None],
    ) -> None:
        """*span*: where the chunk begins in its file, where *source* stands, and where it ends.

        *on_progress* is told of each piece that the socket has taken, and with 0 when a lane gives way: time spent
        waiting for our own limit is nobody's stall.
        """
        super().__init__(source)
        self._head, self._tail = frame
        self._source, self._lane = source, lane
        self._start, self._end = span
        self._before_last_byte = before_last_byte
        self._on_progress = on_progress
        self.last_byte_may_have_gone = False
        self.failure: Exception | None = None  # what ended the body from our side: aiohttp wraps it beyond use

    @property
    def size(self) -> int:
        """Bytes on the wire: what Content-Length says."""
        return len(self._head) + self._end - self._start + len(self._tail)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Refuse: the content is never held in memory."""
        raise TypeError("a chunk is streamed, never decoded")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Stream the body. Whatever stops it is kept in ``failure``."""
        try:
            await writer.write(self._head)
            if not await self._pass_on(writer):
                await self._copy(writer)
            await self._before_last_byte()
            self.last_byte_may_have_gone = True
            await writer.write(self._tail)
        except Exception as error:  # kept and passed on: only the client can still tell whose it was
            self.failure = error
            raise

    async def _pass_on(self, writer: AbstractStreamWriter) -> bool:
        """Send the chunk past the event loop; False when it, or the rest of it, must go the other way."""
        left = self._end - self._start
        if not self._source.local or left <= SENDFILE_THRESHOLD:
            return False
        outlet = await SocketWriter.of(writer)
        if outlet is None:
            return False
        with outlet:
            while left:
                count = await self._turn(min(left, SENDFILE_BATCH))
                outlet.check()
                try:
                    await self._source.pass_on(
                        outlet.handle, count, room=outlet.writable, on_progress=self._on_progress
                    )
                except CannotPass:
                    return False
                left -= count
        return True

    async def _copy(self, writer: AbstractStreamWriter) -> None:
        """Send the chunk through aiohttp, in pieces as large as go in a moment."""
        clock, most = asyncio.get_running_loop().time, FIRST_PIECE_SIZE
        async for block in self._source.blocks(self._end):
            rest = block
            while rest:
                count = await self._turn(min(len(rest), most))
                began = clock()
                await writer.write(rest[:count])
                self._on_progress(count)
                took = clock() - began
                if took < FAST_PIECE_TIME and count == most:
                    most = min(2 * most, LARGEST_PIECE)
                elif took > SLOW_PIECE_TIME:
                    most = max(SMALLEST_PIECE, most // 2)
                rest = rest[count:]

    async def _turn(self, wanted: int) -> int:
        count = await self._lane.take(wanted)
        self._on_progress(0)
        return count

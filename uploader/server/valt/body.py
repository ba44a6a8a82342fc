"""The body of an upload request: one multipart part of known length, streamed in constant memory.

Each chunk is sent in one of two modes. On a plain connection, and from a file that allows it, the bytes go from the
page cache to the socket on the share's threads (``SocketWriter``), which takes two thirds of the time of a copy.
Otherwise, and always under TLS, they go block by block through aiohttp's writer; the next block is read and hashed
while one is sent. ``docs/performance.md`` has the figures of what else was tried.

The closing boundary is sent only after ``before_last_byte`` has returned. A server passes a request to its application
when the whole body has arrived, so up to then the chunk has certainly not been seen (rules 3 and 4 of
docs/protocol.md). A body is sent once: a retry needs a new one.
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

# bytes written at a time at first: on a slow link a whole block would look like a stall
FIRST_PIECE_SIZE: Final = 64 * 1024
FAST_PIECE_TIME: Final = 0.05  # s: after a piece that was sent faster, the size is doubled
SLOW_PIECE_TIME: Final = 0.5  # s: after one that took longer, the size is halved
# bytes; larger pieces cost more again, since what the socket does not take is copied
SMALLEST_PIECE, LARGEST_PIECE = 4 * 1024, 256 * 1024
SENDFILE_BATCH: Final = 16 * 1024 * 1024  # bytes hashed and sent side by side, per call; a call costs 0.2 ms
SENDFILE_THRESHOLD: Final = 1024 * 1024  # bytes: a chunk of one block is copied, which costs no more and proves more


class NoThrottle:
    """A throttle without a limit."""

    async def take(self, wanted: int) -> int:
        """Allow all bytes at once."""
        return wanted


class ChunkBody(Payload):
    """A part's head, the bytes of the chunk, and the closing boundary."""

    def __init__(
        self,
        frame: tuple[bytes, bytes],
        source: ByteSource,
        span: tuple[int, int],
        *,
        throttle: Throttle,
        before_last_byte: Callable[[], Awaitable[None]],
        on_progress: Callable[[int], None],
    ) -> None:
        """*span*: the chunk's start, where *source* is positioned, and its end (exclusive), as offsets in the file.

        *on_progress* gets the size of each piece that the socket has taken, and 0 after each wait for *throttle*: a
        wait for the bandwidth limit is not a stall of the server.
        """
        super().__init__(source)
        self._head, self._tail = frame
        self._source, self._throttle = source, throttle
        self._start, self._end = span
        self._before_last_byte = before_last_byte
        self._on_progress = on_progress
        self.last_byte_may_have_gone = False
        self.failure: Exception | None = None  # what ended the body on this side: aiohttp hides it in its own error

    @property
    def size(self) -> int:
        """Bytes of the body: the value of Content-Length."""
        return len(self._head) + self._end - self._start + len(self._tail)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raise TypeError: the content is never in memory as a whole."""
        raise TypeError("a chunk is streamed, never decoded")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Stream the body. An exception is raised, and kept in ``failure``."""
        try:
            await writer.write(self._head)
            if not await self._pass_on(writer):
                await self._copy(writer)
            await self._before_last_byte()
            self.last_byte_may_have_gone = True
            await writer.write(self._tail)
        except Exception as error:  # kept and raised: the client decides what it means
            self.failure = error
            raise

    async def _pass_on(self, writer: AbstractStreamWriter) -> bool:
        """Send the chunk with sendfile; False when it, or the rest of it, must be copied."""
        left = self._end - self._start
        if not self._source.local or left <= SENDFILE_THRESHOLD:
            return False
        outlet = await SocketWriter.of(writer)
        if outlet is None:
            return False
        with outlet:
            while left:
                count = await self._throttled(min(left, SENDFILE_BATCH))
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
        """Send the chunk through aiohttp, in pieces whose size follows the speed of the connection."""
        clock, most = asyncio.get_running_loop().time, FIRST_PIECE_SIZE
        async for block in self._source.blocks(self._end):
            rest = block
            while rest:
                count = await self._throttled(min(len(rest), most))
                began = clock()
                await writer.write(rest[:count])
                self._on_progress(count)
                took = clock() - began
                if took < FAST_PIECE_TIME and count == most:
                    most = min(2 * most, LARGEST_PIECE)
                elif took > SLOW_PIECE_TIME:
                    most = max(SMALLEST_PIECE, most // 2)
                rest = rest[count:]

    async def _throttled(self, wanted: int) -> int:
        count = await self._throttle.take(wanted)
        self._on_progress(0)
        return count

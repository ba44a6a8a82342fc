"""The body of an upload request: one multipart part of known length, streamed in constant memory.

The closing boundary is held back until ``before_last_byte`` has returned: servers hand a request to the
application only when its whole body has arrived, so up to then the chunk is known not to have been seen (rules 3
and 4 of docs/protocol.md). Must never be sent twice: a second try is a new body.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

PIECE: Final = 64 * 1024  # bytes handed over at a time: on a slow link a whole block would look like a stall


class ChunkBody(Payload):
    """A part's head, the chunk's blocks, and the closing boundary."""

    def __init__(
        self,
        frame: tuple[bytes, bytes],
        blocks: AsyncIterator[bytes],
        length: int,
        *,
        before_last_byte: Callable[[], Awaitable[None]],
        on_progress: Callable[[int], None],
    ) -> None:
        """*length*: bytes of the chunk itself. *on_progress* is told of each piece that the socket has taken."""
        super().__init__(blocks)
        self._head, self._tail = frame
        self._blocks = blocks
        self._length = length
        self._before_last_byte = before_last_byte
        self._on_progress = on_progress
        self.last_byte_may_have_gone = False
        self.failure: Exception | None = None  # what ended the body from our side: aiohttp wraps it beyond use

    @property
    def size(self) -> int:
        """Bytes on the wire: what Content-Length says."""
        return len(self._head) + self._length + len(self._tail)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Refuse: the content is never held in memory."""
        raise TypeError("a chunk is streamed, never decoded")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Stream the body. Whatever stops it is kept in ``failure``."""
        try:
            await writer.write(self._head)
            async for block in self._blocks:
                for start in range(0, len(block), PIECE):
                    piece = memoryview(block)[start : start + PIECE]
                    await writer.write(piece)
                    self._on_progress(len(piece))
            await self._before_last_byte()
            self.last_byte_may_have_gone = True
            await writer.write(self._tail)
        except Exception as error:  # kept and passed on: only the client can still tell whose it was
            self.failure = error
            raise

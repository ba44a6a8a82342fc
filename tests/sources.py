"""What a chunk is read from, without a file: the ``ByteSource`` of tests that are about bodies and connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from uploader.files.shared_fd import SharedFd
from uploader.server.port import WaitWritable


class Blocks:
    """These blocks, and perhaps an error; nothing that a socket could take by itself."""

    local = False

    def __init__(self, *blocks: bytes, then: Exception | None = None) -> None:
        self._blocks, self._then = blocks, then

    async def blocks(self, end: int) -> AsyncIterator[memoryview]:
        """One after the other."""
        del end
        for block in self._blocks:
            yield memoryview(block)
        if self._then is not None:
            raise self._then

    async def pass_on(
        self, socket: SharedFd, count: int, *, room: WaitWritable, on_progress: Callable[[int], None]
    ) -> None:
        """Refuse: it is not local."""
        del socket, count, room, on_progress
        raise AssertionError("only local files are passed on")

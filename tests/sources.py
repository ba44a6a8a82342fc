"""A ``ByteSource`` without a file, for tests of request bodies and connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from uploader.files.shared_fd import SharedFd, WaitWritable


class Blocks:
    """Yields these blocks and then raises *then*, if given. It does not support ``sendfile``."""

    local = False

    def __init__(self, *blocks: bytes, then: Exception | None = None) -> None:
        self._blocks, self._then = blocks, then

    async def blocks(self, end: int) -> AsyncIterator[memoryview]:
        """Yield the blocks in order."""
        del end
        for block in self._blocks:
            yield memoryview(block)
        if self._then is not None:
            raise self._then

    async def pass_on(
        self, socket: SharedFd, count: int, *, room: WaitWritable, on_progress: Callable[[int], None]
    ) -> None:
        """Raise: the source is not a local file."""
        del socket, count, room, on_progress
        raise AssertionError("only local files are passed on")

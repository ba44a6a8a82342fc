"""One recording, open for sending: read front to back, hashed on the way, and watched for change.

The only user of aiofiles. Must never hold more of a file than one block, pad a file that was cut short, or wait for
ever for a share that has stopped answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from uploader import errors
from uploader.files.opening import ours
from uploader.files.threads import PATIENCE, ShareThreads
from uploader.model import Identity, shown

BLOCK: Final = 1024 * 1024  # bytes of one read: 64 KiB reads through a thread cost six times the CPU

R = TypeVar("R")

Bookmark = tuple[int, "hashlib._Hash"]  # noqa: SLF001 - the only name that typeshed has for it
Opener = Callable[[str, int], int]


class Recording:
    """One file, open for sending: read front to back, hashed on the way, and watched for change."""

    def __init__(self, path: str, identity: Identity, file: AsyncFileIO, threads: ShareThreads) -> None:
        self.path = path
        self.identity = identity
        self.inode = (0, 0)  # device, inode: known from ``check_unchanged`` on
        self._file = file
        self._threads = threads
        self._hash = hashlib.sha256()
        self._position = 0
        self._hung = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, path: str, identity: Identity, threads: ShareThreads, opener: Opener
    ) -> AsyncIterator[Recording]:
        """Open *path* by *opener*; it must still be the file that was identified. Raises our errors."""
        opening = asyncio.ensure_future(_opened(path, threads, opener))
        try:
            async with asyncio.timeout(PATIENCE):
                file = await asyncio.shield(opening)
        except TimeoutError:
            opening.add_done_callback(_close_late)
            raise errors.ShareNotReady(f"{shown(path)} cannot be opened: the share does not answer") from None
        except OSError as error:
            raise ours(path, error) from None
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)  # a thread that opens cannot be called back
            raise
        recording = cls(path, identity, file, threads)
        try:
            await recording.check_unchanged()
            yield recording
        finally:
            await recording._close()

    @property
    def position(self) -> int:
        """Bytes read and hashed so far."""
        return self._position

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the first ``position`` bytes."""
        return self._hash.hexdigest()

    async def check_unchanged(self) -> None:
        """Raise ``FileChanged`` unless the open file has the size and mtime it was identified with."""
        fd = self._file.fileno()
        status = await self._in_time(asyncio.wrap_future(self._threads.submit(os.fstat, fd)))
        self.inode = status.st_dev, status.st_ino
        if (status.st_size, status.st_mtime_ns) != (self.identity.size, self.identity.mtime_ns):
            change = _change(self.identity.size, status.st_size)
            raise errors.FileChanged(f"{shown(self.path)} {change} while it was being sent")

    async def skip_to(self, offset: int, digest: str) -> None:
        """Read up to *offset*, and prove that these are the bytes that were sent before: their sha256 is *digest*.

        Raises ``FileChanged`` when they are not.
        """
        await self.rewind()
        async for _ in self.blocks(offset):
            pass
        if offset and self.digest != digest:
            raise errors.FileChanged(f"{shown(self.path)} no longer begins with the bytes that were sent")

    async def rewind(self) -> None:
        """Begin again at the first byte."""
        await self.return_to((0, hashlib.sha256()))

    def bookmark(self) -> Bookmark:
        """Note where we are, hash and all, so that a chunk can be sent again without reading what came before."""
        return self._position, self._hash.copy()

    async def return_to(self, bookmark: Bookmark) -> None:
        """Go back to where ``bookmark`` was taken; one bookmark serves many returns."""
        self._position, taken = bookmark
        self._hash = taken.copy()
        await self._in_time(self._file.seek(self._position))

    async def blocks(self, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``position`` to *end* (exclusive), at most ``BLOCK`` at a time, hashing each once.

        Raises ``FileChanged`` when the file ends before that: it is never padded.
        """
        while self._position < end:
            block = await self._in_time(self._file.read(min(BLOCK, end - self._position)))
            if not block:
                raise errors.FileChanged(f"{shown(self.path)} was cut short while it was being sent")
            self._hash.update(block)
            self._position += len(block)
            yield block

    async def _in_time(self, call: Awaitable[R]) -> R:
        """Wait for a call into the share, but not for ever. Raises our errors."""
        bound = asyncio.timeout(PATIENCE)
        try:
            async with bound:
                return await call
        except OSError as error:
            if not bound.expired():
                raise ours(self.path, error) from None
            self._hung = True
            what = f"{shown(self.path)} cannot be read: the share has not answered for {PATIENCE:g} s"
            raise errors.ShareNotReady(what) from None

    async def _close(self) -> None:
        """Close the file; where a call into the share hangs, its thread does so when it comes back, if it ever does."""
        closing = asyncio.ensure_future(self._file.close())
        if self._hung:
            closing.add_done_callback(_heard)
        else:
            await asyncio.shield(closing)


async def _opened(path: str, threads: ShareThreads, opener: Opener) -> AsyncFileIO:
    return await aiofiles.open(path, "rb", buffering=0, opener=opener, executor=threads)


def _close_late(opening: asyncio.Future[AsyncFileIO]) -> None:
    """Close a file whose opening nobody has waited for."""
    if not opening.cancelled() and opening.exception() is None:
        asyncio.ensure_future(opening.result().close()).add_done_callback(_heard)


def _heard(done: asyncio.Future[Any]) -> None:
    """Take note of how a call ended that nobody waits for."""
    if not done.cancelled():
        done.exception()


def _change(before: int, now: int) -> str:
    if now == before:
        return "was written to"
    return f"{'grew' if now > before else 'shrank'} from {before} to {now} bytes"

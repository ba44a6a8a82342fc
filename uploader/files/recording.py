"""One recording, open for sending: read front to back, hashed on the way, and watched for change.

The only user of aiofiles, which opens and closes; bytes go past it (``sending.py``): 64 KiB at a time through its
futures cost six times the processor. There are two ways out, and they prove different things.

``blocks``: each block is read once, hashed, and handed out. The digest is that of the bytes that were sent, whatever
happens to the file meanwhile; that the file did not change is told by size and mtime.

``pass_on``: pages of the file go to the socket by reference, while the same pages are hashed. The digest is that of the
bytes that were sent only if the file did not change from before the first of them was hashed until the last had
arrived, for the socket holds pages, not copies. So it is for local files alone, whose times this very kernel keeps, and
size, mtime and ctime are compared before the last byte goes, and once more when the answer is there (``confirm``): what
a write did in between is told by mtime, and by ctime where somebody has set mtime back. A ctime alone that has moved (a
rename, a new link, other rights) proves nothing either way: then the chunk is read again. Not seen by either way is who
writes through a mapping of pages that he had made dirty before: his times move when the kernel writes them back.

Must never hold more of a file than two blocks, pad a file that was cut short, or wait for ever for a share that has
stopped answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from uploader.domain import errors
from uploader.domain.model import Identity, shown
from uploader.files import sending
from uploader.files.safe_open import as_our_error
from uploader.files.shared_fd import SharedFd
from uploader.files.threads import SHARE_CALL_TIMEOUT, ShareThreads

READ_BLOCK: Final = 1024 * 1024  # bytes of one read: 64 KiB reads through a thread cost six times the CPU
HASH_BATCH: Final = 16 * READ_BLOCK  # bytes of a local file that are hashed in one call

R = TypeVar("R")

Opener = Callable[[str, int], int]
WaitWritable = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A place in a recording, with the hash of all before it, and the inode that was read and when it had changed."""

    position: int
    hash: sending.Hash
    inode: tuple[int, int]
    ctime_ns: int


class Recording:
    """One file, open for sending: read front to back, hashed on the way, and watched for change."""

    def __init__(
        self, path: str, identity: Identity, file: AsyncFileIO, threads: ShareThreads, *, local: bool = False
    ) -> None:
        self.path = path
        self.identity = identity
        self.local = local  # ``pass_on`` may be used
        self.inode = (0, 0)  # device, inode: known from ``check_unchanged`` on
        self._file = file
        self._handle = SharedFd.copy_of(file.fileno())
        self._threads = threads
        self._hash: sending.Hash = hashlib.sha256()
        self._position = 0
        self._ctime_ns = 0
        self._passed: Bookmark | None = None  # where what went by reference, and is not confirmed, begins
        self._hung = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, path: str, identity: Identity, threads: ShareThreads, opener: Opener, *, local: bool = False
    ) -> AsyncIterator[Recording]:
        """Open *path* by *opener*; it must still be the file that was identified. Raises our errors.

        *local*: it lies in a file system of this kernel's own.
        """
        opening = asyncio.ensure_future(_opened(path, threads, opener))
        try:
            async with asyncio.timeout(SHARE_CALL_TIMEOUT):
                file = await asyncio.shield(opening)
        except TimeoutError:
            opening.add_done_callback(_close_late)
            raise errors.ShareNotReady(f"{shown(path)} cannot be opened: the share does not answer") from None
        except OSError as error:
            raise as_our_error(path, error) from None
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)  # a thread that opens cannot be called back
            raise
        recording = cls(path, identity, file, threads, local=local)
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
        """Raise ``FileChanged`` unless the open file is the one it was identified as, and was not written to."""
        status = await self._status()
        self.inode = status.st_dev, status.st_ino
        if (status.st_size, status.st_mtime_ns) != (self.identity.size, self.identity.mtime_ns):
            raise self._changed(_change(self.identity.size, status.st_size))
        if self._passed is not None and status.st_ctime_ns != self._ctime_ns:
            await self._read_again(self._passed)
        self._ctime_ns = status.st_ctime_ns

    async def _status(self) -> os.stat_result:
        fd = self._file.fileno()
        if not self.local:
            return await self._call(lambda: os.fstat(fd))
        try:
            return os.fstat(fd)  # this kernel holds the inode of an open file: nothing is read, nothing can hang
        except OSError as error:
            raise as_our_error(self.path, error) from None

    async def confirm(self) -> None:
        """Raise ``FileChanged`` when the file was written to while bytes of it were under way by reference."""
        if self._passed is not None:
            await self.check_unchanged()
            self._passed = None

    async def skip_to(self, offset: int, digest: str) -> None:
        """Read up to *offset*, and prove that these are the bytes that were sent before: their sha256 is *digest*.

        Raises ``FileChanged`` when they are not.
        """
        self.rewind()
        self._hash = await self._hashed(self._hash, 0, offset)
        self._position = offset
        if offset and self.digest != digest:
            raise errors.FileChanged(f"{shown(self.path)} no longer begins with the bytes that were sent")

    def rewind(self) -> None:
        """Begin again at the first byte."""
        self._position, self._hash, self._passed = 0, hashlib.sha256(), None

    def bookmark(self) -> Bookmark:
        """Note where we are, hash and all, so that nothing that came before need be read again."""
        return Bookmark(self._position, self._hash.copy(), self.inode, self._ctime_ns)

    def return_to(self, bookmark: Bookmark) -> None:
        """Go back to where ``bookmark`` was taken; one bookmark serves many returns."""
        self._position, self._hash, self._passed = bookmark.position, bookmark.hash.copy(), None

    def is_as_at(self, bookmark: Bookmark) -> bool:
        """True when nothing has happened to the file since *bookmark* was taken, perhaps on another opening of it."""
        return (self.inode, self._ctime_ns) == (bookmark.inode, bookmark.ctime_ns)

    async def blocks(self, end: int) -> AsyncIterator[memoryview]:
        """Yield the bytes from ``position`` to *end* (exclusive), at most ``READ_BLOCK`` at a time, hashing each once.

        The next block is read while one is being sent. Raises ``FileChanged`` when the file ends before *end*: it is
        never padded.
        """
        reading = self._read_ahead(end)
        try:
            while reading is not None:
                block, self._hash = await reading
                self._position += len(block)
                reading = self._read_ahead(end)
                yield block
        finally:
            await _dismiss(reading)

    def _read_ahead(self, end: int) -> asyncio.Future[tuple[memoryview, sending.Hash]] | None:
        start = self._position
        if start >= end:
            return None
        digest = self._hash.copy()  # of this block on: whoever stops in between keeps the one up to there
        # Made here, not by the thread: malloc would keep a megabyte for each thread that ever made one.
        block = bytearray(min(READ_BLOCK, end - start))
        read = partial(sending.read_block, self._handle, digest, start, block)

        async def read_and_hash() -> tuple[memoryview, sending.Hash]:
            return memoryview(block)[: await self._call(read)], digest

        return asyncio.ensure_future(read_and_hash())

    async def pass_on(
        self, socket: SharedFd, count: int, *, room: WaitWritable, on_progress: Callable[[int], None]
    ) -> None:
        """Send the next *count* bytes to a socket by reference, hashing them meanwhile; see above for what it proves.

        *room* is awaited when the socket has none. Raises ``FileChanged``, ``OSError`` when it is the connection that
        fails, ``sending.CannotPass`` (nothing was sent) when this file or socket is not made for it.
        """
        if self._passed is None:
            self._passed = self.bookmark()
        start, sent = self._position, 0
        hashing = asyncio.ensure_future(self._hashed(self._hash, start, count))
        try:
            while sent < count:
                went = await self._call(partial(sending.pass_on, self._handle, socket, start + sent, count - sent))
                if went:
                    sent += went
                    on_progress(went)
                else:
                    await room()
            self._hash = await hashing
            self._position += count
        except sending.CannotPass:
            if sent:  # never seen: what goes once goes on
                raise errors.ShareNotReady(f"{shown(self.path)} cannot be sent any further") from None
            raise
        finally:
            await _dismiss(hashing)

    async def _read_again(self, since: Bookmark) -> None:
        """Raise ``FileChanged`` unless the file still holds what was hashed since a bookmark."""
        count = self._position - since.position
        if (await self._hashed(since.hash, since.position, count)).hexdigest() != self.digest:
            raise self._changed("was written to")

    async def _hashed(self, digest: sending.Hash, start: int, count: int) -> sending.Hash:
        """Hash *count* bytes from *start* on, on top of *digest*, which stays as it is."""
        digest, end = digest.copy(), start + count
        while start < end:
            stretch = min(HASH_BATCH if self.local else READ_BLOCK, end - start)
            await self._call(partial(sending.hash_up, self._handle, digest, start, stretch))
            start += stretch
        return digest

    async def _call(self, work: Callable[[], R]) -> R:
        """Let a thread of the share do it, but wait only so long. Raises our errors, and a connection's ``OSError``."""
        try:
            return await self._threads.call(work)
        except sending.CutShort:
            raise self._changed("was cut short") from None
        except OSError as error:
            if sending.is_of_the_connection(error):
                raise
            raise as_our_error(self.path, error) from None
        except errors.ShareNotReady:
            self._hung = True
            what = f"{shown(self.path)} cannot be read: the share has not answered for {SHARE_CALL_TIMEOUT:g} s"
            raise errors.ShareNotReady(what) from None

    def _changed(self, how: str) -> errors.FileChanged:
        return errors.FileChanged(f"{shown(self.path)} {how} while it was being sent")

    async def _close(self) -> None:
        """Close the file; where a call into the share hangs, its thread does so when it comes back, if it ever does."""
        self._handle.close()
        closing = asyncio.ensure_future(self._file.close())
        if self._hung:
            closing.add_done_callback(_heard)
        else:
            await asyncio.shield(closing)


async def _opened(path: str, threads: ShareThreads, opener: Opener) -> AsyncFileIO:
    return await aiofiles.open(path, "rb", buffering=0, opener=opener, executor=threads)


async def _dismiss(task: asyncio.Future[Any] | None) -> None:
    """End a task whose outcome is not wanted, if it has not ended."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


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

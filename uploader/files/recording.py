"""A recording that is open for sending: read from front to back, hashed on the way, and checked for changes.

aiofiles opens and closes the file; bytes do not pass through it (``sending.py``), since reads of 64 KiB through its
futures cost six times the CPU. There are two ways to send, and they prove different things.

``blocks`` reads and hashes each block once, then yields it. The digest is that of the bytes that were sent, whatever
happens to the file meanwhile. Size and mtime show whether the file changed.

``pass_on`` sends pages of the file to the socket by reference, and hashes the same pages. The socket holds pages, not
copies. So the digest is that of the bytes that were sent only if the file did not change from before the first of them
was hashed until the last had arrived. It is used for local files only, whose times this kernel keeps. Size, mtime and
ctime are compared before the last byte goes, and again when the answer is there (``confirm``). A write in between shows
in mtime, and in ctime if mtime was set back. A changed ctime alone (a rename, a new link, other rights) proves neither;
then the chunk is read again. One case stays unseen: a write through a memory mapping to pages that were dirty before,
whose times change only when the kernel writes the pages back.

An mtime that moves does not show that the content changed: indexers, virus scanners and backups set it. Then the ends
of the file are compared, and all that was sent so far: by reading it again, for as long as that has cost less than
one reading of the file, and else once before the last byte goes (``prove``). If all of it is still there, the bytes
that were sent are those that the file had when the comparison began, and the upload goes on.

At most two blocks of a file are in memory. A file that was cut short is not padded. A share that stops answering is
given up after ``SHARE_CALL_TIMEOUT``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from uploader.domain import errors
from uploader.domain.model import Identity, shown
from uploader.files import sending
from uploader.files.inspection import snapshot_of
from uploader.files.safe_open import as_our_error
from uploader.files.shared_fd import SharedFd, WaitWritable
from uploader.files.threads import SHARE_CALL_TIMEOUT, ShareThreads

READ_BLOCK: Final = 1024 * 1024  # bytes of one read: 64 KiB reads through a thread cost six times the CPU
HASH_BATCH: Final = 16 * READ_BLOCK  # bytes of a local file that are hashed in one call

R = TypeVar("R")

Opener = Callable[[str, int], int]


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A position in a recording, with the hash of all bytes before it, and the file's inode and ctime at that time.

    ``unproven``: the bytes before it have not been compared since the mtime moved.
    """

    position: int
    hash: sending.Hash
    inode: tuple[int, int]
    ctime_ns: int
    unproven: bool = False


class Recording:
    """One file, open for sending: read front to back, hashed on the way, and checked for changes."""

    def __init__(
        self, path: str, identity: Identity, file: AsyncFileIO, threads: ShareThreads, *, local: bool = False
    ) -> None:
        self.path = path
        self.identity = identity
        self.local = local  # ``pass_on`` may be used
        self.inode = (0, 0)  # device, inode; set by ``check_unchanged``
        self.mtime_ns = identity.mtime_ns  # as ``check_unchanged`` has found it last
        self._compared = 0  # bytes that were read again because the mtime had moved
        self._unproven = False  # what was sent has not been compared since the mtime moved
        self._file = file
        self._handle = SharedFd.copy_of(file.fileno())
        self._threads = threads
        self._hash: sending.Hash = hashlib.sha256()
        self._position = 0
        self._ctime_ns = 0
        self._passed: Bookmark | None = None  # where the bytes begin that were sent by reference and are not confirmed
        self._hung = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, path: str, identity: Identity, threads: ShareThreads, opener: Opener, *, local: bool = False
    ) -> AsyncIterator[Recording]:
        """Open *path* with *opener*. Raises ``FileChanged`` unless it has the size and the ends of *identity*.

        *local*: it lies on a file system that only this kernel writes to. Also raises ``FileMissing``, ``NotAFile``
        and ``ShareNotReady``.
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
            opening.add_done_callback(_close_late)  # a thread that is opening a file cannot be stopped
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
        """Raise ``FileChanged`` unless the open file has the identity's size, and was not written to.

        When its mtime has moved, its content is compared; what is left to compare, ``prove`` does.
        """
        status = await self._status()
        self.inode = status.st_dev, status.st_ino
        if status.st_size != self.identity.size:
            raise self._changed(_change(self.identity.size, status.st_size))
        if status.st_mtime_ns != self.mtime_ns:
            await self._time_has_moved(status.st_mtime_ns)
        elif self._passed is not None and status.st_ctime_ns != self._ctime_ns:
            await self._read_again(self._passed)
        self._ctime_ns = status.st_ctime_ns

    async def _time_has_moved(self, mtime_ns: int) -> None:
        """Compare the content, since the mtime has moved to *mtime_ns*. Raises ``FileChanged``."""
        if await self._edges() != self.identity.edges:
            raise self._changed("was written to")
        self._unproven = self._position > 0
        if self._compared + self._position <= self.identity.size:
            await self.prove()
        elif self._passed is not None:
            await self._read_again(self._passed)
        self.mtime_ns = mtime_ns

    async def _edges(self) -> str:
        fd = self._file.fileno()
        return await self._call(lambda: snapshot_of(fd).identity.edges)

    async def prove(self) -> None:
        """Compare all that was sent with the file, if its mtime has moved since that was done. Raises ``FileChanged``.

        To be called before the last byte of the file goes.
        """
        if self._unproven:
            self._compared += self._position
            if (await self._hashed(hashlib.sha256(), 0, self._position)).hexdigest() != self.digest:
                raise self._changed("was written to")
            self._unproven = False

    async def _status(self) -> os.stat_result:
        fd = self._file.fileno()
        if not self.local:
            return await self._call(lambda: os.fstat(fd))
        try:
            return os.fstat(fd)  # the kernel holds the inode of an open local file, so this does not block
        except OSError as error:
            raise as_our_error(self.path, error) from None

    async def confirm(self) -> None:
        """Raise ``FileChanged`` when the file was written to while bytes of it were being sent by reference."""
        if self._passed is not None:
            await self.check_unchanged()
            self._passed = None

    async def skip_to(self, offset: int, digest: str) -> None:
        """Read up to *offset*. Raises ``FileChanged`` unless these are the bytes sent before, with sha256 *digest*."""
        self.rewind()
        self._hash = await self._hashed(self._hash, 0, offset)
        self._position = offset
        if offset and self.digest != digest:
            raise errors.FileChanged(f"{shown(self.path)} no longer begins with the bytes that were sent")
        self._unproven = False

    def rewind(self) -> None:
        """Begin again at the first byte."""
        self._position, self._hash, self._passed = 0, hashlib.sha256(), None

    def bookmark(self) -> Bookmark:
        """Return the current position with its hash, so that nothing before it has to be read again."""
        return Bookmark(self._position, self._hash.copy(), self.inode, self._ctime_ns, self._unproven)

    def return_to(self, bookmark: Bookmark) -> None:
        """Go back to where *bookmark* was taken; the same bookmark may be used many times."""
        self._position, self._hash, self._passed = bookmark.position, bookmark.hash.copy(), None
        self._unproven = self._unproven or bookmark.unproven

    def is_as_at(self, bookmark: Bookmark) -> bool:
        """True when the file has not changed since *bookmark* was taken, which may be from an earlier open of it."""
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
        digest = self._hash.copy()  # a read that is cancelled must not change the hash up to here
        # Allocated here, not in the thread: malloc would keep a megabyte for each thread that ever allocated one.
        block = bytearray(min(READ_BLOCK, end - start))
        read = partial(sending.read_block, self._handle, digest, start, block)

        async def read_and_hash() -> tuple[memoryview, sending.Hash]:
            return memoryview(block)[: await self._call(read)], digest

        return asyncio.ensure_future(read_and_hash())

    async def pass_on(
        self, socket: SharedFd, count: int, *, room: WaitWritable, on_progress: Callable[[int], None]
    ) -> None:
        """Send the next *count* bytes to a socket by reference, and hash them; the module says what this proves.

        *room* is awaited when the socket's buffer is full. Raises ``FileChanged``; ``OSError`` when the connection
        fails; ``sending.CannotPass`` (nothing was sent) when this file or socket does not support it.
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
            if sent:  # not observed so far: a pair that supports it once goes on doing so
                raise errors.ShareNotReady(f"{shown(self.path)} cannot be sent any further") from None
            raise
        finally:
            await _dismiss(hashing)

    async def _read_again(self, since: Bookmark) -> None:
        """Raise ``FileChanged`` unless the file still holds the bytes that were hashed since a bookmark."""
        count = self._position - since.position
        if (await self._hashed(since.hash, since.position, count)).hexdigest() != self.digest:
            raise self._changed("was written to")

    async def _hashed(self, digest: sending.Hash, start: int, count: int) -> sending.Hash:
        """Return *digest* updated with *count* bytes from *start* on; *digest* itself does not change."""
        digest, end = digest.copy(), start + count
        while start < end:
            stretch = min(HASH_BATCH if self.local else READ_BLOCK, end - start)
            await self._call(partial(sending.hash_up, self._handle, digest, start, stretch))
            start += stretch
        return digest

    async def _call(self, work: Callable[[], R]) -> R:
        """Run *work* on a thread of the share, for at most ``SHARE_CALL_TIMEOUT``.

        Raises ``FileChanged``, ``ShareNotReady`` and, when the connection fails, its ``OSError``.
        """
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
        """Close the file. If a call into the share hangs, do not wait: a thread closes it when the share answers."""
        self._handle.close()
        closing = asyncio.ensure_future(self._file.close())
        if self._hung:
            closing.add_done_callback(_heard)
        else:
            await asyncio.shield(closing)


async def _opened(path: str, threads: ShareThreads, opener: Opener) -> AsyncFileIO:
    return await aiofiles.open(path, "rb", buffering=0, opener=opener, executor=threads)


async def _dismiss(task: asyncio.Future[Any] | None) -> None:
    """Cancel a task whose result is not needed, and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _close_late(opening: asyncio.Future[AsyncFileIO]) -> None:
    """Close a file that was opened too late: its caller had given up."""
    if not opening.cancelled() and opening.exception() is None:
        asyncio.ensure_future(opening.result().close()).add_done_callback(_heard)


def _heard(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a call that is not awaited, else asyncio logs it."""
    if not done.cancelled():
        done.exception()


def _change(before: int, now: int) -> str:
    if now == before:
        return "was written to"
    return f"{'grew' if now > before else 'shrank'} from {before} to {now} bytes"

"""Implements ``Share`` for a mounted folder: checks that it is the right one, then works below its open handle.

Each call opens the folder anew, since a handle that stays open would block an unmount. The call first makes sure that
the folder is still the one that was checked last. So an empty mount point is never taken for an empty folder, and
nothing is written into another folder. A call that hangs delays only its own caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import replace
from typing import Final, TypeVar

from uploader.domain import companions, errors, selection
from uploader.domain.model import Identity, MountIdentity, Sighting, Snapshot, WriteState, shown
from uploader.files import archive, dispose, inspection, mount_identity, mounts, safe_open, set_aside
from uploader.files.archive import Archives, NoArchives
from uploader.files.companion_files import CompanionFiles
from uploader.files.dispose import SentFile
from uploader.files.mounts import ReadText, read_mountinfo
from uploader.files.open_writers import Inode, open_for_writing
from uploader.files.recording import Recording
from uploader.files.set_aside import Disposer
from uploader.files.share import ShareStatus
from uploader.files.threads import SHARE_CALL_TIMEOUT, ShareThreads
from uploader.files.walk import Walk, WalkBatch, WalkFilter, in_words
from uploader.runtime.clock import Clock

SHARE_CHECK_TIMEOUT: Final = 10.0  # s until a folder that does not answer makes its share count as away
RECORDING_CLOSE_TIMEOUT: Final = 2.0  # s to wait for closing a recording
OPEN_FILES_CACHE_TIME: Final = 1.0  # s that one read of /proc is used for all files

R = TypeVar("R")


class MountedShare:
    """The ``Share`` of one watched folder."""

    def __init__(
        self,
        root: str,
        clock: Clock,
        *,
        identity: MountIdentity | None = None,
        archives: Archives | None = None,
        mountinfo: ReadText = read_mountinfo,
    ) -> None:
        """Make the share of the folder *root*; ``check`` looks at it first.

        *identity*: the folder's mount identity, as the state remembers it; None when it is not known yet. *archives*:
        the mount identities of the folders that files are moved to; without it each is accepted as it is found.
        """
        self.root, self.identity = root, identity
        self.status = ShareStatus()
        self._clock, self._mountinfo = clock, mountinfo
        self._archives = archives or NoArchives()
        self._disposer = Disposer(_unique, _unique())
        self._threads = ShareThreads(f"share {shown(root, 40)}")
        self._inode: Inode | None = None  # of the folder when it was checked last
        self._checking = asyncio.Lock()
        self._hangs = False  # True while a check hangs; no second one is started, since it would hang too
        self._companions = CompanionFiles(clock.monotonic)
        self._writers: tuple[float, frozenset[Inode]] = (float("-inf"), frozenset())  # when it was read, and the inodes

    @property
    def not_kept(self) -> Collection[str]:
        """What of owner, group, rights, times and attributes its copies in another file system could not keep."""
        return frozenset(self._disposer.not_kept)

    # Checking the folder

    async def check(self) -> ShareStatus:
        """Check that the folder is there and still the same. Does not raise: the result says what is wrong."""
        async with self._checking:
            if self._hangs:
                return self.status
            try:
                self.status = await self._threads.call(
                    self._check_now, time_limit=SHARE_CHECK_TIMEOUT, late=self._came_back
                )
            except errors.ShareNotReady:
                self._hangs = True
                self.status = ShareStatus(f"{self.root}: has not answered for {SHARE_CHECK_TIMEOUT:g} s")
            except asyncio.CancelledError:
                self._hangs = True  # its thread may still be busy
                raise
            return self.status

    def _came_back(self, _: ShareStatus) -> None:
        """Note that a check that hung has returned, so that the next one may ask again."""
        self._hangs = False

    def _check_now(self) -> ShareStatus:
        """Check the folder's inode, mount and marker. Blocks."""
        try:
            fd = safe_open.open_root(self.root)
        except FileNotFoundError:
            return ShareStatus(f"{self.root}: is missing")
        except OSError as error:
            return ShareStatus(in_words(self.root, error))
        try:
            mount, inode = mounts.mount_of(fd, self._mountinfo), _inode_of(fd)
            if away := mount_identity.mount_problem(self.identity, self.root, fd, mount):
                return ShareStatus(away, mount)
            self._inode = inode
            return ShareStatus("", mount, inode)
        except OSError as error:
            return ShareStatus(in_words(self.root, error))
        finally:
            os.close(fd)

    def accept_new_mount(self) -> None:
        """Forget the known identity: the operator accepts whatever file system is found next."""
        self.identity = None

    async def record_identity(self) -> MountIdentity | None:
        """Return its identity for the state to remember; a network share gets a marker, where it is writable.

        None when it is known already, when the share is away, or when it cannot be determined.
        """
        if self.identity is not None or self.status.away:
            return None
        with contextlib.suppress(errors.ShareNotReady, errors.FileError):
            self.identity = await self._do(
                self.root, lambda root, _: mount_identity.identify_mount(self.root, root, self._mountinfo)
            )
        return self.identity

    # Reading the folder and its files

    async def walk(self, walk_filter: WalkFilter) -> AsyncIterator[WalkBatch]:
        """Walk the folder, batch by batch. Raises ``ShareNotReady`` at the end when parts could not be read."""
        try:
            walk = await self._do(self.root, lambda root, _: self._walk(root, walk_filter), late=Walk.close)
        except errors.FileError as error:
            if walk_filter.start:  # the subfolder was removed meanwhile
                return
            raise errors.ShareNotReady(str(error)) from None
        stepping, problem = False, ""
        try:
            while not walk.done:
                stepping = True
                batch = await self._call(walk.step, late=lambda _: walk.close())
                stepping = False
                for relpath in batch.left_over:
                    if walk_filter.puts_back(set_aside.path_before(relpath)):
                        problem = await self._put_back(relpath) or problem
                yield batch
        finally:
            if not stepping:  # else a thread still uses it, and closes it when the call returns
                walk.close()
        if problem := walk.problem or problem:
            raise errors.ShareNotReady(problem)

    def _walk(self, root: int, walk_filter: WalkFilter) -> Walk:
        return Walk(root, self.root, walk_filter, self._clock.monotonic, run=self._disposer.run)

    async def look(self, paths: Collection[str]) -> list[tuple[str, Sighting | str]]:
        """Return for each path a ``Sighting`` if it is a regular file, else a word like ``missing`` or ``folder``."""

        def look(root: int, _: str) -> list[tuple[str, Sighting | str]]:
            return [(path, self._look(root, path)) for path in paths]

        return await self._do(self.root, look)

    def _look(self, root: int, path: str) -> Sighting | str:
        try:
            status = inspection.stat_beneath(root, self._below(path))
        except OSError as error:
            return f"unreadable ({error.strerror})"
        if status is None:
            return "missing"
        kind = safe_open.kind(status.st_mode)
        return inspection.sighting(path, self.root, status) if kind == "file" else kind

    async def snapshot(self, path: str) -> Snapshot:
        """Take a file's identity. Raises ``FileMissing``, ``NotAFile``."""
        return await self._do(path, inspection.snapshot)

    async def write_state(self, path: str, *, gate: bool) -> WriteState:
        """Find out whether a file is closed by its writer and its recorder. Raises ``FileMissing``, ``NotAFile``."""
        local = self.status.local

        def ask(root: int, relpath: str) -> WriteState:
            if (held := self._companions.of(root, relpath)) is not None:
                return WriteState(companion=companions.reason(held))
            return inspection.write_state(root, relpath, gate=gate, local=local, writers=self._writing_now)

        return await self._do(path, ask)

    def _writing_now(self) -> frozenset[Inode]:
        """Return the inodes that are open for writing; what was read from /proc is used again for a moment."""
        read_at, writers = self._writers
        if (now := self._clock.monotonic()) - read_at > OPEN_FILES_CACHE_TIME:
            writers = open_for_writing()
            self._writers = now, writers
        return writers

    async def sha256(self, path: str) -> str:
        """Hash a whole file. Raises ``FileMissing``, ``NotAFile``."""
        return await self._do(path, inspection.sha256, time_limit=None)

    async def duration(self, path: str, identity: Identity) -> float | None:
        """Return the seconds that a file's container states; None too when the file is gone or another one."""
        try:
            return await self._do(path, lambda root, relpath: inspection.duration(root, relpath, identity))
        except (errors.FileMissing, errors.NotAFile):
            return None

    @contextlib.asynccontextmanager
    async def open(self, path: str, identity: Identity) -> AsyncIterator[Recording]:
        """Open a recording for sending. Raises ``FileMissing``, ``NotAFile``, ``FileChanged``."""
        await self._ready()

        def opener(_: str, flags: int) -> int:
            with self._opened() as root, safe_open.parent(root, self._below(path)) as (folder, name):
                return safe_open.open_regular(name, flags, dir_fd=folder)

        mount = self.status.mount
        local = mount is not None and not mount.network
        manager = Recording.open(path, identity, self._threads, opener, local=local)
        try:
            recording = await manager.__aenter__()
            try:
                yield recording
            finally:
                await self._close_in_time(manager)
        except errors.ShareNotReady:
            await self.check()
            raise

    async def _close_in_time(self, manager: contextlib.AbstractAsyncContextManager[Recording]) -> None:
        """Close a recording; wait at most ``RECORDING_CLOSE_TIMEOUT``, since on a hung share closing hangs too."""
        closing = asyncio.ensure_future(manager.__aexit__(None, None, None))
        await asyncio.wait({closing}, timeout=RECORDING_CLOSE_TIMEOUT)
        if closing.done():
            closing.result()

    # Disposing of a file

    async def delete(self, path: str, sent: SentFile) -> bool:
        """Delete a file that was sent; False when it is gone. Raises ``FileChanged``."""

        def act(root: int, relpath: str, disposer: Disposer) -> bool:
            return dispose.delete(root, relpath, sent, disposer)

        return await self._dispose(path, act)

    async def free_target(self, path: str, sent: SentFile, move_to: str) -> str:
        """Choose the path below *move_to* that a move would give a file."""

        def act(root: int, relpath: str, disposer: Disposer) -> str:
            return dispose.free_target(root, relpath, move_to, sent, disposer)

        return await self._dispose(path, act)

    async def move(self, path: str, sent: SentFile, move_to: str, target: str) -> str | None:
        """Move a file that was sent; return its new path, or None when it is gone. Raises ``FileChanged``."""
        identity = self._archives.identity_of(move_to)
        if identity is None:
            identity = await self._call(lambda: archive.first_identity(move_to, self._mountinfo))
            if identity is not None:
                await self._archives.remember(identity)

        def act(root: int, relpath: str, disposer: Disposer) -> str | None:
            with archive.opened_archive(move_to, identity, self._mountinfo) as destination:
                return dispose.move(root, relpath, sent, destination, target, disposer)

        return await self._dispose(path, act)

    async def _dispose(self, path: str, act: Callable[[int, str, Disposer], R]) -> R:
        """Run *act* on a thread with the open folder, the path below it, and a ``Disposer`` that can stop it.

        When cancelled, it returns only after the thread has ended: then nothing touches the file any more.
        """
        await self._ready()
        disposer = replace(self._disposer, stop=threading.Event())

        def work() -> R:
            with safe_open.our_errors(path), self._opened() as root:
                return act(root, self._below(path), disposer)

        try:
            return await self._threads.call_to_its_end(work, disposer.stop.set)
        except errors.ShareNotReady:
            await self.check()
            raise

    async def _put_back(self, relpath: str) -> str:
        """Put back a recording that a removal has left under a hidden name. Returns why that failed, else ""."""

        def put_back(root: int, relpath: str) -> None:
            set_aside.put_back_left_over(root, relpath, self._disposer)

        try:
            await self._do(f"{self.root}/{relpath}", put_back)
        except errors.FileMissing:
            return ""  # it has been put back or removed meanwhile
        except errors.UploaderError as error:
            return f"a recording that was set aside cannot be put back: {error}"
        return ""

    # Calls on the share's threads

    async def _do(
        self,
        path: str,
        act: Callable[[int, str], R],
        *,
        time_limit: float | None = SHARE_CALL_TIMEOUT,
        late: Callable[[R], None] | None = None,
    ) -> R:
        """Run *act* on a thread of this share, with the open folder and the path below it."""
        await self._ready()

        def work() -> R:
            with safe_open.our_errors(path), self._opened() as root:
                return act(root, self._below(path))

        return await self._call(work, time_limit=time_limit, late=late)

    async def _call(
        self,
        work: Callable[[], R],
        *,
        time_limit: float | None = SHARE_CALL_TIMEOUT,
        late: Callable[[R], None] | None = None,
    ) -> R:
        """Run *work* on a thread of this share. When it does not answer, check the share before the error passes."""
        try:
            return await self._threads.call(work, time_limit=time_limit, late=late)
        except errors.ShareNotReady:
            await self.check()  # if it is away or hangs, the next calls fail at once
            raise

    async def _ready(self) -> None:
        """Raise ``ShareNotReady`` while the share is away."""
        if self._inode is None and not self.status.away:
            await self.check()
        if self.status.away:
            raise errors.ShareNotReady(self.status.away)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Hold the folder open, if it is still the one that was checked. Raises ``ShareNotReady``. Blocks."""
        try:
            fd = safe_open.open_root(self.root)
        except OSError as error:
            raise errors.ShareNotReady(in_words(self.root, error)) from None
        try:
            if _inode_of(fd) != self._inode:
                raise errors.ShareNotReady(f"{self.root}: another folder is there than a moment ago")
            yield fd
        finally:
            os.close(fd)

    def _below(self, path: str) -> str:
        return selection.relative(self.root, path) or ""


def _inode_of(fd: int) -> Inode:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _unique() -> str:
    return uuid.uuid4().hex[:16]

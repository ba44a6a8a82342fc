"""A share as the kernel shows it: a folder somewhere in the mount table, reached by path, worked on by handle.

Every call opens the folder anew (a handle kept would hold an unmount up), proves that it is still the one that was
checked last, and goes on from its handle. Must never take an empty mount point for an empty folder, write anything into
a folder that was not proved to be the share, nor let a call that hangs keep anybody but its own caller waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import replace
from typing import Final, TypeVar

from uploader import errors, selection
from uploader.clock import Clock
from uploader.files import afterwards, looking, mounts, opening
from uploader.files.afterwards import Sent
from uploader.files.mounts import ReadText, read_mountinfo
from uploader.files.recording import Recording
from uploader.files.share import Standing
from uploader.files.threads import PATIENCE, ShareThreads
from uploader.files.walk import Batch, Order, Walk, say
from uploader.files.writers import Inode, open_for_writing
from uploader.model import Closeness, Home, Identity, Sighting, Snapshot, shown

MARKER: Final = f"{selection.OURS}share"  # holds the id by which a network share is known again
CHECK_PATIENCE: Final = 10.0  # s for the folder itself to answer before its share counts as away
CLOSE_PATIENCE: Final = 2.0  # s that closing a recording is waited for
WRITERS_KEPT: Final = 1.0  # s that one look into /proc serves all files

R = TypeVar("R")


class MountedShare:
    """The ``Share`` of one watched folder."""

    def __init__(
        self, root: str, clock: Clock, *, home: Home | None = None, mountinfo: ReadText = read_mountinfo
    ) -> None:
        """*home*: where it lay when recordings were seen in it, as the state remembers."""
        self.root, self.home = root, home
        self.standing = Standing()
        self._clock, self._mountinfo = clock, mountinfo
        self._threads = ShareThreads(f"share {shown(root, 40)}")
        self._inode: Inode | None = None  # of the folder when it was checked last
        self._checking = asyncio.Lock()
        self._hangs = False  # a check does: another one would only hang beside it
        self._writers: tuple[float, frozenset[Inode]] = (float("-inf"), frozenset())

    # Is it there, and the same?

    async def check(self) -> Standing:
        """Look whether it is there, and the same. Never raises: what is wrong is in the answer."""
        async with self._checking:
            if self._hangs:
                return self.standing
            try:
                self.standing = await self._threads.call(self._checked, patience=CHECK_PATIENCE, late=self._came_back)
            except errors.ShareNotReady:
                self._hangs = True
                self.standing = Standing(f"{self.root}: has not answered for {CHECK_PATIENCE:g} s")
            except asyncio.CancelledError:
                self._hangs = True  # for all that is known: it is still under way
                raise
            return self.standing

    def _came_back(self, _: Standing) -> None:
        """A check that had hung has returned: the next one may ask again."""
        self._hangs = False

    def _checked(self) -> Standing:
        """Look at the folder's inode, mount and marker. Blocking."""
        try:
            fd = opening.open_root(self.root)
        except FileNotFoundError:
            return Standing(f"{self.root}: is missing")
        except OSError as error:
            return Standing(say(self.root, error))
        try:
            mount, inode = mounts.mount_of(fd, self._mountinfo), _inode_of(fd)
            if away := self._not_at_home(fd, mount):
                return Standing(away, mount)
            self._inode = inode
            return Standing("", mount, inode)
        except OSError as error:
            return Standing(say(self.root, error))
        finally:
            os.close(fd)

    def _not_at_home(self, fd: int, mount: mounts.Mount | None) -> str:
        """Say that another file system or share stands here than the one that recordings were seen in; else nothing."""
        known = self.home
        if known is None:
            return ""
        if mount is None:
            return f"{self.root}: the mount table does not tell what stands there; it was {known}"
        seen = mounts.home_of(self.root, fd, mount)
        how = f"if that is right: valt-uploader retry {self.root}"
        if seen != replace(known, marker=""):
            return f"{self.root}: another file system is there than before; {how}; before: {known}; now: {seen}"
        if known.marker and (marker := _read_marker(fd)) != known.marker:
            what = "has another marker" if marker else "has no marker"
            return f"{self.root}: the share there {what} ({MARKER}), so it may be another one; {how}"
        return ""

    def accept(self) -> None:
        """Take it as it is found next, although another share stood there before: the operator says so."""
        self.home = None

    async def settle_home(self) -> Home | None:
        """Say where it lies, for the state to remember; a network share is given a marker, where it takes one.

        None when that is known already, or cannot be told.
        """
        if self.home is not None or self.standing.away:
            return None
        with contextlib.suppress(errors.ShareNotReady, errors.FilesTurn):
            self.home = await self._do(self.root, lambda root, _: self._make_home(root))
        return self.home

    def _make_home(self, fd: int) -> Home | None:
        mount = mounts.mount_of(fd, self._mountinfo)
        if mount is None:
            return None
        home = mounts.home_of(self.root, fd, mount)
        return replace(home, marker=_marked(fd)) if mount.network else home

    # What is in it

    async def walk(self, order: Order) -> AsyncIterator[Batch]:
        """Walk through it, batch by batch. Raises ``ShareNotReady`` at the end when it was not whole."""
        try:
            walk = await self._do(self.root, lambda root, _: self._walk(root, order), late=Walk.close)
        except errors.FilesTurn as error:
            if order.start:  # folders come and go, and this one has gone
                return
            raise errors.ShareNotReady(str(error)) from None
        stepping = False
        try:
            while not walk.done:
                stepping = True
                batch = await self._call(walk.step, late=lambda _: walk.close())
                stepping = False
                yield batch
        finally:
            if not stepping:  # else its thread is at work in there, and closes it when it comes back
                walk.close()
        if walk.problem is not None:
            raise errors.ShareNotReady(walk.problem)

    def _walk(self, root: int, order: Order) -> Walk:
        return Walk(root, self.root, order, self._clock.monotonic)

    async def look(self, paths: Collection[str]) -> list[tuple[str, Sighting | str]]:
        """Look at some inodes: what each regular file is, and of anything else its kind."""

        def look(root: int, _: str) -> list[tuple[str, Sighting | str]]:
            return [(path, self._look(root, path)) for path in paths]

        return await self._do(self.root, look)

    def _look(self, root: int, path: str) -> Sighting | str:
        try:
            status = looking.stat_beneath(root, self._below(path))
        except OSError as error:
            return f"unreadable ({error.strerror})"
        if status is None:
            return "missing"
        what = opening.kind(status.st_mode)
        return Sighting(path, self.root, status.st_size, status.st_mtime_ns) if what == "file" else what

    async def snapshot(self, path: str) -> Snapshot:
        """Take a file's identity. Raises ``FileMissing``, ``NotAFile``."""
        return await self._do(path, looking.snapshot)

    async def closeness(self, path: str, *, gate: bool) -> Closeness:
        """Ask whether its writer and its recorder have closed a file. Raises ``FileMissing``, ``NotAFile``."""
        local = self.standing.local

        def ask(root: int, relpath: str) -> Closeness:
            return looking.closeness(root, relpath, gate=gate, local=local, writers=self._writing_now)

        return await self._do(path, ask)

    def _writing_now(self) -> frozenset[Inode]:
        taken, writers = self._writers
        if (now := self._clock.monotonic()) - taken > WRITERS_KEPT:
            writers = open_for_writing()
            self._writers = now, writers
        return writers

    async def sha256(self, path: str) -> str:
        """Hash a whole file. Raises ``FileMissing``, ``NotAFile``."""
        return await self._do(path, looking.sha256, patience=None)

    @contextlib.asynccontextmanager
    async def open(self, path: str, identity: Identity) -> AsyncIterator[Recording]:
        """Open a recording for sending. Raises ``FileMissing``, ``NotAFile``, ``FileChanged``."""
        await self._ready()

        def opener(_: str, flags: int) -> int:
            with self._opened() as root, opening.parent(root, self._below(path)) as (folder, name):
                return opening.open_regular(name, flags, dir_fd=folder)

        mount = self.standing.mount
        local = mount is not None and not mount.network
        manager = Recording.open(path, identity, self._threads, opener, local=local)
        try:
            recording = await manager.__aenter__()
            try:
                yield recording
            finally:
                await self._closed(manager)
        except errors.ShareNotReady:
            await self.check()
            raise

    async def _closed(self, manager: contextlib.AbstractAsyncContextManager[Recording]) -> None:
        """Close a recording, and wait for that only so long: where its share hangs, closing it hangs too."""
        closing = asyncio.ensure_future(manager.__aexit__(None, None, None))
        await asyncio.wait({closing}, timeout=CLOSE_PATIENCE)
        if closing.done():
            closing.result()

    # What becomes of it

    async def delete(self, path: str, sent: Sent) -> bool:
        """Remove a file that was sent; False when it is gone. Raises ``FileChanged``."""
        return await self._do(path, lambda root, relpath: afterwards.delete(root, relpath, sent), patience=None)

    async def free_target(self, path: str, move_to: str) -> str:
        """Say where a file goes below *move_to*."""
        return await self._do(path, lambda root, relpath: afterwards.free_target(root, relpath, move_to), patience=None)

    async def move(self, path: str, sent: Sent, target: str) -> bool:
        """Move a file that was sent; False when it is gone. Raises ``FileChanged``."""
        return await self._do(path, lambda root, relpath: afterwards.move(root, relpath, sent, target), patience=None)

    # How a call is made

    async def _do(
        self,
        path: str,
        act: Callable[[int, str], R],
        *,
        patience: float | None = PATIENCE,
        late: Callable[[R], None] | None = None,
    ) -> R:
        """Let *act* work on the open folder and a path below it, on a thread of this share."""
        await self._ready()

        def work() -> R:
            with opening.in_our_words(path), self._opened() as root:
                return act(root, self._below(path))

        return await self._call(work, patience=patience, late=late)

    async def _call(
        self, work: Callable[[], R], *, patience: float | None = PATIENCE, late: Callable[[R], None] | None = None
    ) -> R:
        try:
            return await self._threads.call(work, patience=patience, late=late)
        except errors.ShareNotReady:
            await self.check()  # lest the next calls wait as long for a share that is away, or hangs
            raise

    async def _ready(self) -> None:
        """Raise ``ShareNotReady`` while the share is away."""
        if self._inode is None and not self.standing.away:
            await self.check()
        if self.standing.away:
            raise errors.ShareNotReady(self.standing.away)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Hold the folder open, proved to be the one that was checked. Raises ``ShareNotReady``. Blocking."""
        try:
            fd = opening.open_root(self.root)
        except OSError as error:
            raise errors.ShareNotReady(say(self.root, error)) from None
        try:
            if _inode_of(fd) != self._inode:
                raise errors.ShareNotReady(f"{self.root}: another folder stands there than a moment ago")
            yield fd
        finally:
            os.close(fd)

    def _below(self, path: str) -> str:
        return selection.relative(self.root, path) or ""


def _inode_of(fd: int) -> Inode:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _read_marker(folder: int) -> str:
    """Return what the marker in an open folder says; empty when there is none."""
    try:
        fd = opening.open_regular(MARKER, dir_fd=folder)
    except (OSError, errors.NotAFile):
        return ""
    with os.fdopen(fd, "rb") as file:
        return file.read(64).decode("ascii", "replace").strip()


def _marked(folder: int) -> str:
    """Return the marker of an open folder, made if it has none; empty where none can be made."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    marker = uuid.uuid4().hex
    try:
        fd = os.open(MARKER, flags, 0o644, dir_fd=folder)
    except FileExistsError:
        return _read_marker(folder)
    except OSError:  # a share that is only read, or full: it is known by its source alone
        return ""
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{marker}\n")
    return marker

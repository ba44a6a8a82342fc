"""The watched folder: what recorders and people do there, and the port through which the product sees it.

Every content that a file ever had is a ``Version``, with the time it stood: that is what the records are held against.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from simulation.kernel import NEVER
from uploader import errors
from uploader.files import Batch, Order, Recording, Sent, Standing
from uploader.files.recording import BLOCK
from uploader.files.sending import Hash
from uploader.model import Closeness, Home, Identity, Sighting, Snapshot

ROOT: Final = "/rec"
MOVED: Final = "/done"
DEVICE: Final = 7

R = TypeVar("R")


class Ground(Protocol):
    """What the folder needs of the world."""

    now: float
    life: int
    stirred: int
    handles: int  # recordings that are open

    def act(self, life: int, what: str) -> None:
        """Number a call; the process may be killed by it, or be dead already: raises ``Dead``."""

    def wall(self) -> float:
        """Unix seconds."""

    def share_fails(self) -> str:
        """Say how this call into the share fails; empty when it does not."""

    def before_removal(self, path: str, content: bytes) -> None:
        """Check that this file may go. Raises ``AssertionError``."""


@dataclass(eq=False)
class Version:
    """A content that a path had, and when."""

    path: str
    content: bytes
    since: float
    until: float = NEVER


@dataclass(eq=False)
class File:
    """An inode of the folder."""

    number: int
    data: bytes
    mtime_ns: int
    ctime_ns: int

    def identity(self) -> Identity:
        """As the product takes it: files here are shorter than an edge."""
        return Identity(len(self.data), self.mtime_ns, hashlib.sha256(self.data).hexdigest())


@dataclass(eq=False)
class Recordings:
    """The folder itself: survives every life, and does not wait for any."""

    ground: Ground
    files: dict[str, File] = field(default_factory=dict)
    moved: dict[str, File] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    removed: dict[str, bytes] = field(default_factory=dict)  # by us, at last
    away: str = ""
    inodes: int = 100

    def write(self, path: str, content: bytes, *, new: bool = False, mtime_ns: int | None = None) -> None:
        """Put *content* into the file at *path*; *new*: by another file that takes its name."""
        self.ground.stirred += 1
        now = int(self.ground.wall() * 1e9)
        file = self.files.get(path)
        self._close(path)
        if file is None or new:
            self.inodes += 1
            file = self.files[path] = File(self.inodes, content, now, now)
        file.data, file.ctime_ns, file.mtime_ns = content, now, now if mtime_ns is None else mtime_ns
        self.versions.append(Version(path, content, self.ground.now))

    def touch(self, path: str) -> None:
        """Give a file another mtime."""
        if file := self.files.get(path):
            self.ground.stirred += 1
            file.mtime_ns = file.ctime_ns = int(self.ground.wall() * 1e9)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        if old in self.files:
            self.ground.stirred += 1
            file = self.files.pop(old)
            self._close(old)
            self.files[new] = file
            self.versions.append(Version(new, file.data, self.ground.now))

    def remove(self, path: str) -> None:
        """Take a file away."""
        if self.files.pop(path, None) is not None:
            self.ground.stirred += 1
            self._close(path)

    def _close(self, path: str) -> None:
        for version in self.versions:
            if version.path == path and version.until == NEVER:
                version.until = self.ground.now


class Share:
    """The product's port to the folder, for one life. Every call is a step of its own, as a thread's work is."""

    def __init__(self, ground: Ground, folder: Recordings) -> None:
        self.root: str = ROOT
        self.home: Home | None = None
        self.standing = Standing()
        self._ground, self._folder, self._life = ground, folder, ground.life

    async def _do(self, what: str, work: Callable[[], R], *, may_fail: bool = True) -> R:
        def step() -> R:
            self._ground.act(self._life, what)
            if may_fail and self._folder.away:
                raise errors.ShareNotReady(self._folder.away)
            if may_fail and (failure := self._ground.share_fails()):
                raise errors.ShareNotReady(f"{what}: {failure}")
            return work()

        result: R = await asyncio.get_running_loop().run_in_executor(None, step)
        return result

    async def check(self) -> Standing:
        """Look whether it is there."""
        self.standing = await self._do("check", lambda: Standing(self._folder.away), may_fail=False)
        return self.standing

    def accept(self) -> None:
        """Take it as it is."""

    async def settle_home(self) -> Home | None:
        """Nothing needs to be remembered."""
        return None

    async def walk(self, order: Order) -> AsyncIterator[Batch]:
        """Hand everything out in one batch."""

        def work() -> Batch:
            batch = Batch(folders=1)
            for path, file in self._folder.files.items():
                batch.names += 1
                relpath = path.removeprefix(f"{ROOT}/")
                if order.takes(relpath) and not order.passes(relpath):
                    batch.sightings.append(Sighting(path, ROOT, len(file.data), file.mtime_ns))
            return batch

        yield await self._do("walk", work)

    async def look(self, paths: Collection[str]) -> list[tuple[str, Sighting | str]]:
        """Look at some inodes."""
        return await self._do("look", lambda: [(path, self._look(path)) for path in paths])

    def _look(self, path: str) -> Sighting | str:
        file = self._folder.files.get(path)
        return "missing" if file is None else Sighting(path, ROOT, len(file.data), file.mtime_ns)

    def _file(self, path: str) -> File:
        file = self._folder.files.get(path)
        if file is None:
            raise errors.FileMissing(f"{path} is not there")
        return file

    async def snapshot(self, path: str) -> Snapshot:
        """Take a file's identity."""

        def work() -> Snapshot:
            file = self._file(path)
            return Snapshot(file.identity(), file.ctime_ns, (DEVICE, file.number))

        return await self._do("snapshot", work)

    async def closeness(self, path: str, *, gate: bool) -> Closeness:
        """Nothing speaks against a file here: recorders close what they have written."""
        del gate

        def work() -> Closeness:
            self._file(path)
            return Closeness()

        return await self._do("closeness", work)

    async def sha256(self, path: str) -> str:
        """Hash a whole file."""
        return await self._do("sha256", lambda: hashlib.sha256(self._file(path).data).hexdigest())

    @contextlib.asynccontextmanager
    async def open(self, path: str, identity: Identity) -> AsyncIterator[Recording]:
        """Open a recording: the product's own reading, over a simulated handle."""
        file = await self._do("open", lambda: self._file(path))
        recording = Reading(path, identity, self, file)
        self._ground.handles += 1
        try:
            await recording.check_unchanged()
            yield recording
        finally:
            if self._ground.life == self._life:
                self._ground.handles -= 1

    async def delete(self, path: str, sent: Sent) -> bool:
        """Remove a file that was sent."""

        def work() -> bool:
            if self._still_there(path, sent) is None:
                return False
            self._remove(path)
            return True

        return await self._do("delete", work)

    def _still_there(self, path: str, sent: Sent) -> File | None:
        file = self._folder.files.get(path)
        if file is None:
            return None
        same = file.identity() == sent.identity and hashlib.sha256(file.data).hexdigest() == sent.sha256
        if not same:
            raise errors.FileChanged(f"{path} is no longer the file that was sent")
        return file

    def _remove(self, path: str) -> None:
        file = self._folder.files[path]
        self._ground.before_removal(path, file.data)
        self._folder.removed[path] = file.data
        self._folder.remove(path)

    async def free_target(self, path: str, move_to: str) -> str:
        """Say where a file goes."""

        def work() -> str:
            target, number = move_to + path.removeprefix(ROOT), 0
            while target in self._folder.moved and self._folder.moved[target] is not self._folder.files.get(path):
                number += 1
                target = f"{move_to}{path.removeprefix(ROOT)} ({number})"
            return target

        return await self._do("free target", work)

    async def move(self, path: str, sent: Sent, target: str) -> bool:
        """Move a file that was sent: the new name first, the old one in another step."""
        file = await self._do("move", lambda: self._still_there(path, sent))
        if file is None:
            return False

        def give() -> None:
            assert self._folder.moved.get(target, file) is file, "a move has overwritten a file"
            self._folder.moved[target] = file

        await self._do("give name", give)
        return await self.delete(path, sent)


class Reading(Recording):
    """The product's recording; only what a thread of the share would do for it is done by the world."""

    def __init__(self, path: str, identity: Identity, share: Share, file: File) -> None:
        self.path, self.identity, self.local = path, identity, False
        self.inode = (DEVICE, file.number)
        self._share, self._data = share, file
        self._passed, self._ctime_ns, self._hung = None, 0, False
        self.rewind()

    async def check_unchanged(self) -> None:
        """Compare size and time at once: nothing comes between that and the save of the mark."""
        now, known = (len(self._data.data), self._data.mtime_ns), (self.identity.size, self.identity.mtime_ns)
        if now != known:
            raise self._changed("was written to")

    async def _read(self, start: int, count: int) -> bytes:
        data = await self._share._do("read", lambda: self._data.data[start : start + count])
        if len(data) < count:
            raise self._changed("was cut short")
        return data

    async def blocks(self, end: int) -> AsyncIterator[memoryview]:
        """Read block by block, without reading ahead: what a kill leaves behind has nothing to clear away."""
        while self._position < end:
            data = await self._read(self._position, min(BLOCK, end - self._position))
            self._hash.update(data)
            self._position += len(data)
            yield memoryview(data)

    async def _hashed(self, digest: Hash, start: int, count: int) -> Hash:
        digest = digest.copy()
        digest.update(await self._read(start, count))
        return digest

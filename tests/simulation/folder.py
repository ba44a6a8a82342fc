"""The watched folder: what recorders and people do there, and the port through which the product sees it.

Every content that a file ever had is a ``Version`` with the time for which it lasted. The checks compare the server's
records with these versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, Protocol, TypeVar

from simulation.kernel import NEVER
from simulation.plan import Plan
from simulation.recordings import CALLS, File, FileSystem, Job
from simulation.server import duration_of
from uploader.domain import errors
from uploader.domain.model import Identity, MountIdentity, Sighting, Snapshot, WriteState
from uploader.domain.selection import HIDDEN_PREFIX
from uploader.files import Recording, SentFile, ShareStatus, WalkBatch, WalkFilter, dispose, safe_open, set_aside
from uploader.files.recording import READ_BLOCK
from uploader.files.sending import Hash
from uploader.files.set_aside import Disposer

ROOT: Final = "/rec"
MOVED: Final = "/done"
DEVICE: Final = 7
SYSTEMS: Final = (  # how many file systems there are, and what they support
    "one links noreplace unnamed",
    "one noreplace",
    "two links noreplace unnamed",
    "two links",
    "two noreplace",
    "two",
)

R = TypeVar("R")


class Ground(Protocol):
    """What the folder needs from the world."""

    now: float
    life: int
    stirred: int
    handles: int  # recordings that are open
    plan: Plan
    calm_from: float

    def act(self, life: int, what: str) -> None:
        """Number a call. Raises ``Dead`` when the process is killed here, or was killed before."""

    def wall(self) -> float:
        """Return the time of the machine's clock, in Unix seconds."""

    def share_fails(self) -> str:
        """Return how this call into the share fails; empty when it does not."""

    def chance(self) -> float:
        """Return a random number from 0 to 1."""

    def content(self, size: int) -> bytes:
        """Return bytes that no other file has, four more than *size*."""

    def fail(self, what: str) -> NoReturn:
        """Note that an invariant is broken, and end everything."""

    def before_removal(self, path: str, content: bytes) -> None:
        """Check that this file may go. Raises ``AssertionError``."""


@dataclass(eq=False)
class Version:
    """A content that a path had, and from when until when."""

    path: str
    content: bytes
    since: float
    until: float = NEVER


@dataclass(eq=False)
class Recordings:
    """The watched folder and the archive. They survive every life of the process and change without it."""

    ground: Ground
    versions: list[Version] = field(default_factory=list)
    removed: dict[str, bytes] = field(default_factory=dict)  # by the product, by path
    away: str = ""
    inodes: int = 100

    def __post_init__(self) -> None:
        """Choose the file systems, by random numbers of their own: all else in the world of a seed stays the same."""
        plan = self.ground.plan
        self._dice = random.Random(f"{plan.seed}/{plan.kind}/recordings")  # noqa: S311 - no secret
        abilities = plan.disks or SYSTEMS[int(self._dice.random() * len(SYSTEMS))]
        self.here = FileSystem.with_abilities(DEVICE, abilities)
        self.there = FileSystem.with_abilities(DEVICE + 1, abilities) if "two" in abilities else self.here
        self._meddling = 0.2 if plan.actions and self._dice.random() < 0.2 else 0.0

    @property
    def files(self) -> dict[str, File]:
        """The files of the watched folder, the product's hidden files included."""
        return {name: file for name, file in self.here.names.items() if name.startswith(f"{ROOT}/")}

    def has(self, path: str, identity: Identity) -> bool:
        """True when the file at *path* is there, and is the one with this identity."""
        file = self.files.get(path)
        return file is not None and (len(file.data), file.mtime_ns) == (identity.size, identity.mtime_ns)

    def unique(self) -> str:
        """Return 16 hexadecimal digits, different ones each time."""
        return f"{self._dice.getrandbits(64):016x}"

    def write(self, path: str, content: bytes, *, new: bool = False, mtime_ns: int | None = None) -> None:
        """Put *content* into the file at *path*; with *new*, another file takes its name."""
        self.ground.stirred += 1
        now = self.now_ns()
        file = self.here.names.get(path)
        self._close(path)
        if file is None or new:
            self.inodes += 1
            file = File(self.inodes, content, now, now, DEVICE)
            self.here.change("", path, file)
        file.data, file.ctime_ns, file.mtime_ns = content, now, now if mtime_ns is None else mtime_ns
        file.path, file.durable = path, content
        self.here.sync()
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
            file = self.here.names[old]
            self.here.change(old, new, file)
            self.here.sync()
            self.renamed(old, new, file)

    def remove(self, path: str) -> None:
        """Take a file away."""
        if path in self.files:
            self.ground.stirred += 1
            self.here.change(path, "", None)
            self.here.sync()
            self._close(path)

    def _close(self, path: str) -> None:
        for version in self.versions:
            if version.path == path and version.until == NEVER:
                version.until = self.ground.now

    def lose_power(self) -> None:
        """Keep what is durable, and a prefix of what the product has done since."""
        before = self.files
        for system in {id(system): system for system in (self.here, self.there)}.values():
            system.lose_power(self._dice.random)
        for path in before.keys() - self.files.keys():
            self._close(path)
        for path, file in self.files.items():
            if before.get(path) is not file and not is_hidden(path):
                self.renamed("", path, file)

    def holds_durably(self, content: bytes) -> bool:
        """True when a power cut would leave *content* under a visible name in the archive."""
        names = self.there.durable.items()
        return any(
            file.durable == content and name.startswith(f"{MOVED}/") and not is_hidden(name) for name, file in names
        )

    def hidden(self) -> list[str]:
        """Return every recording whose only name is a hidden one of the product, without copies left by a crash."""
        names = {**self.here.names, **self.there.names}
        return [name for name in names if is_hidden(name) and not name.endswith(".part")]

    def come_back(self) -> list[str]:
        """Return every file of the watched folder that the product has removed and that exists again."""
        return [name for name, file in self.files.items() if file.gone]

    # What the product's system calls need

    def system_of(self, path: str) -> FileSystem:
        """Return the file system that a path lies on."""
        return self.there if f"{path}/".startswith(f"{MOVED}/") else self.here

    def links_of(self, file: File) -> int:
        """Return how many names a file has."""
        system = self.here if file.device == DEVICE else self.there
        return sum(other is file for other in system.names.values())

    def new_file(self, device: int) -> File:
        """Make an empty file, as the product does."""
        self.inodes += 1
        return File(self.inodes, b"", self.now_ns(), self.now_ns(), device, claim=True)

    def now_ns(self) -> int:
        """Return the time of the file systems, in nanoseconds."""
        return int(self.ground.wall() * 1e9)

    def between(self, path: str) -> None:
        """Let a recorder take the name *path* between two system calls, in a few worlds."""
        if self._meddling and self.ground.now < self.ground.calm_from and self._dice.random() < self._meddling:
            self.write(path, self.ground.content(1 + int(self._dice.random() * 16)), new=True)

    def unlinking(self, path: str, file: File) -> None:
        """Check a name that the product is about to remove (I5 and I23)."""
        folder = ROOT if path.startswith(f"{ROOT}/") else MOVED
        others = [name for name, other in self.system_of(path).names.items() if other is file and name != path]
        if any(name.startswith(f"{folder}/") for name in others):
            return
        if folder == ROOT and is_hidden(path) and file.seen:
            return  # it was put back, and then replaced by a recorder
        if folder == ROOT:
            self.ground.before_removal(file.path, file.data)
            self.removed[file.path] = file.data
            file.gone = True
            self._close(path)
        elif not is_hidden(path) and not others and (file.claim or self.removed.get(file.path) == file.data):
            self.ground.fail(f"I23: {path} is taken out of the archive")

    def renamed(self, old: str, new: str, file: File) -> None:
        """Note that a file has another name, or a second one."""
        self._close(old)
        file.seen = not is_hidden(new)
        if new.startswith(f"{ROOT}/") and not is_hidden(new):
            file.path = new
            self.versions.append(Version(new, file.data, self.ground.now))


def is_hidden(path: str) -> bool:
    """True for names that the product makes for itself."""
    return any(part.startswith(HIDDEN_PREFIX) for part in path.split("/"))


def _identity(file: File) -> Identity:
    """Return the identity as the product computes it; files here are shorter than an edge."""
    return Identity(len(file.data), file.mtime_ns, hashlib.sha256(file.data).hexdigest())


def _sighting(path: str, file: File) -> Sighting:
    return Sighting(path, ROOT, len(file.data), file.mtime_ns, (DEVICE, file.number))


class Share:
    """The product's port to the folder, for one life. Every call is a step of its own, like the work of a thread."""

    def __init__(self, ground: Ground, folder: Recordings) -> None:
        self.root: str = ROOT
        self.identity: MountIdentity | None = None
        self.status = ShareStatus()
        self._ground, self._folder, self._life = ground, folder, ground.life
        self._disposer = Disposer(folder.unique, folder.unique())

    @property
    def not_kept(self) -> Collection[str]:
        """Everything is kept here."""
        return ()

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

    async def check(self) -> ShareStatus:
        """Check whether the share is there."""
        self.status = await self._do("check", lambda: ShareStatus(self._folder.away), may_fail=False)
        return self.status

    def accept_new_mount(self) -> None:
        """Accept the share that is mounted now."""

    async def record_identity(self) -> MountIdentity | None:
        """Do nothing: there is only one share here."""
        return None

    async def walk(self, walk_filter: WalkFilter) -> AsyncIterator[WalkBatch]:
        """Yield everything in one batch."""

        def work() -> WalkBatch:
            batch = WalkBatch(folders=1)
            for path, file in self._folder.files.items():
                batch.names += 1
                relpath = path.removeprefix(f"{ROOT}/")
                if walk_filter.takes(relpath) and not walk_filter.skip_stat(relpath):
                    batch.sightings.append(_sighting(path, file))
            return batch

        yield await self._do("walk", work)
        for path in self._folder.files:
            before = set_aside.path_before(path.removeprefix(f"{ROOT}/"))
            left = any(set_aside.is_left_over(part, self._disposer.run) for part in path.split("/"))
            if left and walk_filter.puts_back(before):
                await self._put_back(path)

    async def look(self, paths: Collection[str]) -> list[tuple[str, Sighting | str]]:
        """Look at some inodes."""
        return await self._do("look", lambda: [(path, self._look(path)) for path in paths])

    def _look(self, path: str) -> Sighting | str:
        file = self._folder.files.get(path)
        return "missing" if file is None else _sighting(path, file)

    def _file(self, path: str) -> File:
        file = self._folder.files.get(path)
        if file is None:
            raise errors.FileMissing(f"{path} is not there")
        return file

    async def snapshot(self, path: str) -> Snapshot:
        """Take a file's identity."""

        def work() -> Snapshot:
            file = self._file(path)
            return Snapshot(_identity(file), file.ctime_ns, (DEVICE, file.number))

        return await self._do("snapshot", work)

    async def write_state(self, path: str, *, gate: bool) -> WriteState:
        """Say that no file is open for writing: recorders here close a file after each write."""
        del gate

        def work() -> WriteState:
            self._file(path)
            return WriteState()

        return await self._do("closeness", work)

    async def sha256(self, path: str) -> str:
        """Hash a whole file."""
        return await self._do("sha256", lambda: hashlib.sha256(self._file(path).data).hexdigest())

    async def duration(self, path: str, identity: Identity) -> float | None:
        """Return the seconds that a file's content plays; None when it is missing or another one."""

        def work() -> float | None:
            return duration_of(self._file(path).data) if self._folder.has(path, identity) else None

        return await self._do("duration", work)

    @contextlib.asynccontextmanager
    async def open(self, path: str, identity: Identity) -> AsyncIterator[Recording]:
        """Open a recording with the product's own code for reading, on a simulated handle."""
        file = await self._do("open", lambda: self._file(path))
        recording = Reading(path, identity, self, file)
        self._ground.handles += 1
        try:
            await recording.check_unchanged()
            yield recording
        finally:
            if self._ground.life == self._life:
                self._ground.handles -= 1

    async def delete(self, path: str, sent: SentFile) -> bool:
        """Remove a file that was sent."""
        return await self._dispose(
            "delete", path, lambda root, relpath, disposer: dispose.delete(root, relpath, sent, disposer)
        )

    async def free_target(self, path: str, sent: SentFile, move_to: str) -> str:
        """Choose where a file is moved to."""
        return await self._dispose(
            "free target",
            path,
            lambda root, relpath, disposer: dispose.free_target(root, relpath, move_to, sent, disposer),
        )

    async def move(self, path: str, sent: SentFile, move_to: str, target: str) -> str | None:
        """Move a file that was sent; the archive is always there."""

        def move(root: int, relpath: str, disposer: Disposer) -> str | None:
            archive = dispose.Archive(CALLS.handle(move_to), move_to)
            return dispose.move(root, relpath, sent, archive, target, disposer)

        return await self._dispose("move", path, move)

    async def _dispose(self, what: str, path: str, act: Callable[[int, str, Disposer], R]) -> R:
        """Run the product's own code on the simulated disks, one system call at a time."""
        await self._do(what, lambda: None)
        disposer = replace(self._disposer, stop=threading.Event())

        def work() -> R:
            with safe_open.our_errors(path):
                return act(CALLS.handle(ROOT), path.removeprefix(f"{ROOT}/"), disposer)

        job = Job(self._ground, self._folder, self._life, path, work)
        try:
            while not job.done:
                await asyncio.get_running_loop().run_in_executor(None, job.resume)
        except asyncio.CancelledError:
            disposer.stop.set()
            while not job.done:
                job.resume()
            raise
        finally:
            job.give_up()
        return job.result()

    async def _put_back(self, hidden: str) -> None:
        with contextlib.suppress(errors.UploaderError):
            await self._dispose("put back", hidden, set_aside.put_back_left_over)


class Reading(Recording):
    """The product's recording; the world does what a thread of the share would do for it."""

    def __init__(self, path: str, identity: Identity, share: Share, file: File) -> None:
        self.path, self.identity, self.local = path, identity, False
        self.inode = (DEVICE, file.number)
        self._share, self._data = share, file
        self._passed, self._ctime_ns, self._hung = None, 0, False
        self.mtime_ns, self._compared, self._unproven = identity.mtime_ns, 0, False
        self.rewind()

    async def check_unchanged(self) -> None:
        """Compare size and time at once, so that nothing happens between this check and the save of the mark."""
        if len(self._data.data) != self.identity.size:
            raise self._changed("was written to")
        if self._data.mtime_ns != self.mtime_ns:
            await self._time_has_moved(self._data.mtime_ns)

    async def _edges(self) -> str:
        return _identity(self._data).edges

    async def _read(self, start: int, count: int) -> bytes:
        data = await self._share._do("read", lambda: self._data.data[start : start + count])
        if len(data) < count:
            raise self._changed("was cut short")
        return data

    async def blocks(self, end: int) -> AsyncIterator[memoryview]:
        """Read block by block without reading ahead, so that a kill leaves no task to clear away."""
        while self._position < end:
            data = await self._read(self._position, min(READ_BLOCK, end - self._position))
            self._hash.update(data)
            self._position += len(data)
            yield memoryview(data)

    async def _hashed(self, digest: Hash, start: int, count: int) -> Hash:
        digest = digest.copy()
        digest.update(await self._read(start, count))
        return digest

"""The system calls of the product's own disposal code, simulated, and what a power cut leaves of them.

The watched folder and the archive lie on one file system or on two, which support hard links, RENAME_NOREPLACE and
files without names, or do not. What recorders write is durable at once. Of what the product does, bytes are durable
after fsync of the file, names after fsync of a folder, and a power cut keeps a prefix of the rest. Each call that
changes anything is a step: between any two, others work, recorders take names, and the process may be killed.
"""

from __future__ import annotations

import contextlib
import errno
import os as real_os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar
from zlib import crc32

from simulation.kernel import Dead
from uploader.files import attributes, copying, dispose, inspection, naming, safe_open, set_aside, syscalls

MODULES: Final = (attributes, dispose, copying, inspection, naming, safe_open, set_aside)
REAL: Final = {name: getattr(syscalls, name) for name in ("rename_noreplace", "open_unnamed", "link_unnamed", "lock")}
MOST_STEPS: Final = 2000  # of one job: more of them go round in circles

R = TypeVar("R")


class Ground(Protocol):
    """What these disks need from the world."""

    life: int

    def act(self, life: int, what: str) -> None:
        """Number a system call. Raises ``Dead`` when the process is killed here, or was killed before."""

    def share_fails(self) -> str:
        """Return how this call fails; empty when it does not."""

    def fail(self, what: str) -> NoReturn:
        """Note that an invariant is broken, and end everything."""


@dataclass(eq=False)
class File:
    """An inode. ``path``: its visible name in the watched folder, or the last one."""

    number: int
    data: bytes
    mtime_ns: int
    ctime_ns: int
    device: int = 0
    durable: bytes = b""
    path: str = ""
    seen: bool = True  # its name, or its last one, is visible to others, who may remove it
    gone: bool = False  # the product has removed it from the watched folder
    claim: bool = False  # made by the product: an empty one of these may be replaced
    locked_by: Job[Any] | None = None


@dataclass(eq=False)
class FileSystem:
    """Names and their files, now and durably. ``journal``: old name, new name and file, since the last fsync."""

    device: int
    names: dict[str, File] = field(default_factory=dict)
    durable: dict[str, File] = field(default_factory=dict)
    journal: list[tuple[str, str, File | None]] = field(default_factory=list)
    links: bool = True
    noreplace: bool = True
    unnamed: bool = True

    @classmethod
    def with_abilities(cls, device: int, supported: str) -> FileSystem:
        """Make an empty file system; *supported* names some of ``links``, ``noreplace`` and ``unnamed`` (files)."""
        return cls(
            device, links="links" in supported, noreplace="noreplace" in supported, unnamed="unnamed" in supported
        )

    def change(self, old: str, new: str, file: File | None) -> None:
        """Take one name away, give one, or move one over another, in one step."""
        self.names.pop(old, None)
        if file is not None:
            self.names[new] = file
        self.journal.append((old, new, file))

    def sync(self) -> None:
        """Make the names durable."""
        self.durable, self.journal = dict(self.names), []

    def lose_power(self, chance: Callable[[], float]) -> None:
        """Keep what is durable, and a prefix of the rest."""
        names = dict(self.durable)
        for old, new, file in self.journal[: int(chance() * (len(self.journal) + 1))]:
            names.pop(old, None)
            if file is not None:
                names[new] = file
        self.names = names
        self.sync()
        for file in set(names.values()):
            if file.data != file.durable:
                rest = file.data[len(file.durable) :] if file.data.startswith(file.durable) else b""
                file.data = file.durable = file.durable + rest[: int(chance() * (len(rest) + 1))]


class Disks(Protocol):
    """What the calls need from the folder."""

    away: str  # why the share is not there; empty when it is

    def system_of(self, path: str) -> FileSystem:
        """Return the file system that a path lies on."""

    def links_of(self, file: File) -> int:
        """Return how many names a file has."""

    def new_file(self, device: int) -> File:
        """Make an empty file, as the product does."""

    def now_ns(self) -> int:
        """Return the time of the file systems, in nanoseconds."""

    def between(self, path: str) -> None:
        """Let a recorder do something to *path* between two system calls."""

    def unlinking(self, path: str, file: File) -> None:
        """Check a name that the product is about to remove."""

    def renamed(self, old: str, new: str, file: File) -> None:
        """Note that the product has renamed a file, or given it a second name (*old* is empty then)."""


class Job(Generic[R]):
    """One piece of a share's blocking work, in a thread of its own that runs only while ``resume`` waits for it."""

    def __init__(self, ground: Ground, disks: Disks, life: int, path: str, work: Callable[[], R]) -> None:
        self.ground, self.disks, self.life, self.path, self._work = ground, disks, life, path, work
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._result: list[R] = []
        self._error: BaseException | None = None
        self._steps = 0
        self.begun = self.done = self.given_up = False

    def resume(self) -> None:
        """Run to the next system call, or to the end. Raises ``Dead`` when the process was killed."""
        if self.done:
            return
        before, CALLS.job = CALLS.job, self
        if not self.begun:
            self.begun = True
            self._thread.start()
        self._go.release()
        self._paused.acquire()
        CALLS.job = before
        if isinstance(self._error, Dead):
            raise self._error

    def pause(self) -> None:
        """Stop until ``resume`` is called again. Called in the thread."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise AssertionError(f"{self.path}: {MOST_STEPS} system calls, and no end")
        self._paused.release()
        self._go.acquire()
        if self.given_up:
            raise Dead

    def result(self) -> R:
        """Return the result of the work, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    def give_up(self) -> None:
        """End the thread after its process was killed."""
        self.given_up = True
        while self.begun and not self.done:
            with contextlib.suppress(Dead):
                self.resume()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.given_up:
                self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the result
            self._error = error
        self.done = True
        self._paused.release()


class Handle(int):
    """A descriptor: of a folder, which is a path, or of a file."""

    system: FileSystem
    path: str
    file: File | None


class Calls:
    """``os`` as disposal uses it, and ``syscalls``; calls that need no disk are the real ones."""

    job: Job[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(real_os, name)

    @property
    def _now(self) -> Job[Any]:
        assert self.job is not None, "a system call outside of a job"
        return self.job

    def _act(self, what: str) -> None:
        """Begin a step: others work, then the process may be killed, the call may fail, or a recorder takes a name."""
        job = self._now
        job.pause()
        job.ground.act(job.life, f"disposal: {what}")
        if failure := job.disks.away or job.ground.share_fails():
            raise OSError(errno.EIO, failure)
        job.disks.between(job.path)

    def _path(self, name: str, dir_fd: Any) -> str:
        if dir_fd is None:
            return name
        assert isinstance(dir_fd, Handle)
        return dir_fd.path if name == "." else f"{dir_fd.path}/{name}"

    def _at(self, name: str, dir_fd: Any) -> tuple[str, FileSystem, File]:
        path = self._path(name, dir_fd)
        system = self._now.disks.system_of(path)
        if path not in system.names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        return path, system, system.names[path]

    def handle(self, path: str, file: File | None = None) -> Handle:
        """Make a descriptor: of a folder, or of a file."""
        fd = Handle(1000)
        fd.system, fd.path, fd.file = self._now.disks.system_of(path), path, file
        return fd

    def open(self, name: str, flags: int, mode: int = 0o777, *, dir_fd: Any = None) -> int:
        """Open a folder, which is always there, or a file; or make one."""
        del mode
        path = self._path(name, dir_fd)
        if flags & real_os.O_DIRECTORY:
            return self.handle(path)
        if not flags & real_os.O_CREAT:
            return self.handle(path, self._at(path, None)[2])
        assert flags & real_os.O_EXCL
        self._act(f"create {name}")
        system = self._now.disks.system_of(path)
        if path in system.names:
            raise FileExistsError(errno.EEXIST, "File exists", name)
        file = self._now.disks.new_file(system.device)
        system.change("", path, file)
        return self.handle(path, file)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        assert isinstance(fd, Handle)

    def _status(self, file: File) -> Any:
        return SimpleNamespace(
            st_mode=0o100600,
            st_uid=0,
            st_gid=0,
            st_size=len(file.data),
            st_mtime_ns=file.mtime_ns,
            st_atime_ns=file.mtime_ns,
            st_ctime_ns=file.ctime_ns,
            st_ino=file.number,
            st_dev=file.device,
            st_nlink=self._now.disks.links_of(file),
        )

    def fstat(self, fd: int) -> Any:
        """Return the status of an open file."""
        assert isinstance(fd, Handle)
        if fd.file is None:
            return SimpleNamespace(st_mode=0o040700, st_dev=fd.system.device, st_ino=crc32(fd.path.encode()))
        return self._status(fd.file)

    def stat(self, name: str, *, dir_fd: int, follow_symlinks: bool) -> Any:
        """Return the status of the file with this name."""
        assert not follow_symlinks
        return self._status(self._at(name, dir_fd)[2])

    def listdir(self, fd: int) -> list[str]:
        """List a folder."""
        assert isinstance(fd, Handle)
        below = (name.removeprefix(f"{fd.path}/") for name in fd.system.names if name.startswith(f"{fd.path}/"))
        return list(dict.fromkeys(name.partition("/")[0] for name in below))

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Read a part."""
        assert isinstance(fd, Handle)
        assert fd.file is not None
        return fd.file.data[offset : offset + length]

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Append, as the product only ever does."""
        assert isinstance(fd, Handle)
        assert fd.file is not None
        self._act("write")
        fd.file.data += bytes(data)
        return len(data)

    def utime(self, fd: int, *, ns: tuple[int, int]) -> None:
        """Set a file's time."""
        assert isinstance(fd, Handle)
        assert fd.file is not None
        fd.file.mtime_ns, fd.file.ctime_ns = ns[1], self._now.disks.now_ns()

    def listxattr(self, fd: int) -> list[str]:
        """Return nothing: files have no attributes here."""
        assert isinstance(fd, Handle)
        return []

    def fchmod(self, fd: int, mode: int) -> None:
        """Do nothing: there are no access rights here."""

    def fsync(self, fd: int) -> None:
        """Make bytes, or names, durable."""
        assert isinstance(fd, Handle)
        self._act(f"fsync {fd.path}")
        if fd.file is None:
            fd.system.sync()
        else:
            fd.file.durable = fd.file.data

    def rename(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        """Move a name over another, in one step. It is a failure if the other is a recording (I23)."""
        self._act(f"rename {old} {new}")
        self._rename(old, new, src_dir_fd, dst_dir_fd)

    def _rename(self, old: str, new: str, src_dir_fd: int, dst_dir_fd: int) -> None:
        path, system, file = self._at(old, src_dir_fd)
        target = self._path(new, dst_dir_fd)
        there = system.names.get(target)
        if there is not None and there is not file and not (there.claim and not there.data):
            self._now.ground.fail(f"I23: {target} is overwritten")
        system.change(path, target, file)
        self._now.disks.renamed(path, target, file)

    def rename_noreplace(self, source: int, old: str, folder: int, new: str) -> None:
        """See ``syscalls``."""
        self._act(f"rename to a free name {old} {new}")
        _, system, _ = self._at(old, source)
        if not system.noreplace:
            raise OSError(errno.EINVAL, "Invalid argument")
        if self._path(new, folder) in system.names:
            raise FileExistsError(errno.EEXIST, "File exists", new)
        self._rename(old, new, source, folder)

    def link(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        """Give a file a second name."""
        assert not follow_symlinks
        self._act(f"link {old} {new}")
        self._link(self._at(old, src_dir_fd)[2], self._path(new, dst_dir_fd))

    def _link(self, file: File, path: str) -> None:
        system = self._now.disks.system_of(path)
        if system.device != file.device:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if not system.links:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        if path in system.names:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        system.change("", path, file)
        self._now.disks.renamed("", path, file)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        """Take a name away."""
        self._act(f"unlink {name}")
        path, system, file = self._at(name, dir_fd)
        self._now.disks.unlinking(path, file)
        system.change(path, "", None)

    def mkdir(self, name: str, mode: int = 0o777, *, dir_fd: int) -> None:
        """Do nothing: every folder exists."""

    def rmdir(self, name: str, *, dir_fd: int) -> None:
        """Do nothing: a folder is there as long as a file is in it."""

    def open_unnamed(self, folder: int) -> int | None:
        """See ``syscalls``."""
        assert isinstance(folder, Handle)
        if not folder.system.unnamed:
            return None
        return self.handle(folder.path, self._now.disks.new_file(folder.system.device))

    def link_unnamed(self, fd: int, folder: int, name: str) -> None:
        """See ``syscalls``."""
        assert isinstance(fd, Handle)
        assert fd.file is not None
        self._act(f"link unnamed {name}")
        self._link(fd.file, self._path(name, folder))

    def lock(self, fd: int) -> bool:
        """See ``syscalls``: a lock lives as long as the process, and a copy at work is one of this process."""
        assert isinstance(fd, Handle)
        assert fd.file is not None
        job, held = self._now, fd.file.locked_by
        if held is not None and held is not job and held.life == job.ground.life and not held.done:
            return False
        fd.file.locked_by = job
        return True


CALLS: Final = Calls()


def install() -> None:
    """Direct the system calls of the product's disposal to the simulated disks."""
    for module in MODULES:
        module.os = CALLS  # type: ignore[attr-defined]
    for name in REAL:
        setattr(syscalls, name, getattr(CALLS, name))


def uninstall() -> None:
    """Undo ``install``."""
    for module in MODULES:
        module.os = real_os  # type: ignore[attr-defined]
    for name, call in REAL.items():
        setattr(syscalls, name, call)

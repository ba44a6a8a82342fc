"""The recordings on disk: finding, identifying, reading, and what becomes of them afterwards.

The only user of ``aiofiles`` and ``os`` for recordings. Files are opened without following a link and without
blocking on a FIFO, must be regular, and are read once, front to back. Must never hold a whole file in memory,
change a recording's bytes, or remove a file that is not the one that was sent.

Every ``OSError`` leaves as an error of ours: *not there*, *not a file*, or *not yet* (a share's EIO, EBUSY,
EACCES, ESTALE are nobody's verdict on the file).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from uploader import errors
from uploader.model import Identity, Sighting, shown

EDGE: Final = 64 * 1024  # bytes at either end of a file that its identity is taken from
BLOCK: Final = 1024 * 1024  # bytes of one read: 64 KiB reads through a thread cost six times the CPU
DEPTH_LIMIT: Final = 64  # folders below the watched one; a loop made by a bind mount ends here

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Scan:
    """What one walk through a folder saw. ``irregular``: (path, what it is); ``problem``: what could not be read.

    ``whole``: it looked at everything below ``root``, so what it does not name was not there.
    """

    root: str
    sightings: tuple[Sighting, ...]
    irregular: tuple[tuple[str, str], ...] = ()
    problem: str | None = None
    whole: bool = True


Judge = Callable[[str], bool]  # a path below the root


def scan(root: str, *, takes: Judge, enters: Judge, start: str = "") -> Scan:
    """Walk *root* (from *start*, a path below it) and note every file that *takes* wants. Blocking.

    Links are not followed. A folder that cannot be read makes the scan incomplete, it does not end it.
    """
    walk = _Walk(root, takes, enters, [start])
    while walk.folders:
        folder = walk.folders.pop()
        path = os.path.join(root, folder) if folder else root
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    walk.note(f"{folder}/{entry.name}" if folder else entry.name, entry)
        except FileNotFoundError as error:
            if not folder:  # the root itself; below it, folders come and go
                walk.problem = _say(root, error)
        except OSError as error:
            walk.problem = _say(path, error)
    whole = not start and walk.problem is None
    return Scan(root, tuple(walk.sightings), tuple(walk.irregular), walk.problem, whole)


@dataclass(slots=True)
class _Walk:
    """What a scan has seen so far, and the folders that it has still to look into."""

    root: str
    takes: Judge
    enters: Judge
    folders: list[str]
    sightings: list[Sighting] = field(default_factory=list)
    irregular: list[tuple[str, str]] = field(default_factory=list)
    problem: str | None = None

    def note(self, relpath: str, entry: os.DirEntry[str]) -> None:
        """Take one entry in. What cannot be looked at, or is gone by now, does not hide the others."""
        try:
            if entry.is_dir(follow_symlinks=False):
                if self.enters(relpath) and relpath.count("/") < DEPTH_LIMIT:
                    self.folders.append(relpath)
            elif self.takes(relpath):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    self.sightings.append(Sighting(entry.path, self.root, status.st_size, status.st_mtime_ns))
                else:
                    self.irregular.append((entry.path, _kind(status.st_mode)))
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problem = _say(entry.path, error)


def look(path: str, root: str) -> Sighting | None:
    """Look at one file's inode. None when it is not there, or is no regular file. Blocking."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return Sighting(path, root, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def kind_of(path: str) -> str:
    """Say what stands at *path*: ``file``, ``folder``, ``link``, ``missing`` … Blocking."""
    try:
        return _kind(os.lstat(path).st_mode)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def folder_id(path: str) -> tuple[int, int] | None:
    """Device and inode of a folder: which one it is. None when it is not there. Blocking."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def folder_problem(path: str, *, writable: bool) -> str | None:
    """Say why *path* is no folder that we can read (and, if asked, take files out of). Blocking."""
    kind = kind_of(os.path.realpath(path))
    if kind != "folder":
        return f"{path}: {'is missing' if kind == 'missing' else f'is no folder but a {kind}'}"
    if not os.access(path, os.R_OK | os.X_OK):
        return f"{path}: cannot be read by this user"
    if writable and not os.access(path, os.W_OK | os.X_OK):
        return f"{path}: files cannot be moved or deleted there by this user"
    return None


async def identify(path: str) -> Identity:
    """Take a file's identity: size, mtime and the hash of its first and last block. Raises our errors."""
    return await asyncio.to_thread(_identify, path)


def _identify(path: str) -> Identity:
    try:
        fd = _open_regular(path, os.O_RDONLY)
        try:
            status = os.fstat(fd)
            ends = os.pread(fd, EDGE, 0)
            if status.st_size > EDGE:
                ends += os.pread(fd, EDGE, max(EDGE, status.st_size - EDGE))
        finally:
            os.close(fd)
    except OSError as error:
        raise _ours(path, error) from None
    return Identity(status.st_size, status.st_mtime_ns, hashlib.sha256(ends).hexdigest())


Bookmark = tuple[int, "hashlib._Hash"]  # noqa: SLF001 - the only name that typeshed has for it


class Recording:
    """One file, open for sending: read front to back, hashed on the way, and watched for change."""

    def __init__(self, path: str, identity: Identity, file: AsyncFileIO) -> None:
        self.path = path
        self.identity = identity
        self._file = file
        self._hash = hashlib.sha256()
        self._position = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: str, identity: Identity) -> AsyncIterator[Recording]:
        """Open *path*, which must still be the file that was identified. Raises our errors."""
        opening = asyncio.ensure_future(_opened(path))
        try:
            file = await asyncio.shield(opening)
        except OSError as error:
            raise _ours(path, error) from None
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, errors.UploaderError):
                await (await opening).close()  # a thread that opens cannot be called back
            raise
        try:
            recording = cls(path, identity, file)
            await recording.check_unchanged()
            yield recording
        finally:
            await asyncio.shield(file.close())

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
        try:
            status = await asyncio.to_thread(os.fstat, self._file.fileno())
        except OSError as error:
            raise _ours(self.path, error) from None
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
        await self._file.seek(self._position)

    async def blocks(self, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``position`` to *end* (exclusive), at most ``BLOCK`` at a time, hashing each once.

        Raises ``FileChanged`` when the file ends before that: it is never padded.
        """
        while self._position < end:
            try:
                block = await self._file.read(min(BLOCK, end - self._position))
            except OSError as error:
                raise _ours(self.path, error) from None
            if not block:
                raise errors.FileChanged(f"{shown(self.path)} was cut short while it was being sent")
            self._hash.update(block)
            self._position += len(block)
            yield block


async def _opened(path: str) -> AsyncFileIO:
    return await aiofiles.open(path, "rb", buffering=0, opener=_open_regular)


def sha256_of(path: str) -> str:
    """Hash a whole file. Blocking; raises our errors."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _ours(path, error) from None


def delete(path: str, identity: Identity) -> bool:
    """Remove *path* if it is still the file that was sent. False when it is gone already. Blocking.

    Raises ``FileChanged`` when something else stands there now, ``ShareNotReady`` when it cannot be removed.
    """
    if not _still_there(path, identity):
        return False
    try:
        os.unlink(path)
    except OSError as error:
        raise errors.ShareNotReady(f"{shown(path)} cannot be deleted: {error.strerror}") from None
    return True


def free_target(path: str, root: str, move_to: str) -> str:
    """Say where *path* goes below *move_to*: the same way below it, numbered if that name is taken. Blocking.

    A name that a move of this very file has made is its own: the move was cut short before the old one was removed.
    """
    target = os.path.join(move_to, os.path.relpath(path, root))
    stem, suffix = os.path.splitext(target)
    number = 0
    while os.path.lexists(target) and not _half_moved(path, target):
        number += 1
        target = f"{stem} ({number}){suffix}"
    return target


def move(path: str, identity: Identity, target: str, sha256: str) -> bool:
    """Move *path* to *target*, if it is still the file that was sent. Blocking.

    Across file systems: copy, fsync, compare with *sha256*, then remove. Nothing is ever overwritten; a *target*
    that is this very file already is a move that was cut short, and is finished.
    False when the file is gone already. Raises ``FileChanged`` and ``ShareNotReady``.
    """
    if not _still_there(path, identity):
        return False
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not _half_moved(path, target):
            _give_name(path, target, sha256)
        _sync_folder(os.path.dirname(target))
        os.unlink(path)
    except OSError as error:
        raise errors.ShareNotReady(f"{shown(path)} cannot be moved: {error.strerror}") from None
    return True


def _half_moved(path: str, target: str) -> bool:
    """True when a move of *path* has made *target* already: as its second name, or as a copy equal to the last byte.

    Never true of what may be the first name seen another way (a link or a second mount leads to its folder):
    removing one would remove both.
    """
    try:
        here, there = os.lstat(path), os.lstat(target)
        if os.path.samestat(here, there):
            same_folder = os.path.samefile(os.path.dirname(path), os.path.dirname(target))
            return not same_folder or os.path.basename(path) != os.path.basename(target)
        one_file = here.st_ino == there.st_ino or here.st_ctime_ns == there.st_ctime_ns
        alike = here.st_size == there.st_size and not one_file
        return alike and sha256_of(path) == sha256_of(target)
    except (OSError, errors.UploaderError):
        return False


def _give_name(path: str, target: str, sha256: str) -> None:
    try:
        os.link(path, target, follow_symlinks=False)  # unlike rename, it refuses to overwrite
    except OSError as error:
        # Another file system or mount, one without links, or too many of them already.
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}:
            raise
        _copy(path, target, sha256)


def _copy(path: str, target: str, sha256: str) -> None:
    """Copy to another file system: durable and proved equal before the target's name appears."""
    # A name that is ours alone: what a crash leaves under it may be thrown away, and a long name fits too.
    temporary = os.path.join(os.path.dirname(target), f".valt-uploader-{sha256[:16]}.part")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        with open(path, "rb", opener=_open_regular) as source, open(temporary, "xb") as copy:
            shutil.copyfileobj(source, copy, BLOCK)
            copy.flush()
            os.fsync(copy.fileno())
        with contextlib.suppress(OSError):  # times and rights, where that file system keeps such
            shutil.copystat(path, temporary)
        _prove_copy(temporary, target, sha256)
        os.rename(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _prove_copy(temporary: str, target: str, sha256: str) -> None:
    if sha256_of(temporary) != sha256:
        raise OSError(errno.EIO, "the copy differs from what was sent")
    if os.path.lexists(target):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _still_there(path: str, identity: Identity) -> bool:
    """True when *path* is still the file that was sent, False when nothing is there; else ``FileChanged``."""
    try:
        now: Identity | None = _identify(path)
    except errors.FileMissing:
        return False
    except errors.NotAFile:
        now = None
    if now != identity:
        raise errors.FileChanged(f"{shown(path)} is no longer the file that was sent")
    return True


def _open_regular(path: str, flags: int) -> int:
    """Open without following a link or waiting for a FIFO's writer; only a regular file. An ``opener``."""
    fd = os.open(path, _OPEN | (flags & os.O_ACCMODE))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        kind = _kind(os.fstat(fd).st_mode)
        os.close(fd)
        raise errors.NotAFile(f"{shown(path)} is no regular file but a {kind}")
    return fd


def _ours(path: str, error: OSError) -> errors.UploaderError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return errors.FileMissing(f"{shown(path)} is not there")
    if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
        return errors.NotAFile(f"{shown(path)} is no regular file but a {kind_of(path)}")
    return errors.ShareNotReady(f"{shown(path)} cannot be read now: {error.strerror}")


def _say(path: str, error: OSError) -> str:
    return f"{shown(path)}: {error.strerror}"


def _change(before: int, now: int) -> str:
    if now == before:
        return "was written to"
    return f"{'grew' if now > before else 'shrank'} from {before} to {now} bytes"


_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISLNK, "link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
)


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "device")

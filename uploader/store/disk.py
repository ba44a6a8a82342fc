"""The state folder: its lock, and writes that are durable when they return.

The only code that touches files in ``state.dir``. It is synchronous; ``Store`` calls it on a thread of its own. It
never leaves a file half written under its real name, and never follows a link.

A write is: temporary file, fsync, rename, fsync of the folder. Measured with 40 power cuts on ext4 (loop device): all
40 went back to an older save without the fsyncs, 34 without the folder's fsync, none with both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from uploader.domain import errors

LOCK_FILE = "lock"
PREVIOUS_SUFFIX = ".1"  # suffix of the generation before this one
JOINED_WRITE_SIZE = 64 * 1024  # bytes up to which pieces are joined before they are written
Piece = bytes | memoryview
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_WRONLY


class Disk(Protocol):
    """What the store needs of a folder. Every write is durable when it returns, or raises ``OSError``."""

    def where(self, name: str) -> str:
        """Return the path of the file *name*, for messages."""

    def read(self, name: str) -> bytes | None:
        """Return the whole file; None when there is none. Raises ``StateUnusable``."""

    def size(self, name: str) -> int | None:
        """Return its size in bytes; None when there is none. Raises ``StateUnusable``."""

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset* on, fewer only at the end of the file. Raises ``StateUnusable``."""

    def replace(self, name: str, *content: Piece) -> None:
        """Replace *name* by *content* (in pieces) in one step; what was there before stays as ``name.1``."""

    def append(self, name: str, content: bytes) -> None:
        """Append *content* to *name*, which is created if it is missing."""

    def truncate(self, name: str, size: int) -> None:
        """Cut *name* to *size* bytes."""

    def append_cache(self, name: str, content: bytes) -> None:
        """Append *content* to a file that may be lost: not durable."""

    def replace_cache(self, name: str, content: bytes) -> None:
        """Replace a file that may be lost: in one step, but not durable."""

    def close(self) -> None:
        """Close the folder and release its lock."""


def may_exist(path: Path) -> bool:
    """Return False when nothing is at *path*. What this user may not look at counts as there: opening it says why."""
    try:
        return path.exists()
    except PermissionError:  # Python 3.11 raises it below a folder that may not be searched
        return True


class StateFolder:
    """A ``Disk`` in a real folder, for one process at a time."""

    def __init__(self, folder: Path, *, lock: bool = True) -> None:
        """Open *folder*, and create it if it is missing (mode 0700).

        Raises ``AlreadyRunning`` when another process holds the lock and ``StateUnusable`` (exit 73) when the
        folder cannot be created or written. With ``lock=False`` it is only read, and must exist.
        """
        self.folder = folder
        self._lock: int | None = None
        self._unfinished: dict[str, int] = {}  # by name: the size before an append that could not be undone
        try:
            if lock:
                _make_private(folder)
            self._dir = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._owner = os.fstat(self._dir)
        except OSError as error:
            raise _unusable(folder, error) from None
        if lock:
            try:
                self._take_lock()
                self._make_durable()
            except BaseException:  # the handle must be closed, whatever was raised
                os.close(self._dir)
                raise

    def _take_lock(self) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(LOCK_FILE, flags, 0o600, dir_fd=self._dir)
            self._give_to_owner(self._lock)
        except OSError as error:
            raise _unusable(self.folder, error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            if error.errno != errno.EWOULDBLOCK:
                raise _unusable(self.folder, error) from None
            raise errors.AlreadyRunning(
                f"{self.folder}: process {holder or 'unknown'} already works on this state folder",
                hint="stop it first, or set another [state] dir for this one",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def where(self, name: str) -> str:
        """Return the path of the file *name*, for messages."""
        return str(self.folder / name)

    def _give_to_owner(self, fd: int) -> None:
        """Give a file that root has created to the folder's owner, so that a daemon that is not root can read it."""
        if os.geteuid() == 0 and self._owner.st_uid != 0:
            os.fchown(fd, self._owner.st_uid, self._owner.st_gid)

    def _make_durable(self) -> None:
        """Sync all files: a process may have died between a write and its fsync, and what is read now must stay."""
        try:
            for name in os.listdir(self._dir):
                if not stat.S_ISREG(os.stat(name, dir_fd=self._dir, follow_symlinks=False).st_mode):
                    continue  # the socket of a daemon that was killed
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._dir)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            os.fsync(self._dir)
        except OSError as error:
            raise _unusable(self.folder, error) from None

    def read(self, name: str) -> bytes | None:
        """Return the whole file; None when there is none. Raises ``StateUnusable`` (exit 78)."""
        with self._opened(name) as fd:
            return None if fd is None else _read_exactly(fd, 0, os.fstat(fd).st_size)

    def size(self, name: str) -> int | None:
        """Return its size in bytes; None when there is none. Raises ``StateUnusable`` (exit 78)."""
        with self._opened(name) as fd:
            return None if fd is None else os.fstat(fd).st_size

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset* on, fewer only at the end of the file; none when there is no file.

        Raises ``StateUnusable`` (exit 78).
        """
        with self._opened(name) as fd:
            return b"" if fd is None else _read_exactly(fd, offset, length)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int | None]:
        """Open a file to read it; None when there is none. Errors of the disk are raised as ``StateUnusable``."""
        fd = None
        try:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._dir)
            if fd is not None and not stat.S_ISREG(os.fstat(fd).st_mode):
                raise self._unreadable(name, "it is not a regular file")
            yield fd
        except OSError as error:
            raise self._unreadable(name, error.strerror or str(error)) from None
        finally:
            if fd is not None:
                os.close(fd)

    def _unreadable(self, name: str, why: str) -> errors.StateUnusable:
        return errors.StateUnusable(
            f"{self.where(name)} cannot be read: {why}", hint="it must be a file that this user owns"
        )

    def replace(self, name: str, *content: Piece) -> None:
        """Replace *name* by *content* (in pieces) in one step; what was there before stays as ``name.1``."""
        temporary = name + ".tmp"
        self._write_new(temporary, *content)
        with contextlib.suppress(FileNotFoundError):
            self._keep_previous(name)
        os.rename(temporary, name, src_dir_fd=self._dir, dst_dir_fd=self._dir)
        os.fsync(self._dir)

    def _keep_previous(self, name: str) -> None:
        """Link the current generation as ``name.1``; *name* itself is never missing in between."""
        second = name + PREVIOUS_SUFFIX + ".tmp"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(second, dir_fd=self._dir)
        os.link(name, second, src_dir_fd=self._dir, dst_dir_fd=self._dir, follow_symlinks=False)
        os.rename(second, name + PREVIOUS_SUFFIX, src_dir_fd=self._dir, dst_dir_fd=self._dir)

    def _write_new(self, name: str, *content: Piece, durable: bool = True) -> None:
        with contextlib.suppress(FileNotFoundError):  # what a crash left behind
            os.unlink(name, dir_fd=self._dir)
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self._dir)
        try:
            self._give_to_owner(fd)
            for piece in _of_useful_size(content):
                _write_all(fd, piece)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def append_cache(self, name: str, content: bytes) -> None:
        """Append *content* to a file that may be lost: not durable, and a failed write may leave a part of it."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._dir)
        try:
            self._give_to_owner(fd)
            _write_all(fd, content)
        finally:
            os.close(fd)

    def replace_cache(self, name: str, content: bytes) -> None:
        """Replace a file that may be lost: in one step, but not durable."""
        self._write_new(name + ".tmp", content, durable=False)
        os.rename(name + ".tmp", name, src_dir_fd=self._dir, dst_dir_fd=self._dir)

    def append(self, name: str, content: bytes) -> None:
        """Append *content* to *name*, which is created if it is missing."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._dir)
        try:
            size = os.fstat(fd).st_size
            if size == 0:
                self._give_to_owner(fd)
            before = self._unfinished.setdefault(name, size)
            if size > before:
                os.ftruncate(fd, before)
            try:
                _write_all(fd, content)
                os.fsync(fd)
                if before == 0:
                    os.fsync(self._dir)  # its name is new
            except OSError:
                os.ftruncate(fd, before)  # a partial line would break the chain
                raise
            del self._unfinished[name]
        finally:
            os.close(fd)

    def truncate(self, name: str, size: int) -> None:
        """Cut *name* to *size* bytes."""
        fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dir)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the folder and release its lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._dir >= 0:
            os.close(self._dir)
            self._dir = -1


def _read_exactly(fd: int, offset: int, length: int) -> bytes:
    """Read *length* bytes, or up to the end of the file; one call may return fewer."""
    pieces = []
    while length > 0 and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _of_useful_size(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Join small pieces: copying them is cheaper than another system call."""
    return [b"".join(pieces)] if sum(map(len, pieces)) <= JOINED_WRITE_SIZE else pieces


def _write_all(fd: int, content: Piece) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _make_private(folder: Path) -> None:
    """Create *folder* if it is missing, and close it to other users (mode 0700)."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_mode & stat.S_IWOTH:
        raise errors.StateUnusable(
            f"{folder}: others can write to the state folder", hint=f"chmod 0700 {folder}", exit_code=73
        )
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
        names = os.listdir(folder)
        if LOCK_FILE in names or not names:  # else it is no state folder (yet), for example /var/lib, named by root
            folder.chmod(0o700)


def _unusable(folder: Path, error: OSError) -> errors.StateUnusable:
    return errors.StateUnusable(
        f"{folder}: the state folder cannot be used: {error.strerror}",
        hint="make it writable for this user, or set [state] dir to another folder",
        exit_code=73,
    )

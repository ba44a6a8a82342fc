"""Opens files safely: below an open folder, not through links, and without waiting for a FIFO.

All code that opens a recording uses this module. Paths are relative and without ``..``. An ``OSError`` about a file is
turned into *missing* (``FileMissing``), *not a file* (``NotAFile``) or *not now* (``ShareNotReady``): a share's EIO,
EBUSY, EACCES and ESTALE say nothing about the file itself. All functions block; a share's own threads call them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from uploader.domain import errors
from uploader.domain.model import shown

REGULAR: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ON_THE_WAY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # needs only the right to search


def open_root(path: str) -> int:
    """Open a watched folder itself; its path may be a link. Raises ``OSError``."""
    try:
        return os.open(path, FOLDER)
    except PermissionError:  # it may be searched but not listed: files named by the operator can still be opened
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@contextlib.contextmanager
def parent(root: int, relpath: str) -> Iterator[tuple[int, str]]:
    """Yield the open folder that *relpath* lies in, and its name there. No link is followed on the way."""
    *folders, name = relpath.split("/")
    handle = root
    try:
        for folder in folders:
            below = os.open(folder, _ON_THE_WAY, dir_fd=handle)
            if handle != root:
                os.close(handle)
            handle = below
        yield handle, name
    finally:
        if handle != root:
            os.close(handle)


def open_regular(name: str, flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> int:
    """Open a regular file. Raises ``NotAFile`` for anything else, and ``OSError``."""
    fd = os.open(name, REGULAR | (flags & os.O_ACCMODE), dir_fd=dir_fd)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise errors.NotAFile(f"{shown(name)} is a {kind(mode)}, not a regular file")
    return fd


@contextlib.contextmanager
def opened(root: int, relpath: str) -> Iterator[int]:
    """Hold the regular file at *relpath* open. Raises ``NotAFile`` and ``OSError``."""
    with parent(root, relpath) as (folder, name):
        fd = open_regular(name, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def our_errors(path: str) -> Iterator[None]:
    """Turn an ``OSError`` about *path* into an ``UploaderError``."""
    try:
        yield
    except OSError as error:
        raise as_our_error(path, error) from None


def as_our_error(path: str, error: OSError) -> errors.UploaderError:
    """Return the ``UploaderError`` that describes an ``OSError`` about the file at *path*."""
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return errors.FileMissing(f"{shown(path)} is not there")
    if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
        return errors.NotAFile(f"{shown(path)} is a {kind_of(path)}, not a regular file")
    return errors.ShareNotReady(f"{shown(path)} cannot be read now: {error.strerror}")


def kind_of(path: str) -> str:
    """Return the kind of what is at *path*: ``file``, ``folder``, ``link``, ``missing`` and so on."""
    try:
        return kind(os.lstat(path).st_mode)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def folder_problem(path: str, *, writable: bool) -> str | None:
    """Explain why *path* is not a readable folder or, with *writable*, why files cannot be removed from it."""
    what = kind_of(os.path.realpath(path))
    if what != "folder":
        return f"{path}: {'is missing' if what == 'missing' else f'is not a folder but a {what}'}"
    if not os.access(path, os.R_OK | os.X_OK):
        return f"{path}: cannot be read by this user"
    if writable and not os.access(path, os.W_OK | os.X_OK):
        return f"{path}: files cannot be moved or deleted there by this user"
    return None


_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISLNK, "link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
)


def kind(mode: int) -> str:
    """Return the kind of file that an inode's mode stands for."""
    return next((name for test, name in _KINDS if test(mode)), "device")

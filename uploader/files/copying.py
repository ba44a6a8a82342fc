"""Copies a recording into a folder on another file system; the copy gets its name when it is durable and proved equal.

The copy is written to an unnamed file (O_TMPFILE) where the file system has them, else under a hidden name with 64
random bits. The open file that was written is hashed, and it gets its name only if that name still leads to it. So two
copies cannot collide. A crash leaves nothing, or a hidden file that is removed later; the source is still there.

Never overwrites a file. All functions block.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable
from typing import Final

from uploader.domain.selection import HIDDEN_PREFIX
from uploader.files import syscalls
from uploader.files.attributes import copy_attributes
from uploader.files.naming import NO_LINKS, by_claim, is_inode, numbered, reveal, status_at, sync_folder
from uploader.files.safe_open import FOLDER, open_regular
from uploader.files.set_aside import Disposer

COPY_BLOCK: Final = 1024 * 1024  # bytes
_TEMPORARY: Final = re.compile(re.escape(HIDDEN_PREFIX) + r"[0-9a-f]{16}\.part")


def copy(source: int, folder: int, wanted: str, sha256: str, disposer: Disposer) -> str:
    """Copy the open file *source* into an open folder as *wanted* or the next free name beside it; return that name.

    *sha256*: of the file that was sent. Raises ``OSError`` when the copy differs, and ``RemovalStopped``.
    """
    fd = syscalls.open_unnamed(folder)
    if fd is not None:
        try:
            _fill(source, fd, sha256, disposer)
            return _name_unnamed(fd, folder, wanted)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        finally:
            os.close(fd)
    return _copy_by_hidden_name(source, folder, wanted, sha256, disposer)


def _name_unnamed(fd: int, folder: int, wanted: str) -> str:
    for name in numbered(wanted):
        with contextlib.suppress(FileExistsError):
            syscalls.link_unnamed(fd, folder, name)
            return name
    raise AssertionError("there is always another number")


def _copy_by_hidden_name(source: int, folder: int, wanted: str, sha256: str, disposer: Disposer) -> str:
    clear_left_over(folder)
    hidden = f"{HIDDEN_PREFIX}{disposer.unique()}.part"
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        syscalls.lock(fd)  # so that it is not taken for a copy that a crash has left
        _fill(source, fd, sha256, disposer)
        _check_name(fd, folder, hidden)
        name = reveal(folder, hidden, wanted, by_claim)
        _check_name(fd, folder, name)
    except BaseException:  # also when the process is asked to end: there is time to clean up
        with contextlib.suppress(OSError):
            if is_inode(status_at(folder, hidden), os.fstat(fd)):
                os.unlink(hidden, dir_fd=folder)
        raise
    else:
        return name
    finally:
        os.close(fd)


def _check_name(fd: int, folder: int, name: str) -> None:
    if not is_inode(status_at(folder, name), os.fstat(fd)):
        raise OSError(errno.ESTALE, "the copy has lost its name to another file")


def _fill(source: int, fd: int, sha256: str, disposer: Disposer) -> None:
    """Write all of *source* into *fd*, durably, and read it back to prove that it is what was sent."""
    position = 0
    while block := os.pread(source, COPY_BLOCK, position):
        disposer.check()
        _write_all(fd, block)
        position += len(block)
    disposer.not_kept |= copy_attributes(source, fd)
    os.fsync(fd)
    if digest(fd, disposer.check) != sha256:
        raise OSError(errno.EIO, "the copy differs from what was sent")


def _write_all(fd: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(fd, rest) :]


def digest(fd: int, check: Callable[[], None]) -> str:
    """Hash a whole open file; *check* is called before each block, and may raise."""
    hashed, position = hashlib.sha256(), 0
    while block := os.pread(fd, COPY_BLOCK, position):
        check()
        hashed.update(block)
        position += len(block)
    return hashed.hexdigest()


def clear_left_over(folder: int) -> None:
    """Remove the hidden copies that crashes have left in an open folder: those that are not locked.

    If another host is still writing to one, it finds that its copy has lost its name, and makes it again.
    """
    fd = os.open(".", FOLDER, dir_fd=folder)
    try:
        hidden = [entry for entry in os.listdir(fd) if _TEMPORARY.fullmatch(entry)]
    finally:
        os.close(fd)
    for name in hidden:
        with contextlib.suppress(OSError):
            _clear(folder, name)
    if hidden:
        sync_folder(folder)


def _clear(folder: int, name: str) -> None:
    fd = open_regular(name, dir_fd=folder)
    try:
        if syscalls.lock(fd) and is_inode(status_at(folder, name), os.fstat(fd)):
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(fd)

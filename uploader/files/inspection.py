"""Inspects one file: its inode, its identity, whether its container is closed, its duration, its sha256.

Changes nothing, and reads no more than each question needs. All functions block. They raise an ``UploaderError``, or
an ``OSError`` that ``safe_open.our_errors`` turns into one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Final

from uploader import container
from uploader.domain.model import Identity, Sighting, Snapshot, WriteState
from uploader.files.open_writers import Table, held_by_writer
from uploader.files.safe_open import opened, parent

EDGE_SIZE: Final = 64 * 1024  # bytes at either end of a file that its identity is taken from


def look(path: str, root: str) -> Sighting | None:
    """Look at one file's inode by its path. None when it is missing, or not a regular file."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return sighting(path, root, status) if stat.S_ISREG(status.st_mode) else None


def sighting(path: str, root: str, status: os.stat_result) -> Sighting:
    """Return the sighting of a regular file."""
    return Sighting(path, root, status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino))


def stat_beneath(root: int, relpath: str) -> os.stat_result | None:
    """Return the status of the file, folder or link at *relpath*; None when it is missing. Raises ``OSError``."""
    try:
        with parent(root, relpath) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def snapshot(root: int, relpath: str) -> Snapshot:
    """Take a file's size, times, inode and the hash of its first and last block. Raises ``NotAFile``, ``OSError``."""
    with opened(root, relpath) as fd:
        return snapshot_of(fd)


def snapshot_of(fd: int) -> Snapshot:
    """Take the snapshot of an open file."""
    status = os.fstat(fd)
    ends = os.pread(fd, EDGE_SIZE, 0)
    if status.st_size > EDGE_SIZE:
        ends += os.pread(fd, EDGE_SIZE, max(EDGE_SIZE, status.st_size - EDGE_SIZE))
    identity = Identity(status.st_size, status.st_mtime_ns, hashlib.sha256(ends).hexdigest())
    return Snapshot(identity, status.st_ctime_ns, (status.st_dev, status.st_ino))


def write_state(root: int, relpath: str, *, gate: bool, local: bool, writers: Table) -> WriteState:
    """Find out whether a file that no longer changes is closed by its writer, and finished by its recorder.

    *gate*: check its container. *local*: its file system knows its writers. Raises ``NotAFile``, ``OSError``.
    """
    with opened(root, relpath) as fd:
        writer = local and held_by_writer(fd, writers)
        if writer or not gate:
            return WriteState(writer)
        suffix = os.path.splitext(relpath)[1]
        size = os.fstat(fd).st_size
        state = container.inspect(lambda at, count: os.pread(fd, count, at), size, suffix)
        return WriteState(writer, state.unfinished, state.playable)


def duration(root: int, relpath: str, identity: Identity) -> float | None:
    """Return the seconds that a file's container states. Raises ``NotAFile``, ``OSError``.

    None when it states none, or when size or mtime are not those of *identity*, before or after the reads.
    """
    with opened(root, relpath) as fd:
        if not _is_still(fd, identity):
            return None
        seconds = container.duration(lambda at, count: os.pread(fd, count, at), identity.size)
        return seconds if _is_still(fd, identity) else None


def _is_still(fd: int, identity: Identity) -> bool:
    """True when an open file has the size and mtime of *identity*."""
    status = os.fstat(fd)
    return (status.st_size, status.st_mtime_ns) == (identity.size, identity.mtime_ns)


def sha256(root: int, relpath: str) -> str:
    """Hash a whole file. Raises ``NotAFile``, ``OSError``."""
    with opened(root, relpath) as fd, os.fdopen(os.dup(fd), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

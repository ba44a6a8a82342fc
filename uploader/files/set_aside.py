"""Removes a file only if it is the one that was checked.

Between a check and an unlink another file may take the name. So the file is first renamed to a hidden name, which no
other program touches, checked there, and then removed. Another file gets its name back, or a free one beside it. Each
removal has its own hidden name, which contains the old one. So a file that a crash leaves behind can be put back.

Every file under a hidden name is found again, and nothing is renamed over a file. All functions block, and work in open
folders. A *run* is one process of the program.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from uploader.domain.model import Snapshot
from uploader.domain.selection import HIDDEN_PREFIX
from uploader.files.naming import FILE_NAME_LIMIT, Unique, fitted, reveal, sync_folder, unguessably
from uploader.files.safe_open import FOLDER, parent

SHORTEST_NAME_LIMIT: Final = 143  # bytes of a name on eCryptfs, the file system with the shortest
_AROUND: Final = len(f"{HIDDEN_PREFIX}-.gone") + 2 * 16  # bytes of a hidden name without the old name in it
_HIDDEN: Final = re.compile(re.escape(HIDDEN_PREFIX) + r"([0-9a-f]{16})([0-9a-f]{16})-(.+)\.gone", re.DOTALL)


class RemovalStopped(Exception):  # noqa: N818 - says what has happened
    """The caller has given up; everything is left so that the removal can be repeated."""


@dataclass(slots=True)
class Disposer:
    """What the removals of one share have in common; each gets a copy with a ``stop`` of its own.

    ``listed``: folders, as (device, inode), that were listed and hold no file that was set aside. They are not listed
    again. ``not_kept``: what of a file's owner, group, rights, times and attributes a copy could not keep.
    """

    unique: Unique
    run: str  # 16 hexadecimal digits that all hidden names of this run contain
    stop: threading.Event = field(default_factory=threading.Event)
    listed: set[tuple[int, int]] = field(default_factory=set)
    not_kept: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Raise ``RemovalStopped`` when the caller has given up. Called between the blocks of a copy."""
        if self.stop.is_set():
            raise RemovalStopped


def hidden_name(name: str, disposer: Disposer, limit: int = FILE_NAME_LIMIT) -> str:
    """Return a new hidden name of at most *limit* bytes that contains *name*, cut where it is too long."""
    return f"{HIDDEN_PREFIX}{disposer.run}{disposer.unique()}-{_kept(name, limit)}.gone"


def _kept(name: str, limit: int) -> str:
    """Return what a hidden name of *limit* bytes contains of *name*.

    The stem of a long name is cut, and followed by a hash of the whole name: two long names may begin alike, and the
    file of one must never be taken for that of the other.
    """
    if len(os.fsencode(name)) <= limit - _AROUND:
        return name
    stem, suffix = os.path.splitext(name)
    return fitted(stem, f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{suffix}", limit - _AROUND)


def name_before(hidden: str) -> str | None:
    """Return the name that a file had before it was set aside, as far as it is kept; None for any other name."""
    match = _HIDDEN.fullmatch(hidden)
    return None if match is None else match[3]


def path_before(relpath: str) -> str:
    """Return the path that the file at *relpath* had before it was set aside."""
    folder, hidden = os.path.split(relpath)
    return os.path.join(folder, name_before(hidden) or hidden)


def is_left_over(name: str, run: str) -> bool:
    """True for the hidden name of a file that was set aside by another run than *run*: one that has ended."""
    match = _HIDDEN.fullmatch(name)
    return match is not None and match[1] != run


def left_of(folder: int, name: str, disposer: Disposer) -> Iterator[str]:
    """Yield the hidden names of files that had *name* when their removal was interrupted."""
    status = os.fstat(folder)
    place = status.st_dev, status.st_ino
    if place in disposer.listed:
        return
    hidden = {entry: name_before(entry) for entry in _listed(folder) if entry.startswith(HIDDEN_PREFIX)}
    if not any(hidden.values()):
        disposer.listed.add(place)
    contained = {_kept(name, FILE_NAME_LIMIT), _kept(name, SHORTEST_NAME_LIMIT)}
    yield from sorted(entry for entry, before in hidden.items() if before in contained)


def _listed(folder: int) -> list[str]:
    """List an open folder; empty for one that this user may not list."""
    try:
        fd = os.open(".", FOLDER, dir_fd=folder)
    except PermissionError:
        return []
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def remove(folder: int, name: str, found: Snapshot, disposer: Disposer, changed: Callable[[], Exception]) -> None:
    """Remove *name*, durably, if it is still the file *found*. When it is another, raises what *changed* returns."""
    if name_before(name) is not None:  # an interrupted removal set it aside, and it was checked there
        os.unlink(name, dir_fd=folder)
    else:
        _set_aside_and_unlink(folder, name, found, disposer, changed)
    _sync(folder)


def _sync(folder: int) -> None:
    """Make names durable. A folder that may not be listed cannot be synced; that loses no recording."""
    with contextlib.suppress(PermissionError):
        sync_folder(folder)


def _set_aside_and_unlink(
    folder: int, name: str, found: Snapshot, disposer: Disposer, changed: Callable[[], Exception]
) -> None:
    """Rename the file to a hidden name, check it there, and unlink it; put back another file."""
    status = os.fstat(folder)
    hidden = _set_aside(folder, name, disposer)
    try:
        if not is_still(found, os.stat(hidden, dir_fd=folder, follow_symlinks=False)):
            put_back(folder, hidden, name, disposer)
            raise changed()
        os.unlink(hidden, dir_fd=folder)
    except OSError:
        disposer.listed.discard((status.st_dev, status.st_ino))  # the next try looks for what is left
        raise


def _set_aside(folder: int, name: str, disposer: Disposer) -> str:
    """Rename the file to a hidden name, a shorter one where the file system needs that; return the hidden name."""
    hidden = hidden_name(name, disposer)
    try:
        os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        hidden = hidden_name(name, disposer, SHORTEST_NAME_LIMIT)
        os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
    return hidden


def is_still(found: Snapshot, status: os.stat_result) -> bool:
    """True when *status* is that of the file *found*. The inode alone proves nothing: another file may reuse it."""
    now = (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns
    return now == (found.inode, found.identity.size, found.identity.mtime_ns)


def put_back(folder: int, hidden: str, name: str, disposer: Disposer) -> str:
    """Give a file that was set aside its old name, durably, or a free one beside it; return that name."""
    new = reveal(folder, hidden, name, unguessably(disposer.unique))
    _sync(folder)
    return new


def put_back_left_over(root: int, relpath: str, disposer: Disposer) -> None:
    """Put back the file at *relpath*, which a removal has left under a hidden name. Raises ``OSError``."""
    with parent(root, relpath) as (folder, hidden):
        if (name := name_before(hidden)) is not None:
            put_back(folder, hidden, name, disposer)

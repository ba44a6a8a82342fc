"""Removes a file only if it is the one that was looked at.

It is set aside under a hidden name of ours, looked at there, and then removed.
Between looking at a name and removing it another file may take that name; what has been set aside nobody else touches.
If it is another file it gets its name back, or one beside it. Each removal has a hidden name of its own, which tells
the old one, so that what a crash leaves behind can be given its name back by whoever finds it. Must never leave a file
under a hidden name that is not found again, nor rename over one. All of it blocks; works in open folders.
"""

from __future__ import annotations

import contextlib
import errno
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
_AROUND: Final = len(f"{HIDDEN_PREFIX}-.gone") + 2 * 16  # bytes of a hidden name beside the name that it tells
_HIDDEN: Final = re.compile(re.escape(HIDDEN_PREFIX) + r"([0-9a-f]{16})([0-9a-f]{16})-(.+)\.gone", re.DOTALL)


class RemovalStopped(Exception):  # noqa: N818 - says what has happened
    """Whoever wanted this done has given up; everything is left so that it can be begun again."""


@dataclass(slots=True)
class Disposer:
    """What one share's removals have in common, whoever calls them.

    ``looked``: folders in which nothing of an earlier run is left; they are listed once for each run.
    """

    unique: Unique
    run: str  # 16 hexadecimal digits: of all hidden names that this run makes
    stop: threading.Event = field(default_factory=threading.Event)
    looked: set[tuple[int, int]] = field(default_factory=set)

    def check(self) -> None:
        """Raise ``RemovalStopped`` when whoever waits has given up. Called between the blocks of a copy."""
        if self.stop.is_set():
            raise RemovalStopped


def hidden_name(name: str, disposer: Disposer, limit: int = FILE_NAME_LIMIT) -> str:
    """Return a hidden name of at most *limit* bytes that no other removal has, and that tells *name*.

    Of a name that is too long for that the stem is cut.
    """
    return f"{HIDDEN_PREFIX}{disposer.run}{disposer.unique()}-{_kept(name, limit)}.gone"


def _kept(name: str, limit: int) -> str:
    stem, suffix = os.path.splitext(name)
    return fitted(stem, suffix, limit - _AROUND)


def name_before(hidden: str) -> str | None:
    """Return the name that a file had before it was set aside; None when *hidden* is no such name."""
    match = _HIDDEN.fullmatch(hidden)
    return None if match is None else match[3]


def path_before(relpath: str) -> str:
    """Return the path that the file at *relpath* had before it was set aside."""
    folder, hidden = os.path.split(relpath)
    return os.path.join(folder, name_before(hidden) or hidden)


def is_left_over(name: str, run: str) -> bool:
    """True for the hidden name of a file that was set aside by an earlier run than *run*: by one that has ended."""
    match = _HIDDEN.fullmatch(name)
    return match is not None and match[1] != run


def left_of(folder: int, name: str, disposer: Disposer) -> Iterator[str]:
    """Yield the hidden names of files that had *name* when a removal of them was cut short."""
    status = os.fstat(folder)
    place = status.st_dev, status.st_ino
    if place in disposer.looked:
        return
    hidden = {entry: name_before(entry) for entry in _listed(folder) if entry.startswith(HIDDEN_PREFIX)}
    if not any(hidden.values()):
        disposer.looked.add(place)
    told = {_kept(name, FILE_NAME_LIMIT), _kept(name, SHORTEST_NAME_LIMIT)}
    yield from sorted(entry for entry, before in hidden.items() if before in told)


def _listed(folder: int) -> list[str]:
    """List an open folder; of one that may only be passed through nothing can be told."""
    try:
        fd = os.open(".", FOLDER, dir_fd=folder)
    except PermissionError:
        return []
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def remove(folder: int, name: str, found: Snapshot, disposer: Disposer, changed: Callable[[], Exception]) -> None:
    """Remove the name of the file that was *found*, durably, and of no other. Raises *changed* when it is another."""
    if name_before(name) is not None:  # it was set aside by a removal that was cut short, and looked at there
        os.unlink(name, dir_fd=folder)
    else:
        _set_aside_and_unlink(folder, name, found, disposer, changed)
    _sync(folder)


def _sync(folder: int) -> None:
    """Make names durable; in a folder that may not be listed that cannot be asked for, and costs no recording."""
    with contextlib.suppress(PermissionError):
        sync_folder(folder)


def _set_aside_and_unlink(
    folder: int, name: str, found: Snapshot, disposer: Disposer, changed: Callable[[], Exception]
) -> None:
    status = os.fstat(folder)
    hidden = _set_aside(folder, name, disposer)
    try:
        if not is_still(found, os.stat(hidden, dir_fd=folder, follow_symlinks=False)):
            put_back(folder, hidden, name, disposer)
            raise changed()
        os.unlink(hidden, dir_fd=folder)
    except OSError:
        disposer.looked.discard((status.st_dev, status.st_ino))  # the next try looks for what is left
        raise


def _set_aside(folder: int, name: str, disposer: Disposer) -> str:
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
    """True when *status* is that of the file that was found. Its inode alone may be that of its successor already."""
    now = (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns
    return now == (found.inode, found.identity.size, found.identity.mtime_ns)


def put_back(folder: int, hidden: str, name: str, disposer: Disposer) -> str:
    """Give a file that was set aside its name again, durably; should that be taken by now, one beside it."""
    new = reveal(folder, hidden, name, unguessably(disposer.unique))
    _sync(folder)
    return new


def put_back_left_over(root: int, relpath: str, disposer: Disposer) -> None:
    """Put back the file at *relpath*, which a removal has left under a hidden name. Raises ``OSError``."""
    with parent(root, relpath) as (folder, hidden):
        if (name := name_before(hidden)) is not None:
            put_back(folder, hidden, name, disposer)

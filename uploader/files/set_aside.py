"""Removes a file only if it is the one that was checked.

Between a check and an unlink another file may take the name. So the file is first moved into a hidden folder of this
run, ``.valt-uploader-RUN.removed``, beside it. No other program touches that folder. There it is checked, and then
removed; the empty folder goes with it. Another file gets its name back, or a free one beside it. In the hidden folder
the file keeps its name: the recycle bin of a NAS or of Samba then shows the name that a person looks for.

Where that is not possible (no right to make a folder, a file system that joins several) the file is renamed to a hidden
name instead, ``.valt-uploader-RUN…-NAME.gone``, which contains the old one. Earlier builds did so everywhere.

A file that a crash leaves behind is found again, in either form, and put back or removed. Nothing is renamed over a
file. All functions block, and work in open folders. A *run* is one process of the program.
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
from uploader.files.naming import FILE_NAME_LIMIT, Unique, fitted, reveal, status_at, sync_folder, unguessably
from uploader.files.safe_open import FOLDER, parent

SHORTEST_NAME_LIMIT: Final = 143  # bytes of a name on eCryptfs, the file system with the shortest
_AROUND: Final = len(f"{HIDDEN_PREFIX}-.gone") + 2 * 16  # bytes of a hidden name without the old name in it
_FOLDER: Final = re.compile(re.escape(HIDDEN_PREFIX) + r"([0-9a-f]{16})\.removed")
_BELOW: Final = FOLDER | os.O_NOFOLLOW
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
    folder, name = os.path.split(relpath)
    above, hidden = os.path.split(folder)
    if _FOLDER.fullmatch(hidden):
        return os.path.join(above, name)
    return os.path.join(folder, name_before(name) or name)


def is_left_over(name: str, run: str) -> bool:
    """True for the hidden name of a file, or of a folder of files, that another run than *run* has set aside."""
    match = _HIDDEN.fullmatch(name) or _FOLDER.fullmatch(name)
    return match is not None and match[1] != run


def left_in(folder: int, hidden: str) -> list[str]:
    """Return the paths, below an open folder, of the files in the hidden folder *hidden*, and its own with a slash."""
    with contextlib.suppress(OSError), opened_below(folder, hidden) as inner:
        return [*(f"{hidden}/{name}" for name in _listed(inner)), f"{hidden}/"]
    return []


@contextlib.contextmanager
def opened_below(folder: int, hidden: str) -> Iterator[int]:
    """Hold open a hidden folder in an open folder; with an empty name that folder itself. Does not follow a link."""
    if not hidden:
        yield folder
        return
    fd = os.open(hidden, _BELOW, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def left_of(folder: int, name: str, disposer: Disposer) -> Iterator[tuple[str, str]]:
    """Yield where the files are that had *name* when their removal was interrupted: a hidden folder, and a name in it.

    The folder is empty for one that has a hidden name beside its old one.
    """
    status = os.fstat(folder)
    place = status.st_dev, status.st_ino
    if place in disposer.listed:
        return
    entries = [entry for entry in _listed(folder) if entry.startswith(HIDDEN_PREFIX)]
    hidden = {entry: name_before(entry) for entry in entries}
    folders = [entry for entry in entries if _FOLDER.fullmatch(entry)]
    if not (folders or any(hidden.values())):
        disposer.listed.add(place)
    contained = {_kept(name, FILE_NAME_LIMIT), _kept(name, SHORTEST_NAME_LIMIT)}
    yield from (("", entry) for entry in sorted(entry for entry, before in hidden.items() if before in contained))
    for entry in sorted(folders):
        with contextlib.suppress(OSError), opened_below(folder, entry) as inner:
            if status_at(inner, name) is None:
                continue
            yield entry, name


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


def remove_in(folder: int, hidden: str, inner: int, name: str) -> None:
    """Remove a file that an interrupted removal has left in a hidden folder, and that was checked there. Durably."""
    os.unlink(name, dir_fd=inner)
    _leave(folder, hidden, inner)
    _sync(folder)


def _sync(folder: int) -> None:
    """Make names durable. A folder that may not be listed cannot be synced; that loses no recording."""
    with contextlib.suppress(PermissionError):
        sync_folder(folder)


def _set_aside_and_unlink(
    folder: int, name: str, found: Snapshot, disposer: Disposer, changed: Callable[[], Exception]
) -> None:
    """Set the file aside, check it there, and unlink it; put back another file."""
    status = os.fstat(folder)
    with _set_aside(folder, name, disposer) as (inner, hidden):
        try:
            if not is_still(found, os.stat(hidden, dir_fd=inner, follow_symlinks=False)):
                _reveal(folder, inner, hidden, name, disposer)
                raise changed()
            os.unlink(hidden, dir_fd=inner)
        except OSError:
            disposer.listed.discard((status.st_dev, status.st_ino))  # the next try looks for what is left
            raise


@contextlib.contextmanager
def _set_aside(folder: int, name: str, disposer: Disposer) -> Iterator[tuple[int, str]]:
    """Move the file into the hidden folder of this run, else rename it to a hidden name; yield where it is then."""
    hidden = f"{HIDDEN_PREFIX}{disposer.run}.removed"
    inner = _own_folder(folder, hidden)
    if inner is None:
        yield folder, _renamed(folder, name, disposer)
        return
    try:
        moved = _moved(folder, name, inner)
        yield (inner, name) if moved else (folder, _renamed(folder, name, disposer))
    finally:
        try:
            _leave(folder, hidden, inner)
        finally:
            os.close(inner)


def _own_folder(folder: int, hidden: str) -> int | None:
    """Open the hidden folder of this run, made if it is missing; None where that is not possible."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(hidden, 0o700, dir_fd=folder)
        return os.open(hidden, _BELOW, dir_fd=folder)
    except OSError:  # not permitted, or another removal has just taken it away
        return None


def _moved(folder: int, name: str, inner: int) -> bool:
    """Move the file into the hidden folder. False where that is not possible; then nothing has changed.

    Only this run puts files there, one removal at a time for each path, so no file takes the name meanwhile.
    """
    try:
        if status_at(inner, name) is not None:  # a removal has failed half-way
            return False
        os.rename(name, name, src_dir_fd=folder, dst_dir_fd=inner)
    except OSError:  # the reason is found when it is renamed in its own folder
        return False
    return True


def _leave(folder: int, hidden: str, inner: int) -> None:
    """Remove a hidden folder that is open as *inner*; one that stays is made durable as it is now."""
    if not _remove_folder(folder, hidden):
        _sync(inner)


def _remove_folder(folder: int, hidden: str) -> bool:
    """Remove a hidden folder if it is empty: another removal may be using it. False when it stays."""
    try:
        os.rmdir(hidden, dir_fd=folder)
    except OSError:
        return False
    return True


def _renamed(folder: int, name: str, disposer: Disposer) -> str:
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


def put_back(folder: int, above: str, hidden: str, name: str, disposer: Disposer) -> str:
    """Give a file that was set aside its old name, durably, or a free one beside it; return that name.

    *above*: the hidden folder that it lies in; empty when it has a hidden name in the open *folder* itself.
    """
    with opened_below(folder, above) as inner:
        new = _reveal(folder, inner, hidden, name, disposer)
    if above:
        _remove_folder(folder, above)
    return new


def _reveal(folder: int, inner: int, hidden: str, name: str, disposer: Disposer) -> str:
    new = reveal(folder, hidden, name, unguessably(disposer.unique, inner), source=inner)
    _sync(folder)
    return new


def put_back_left_over(root: int, relpath: str, disposer: Disposer) -> None:
    """Put back the file at *relpath*, which a removal has left set aside. Raises ``OSError``.

    A path that ends in a slash is that of a hidden folder, which is removed if it is empty.
    """
    above, hidden = os.path.split(relpath)
    if _FOLDER.fullmatch(os.path.basename(above)):
        with parent(root, above) as (folder, place):
            if hidden:
                put_back(folder, place, hidden, hidden, disposer)
            else:
                _remove_folder(folder, place)
        return
    with parent(root, relpath) as (folder, hidden):
        if (name := name_before(hidden)) is not None:
            put_back(folder, "", hidden, name, disposer)

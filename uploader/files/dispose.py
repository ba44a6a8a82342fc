"""Disposes of a recording after ``ready``: deletes or moves it, if it is still the file that was sent.

Never overwrites anything, never removes another file than the one that was sent, and never removes a folder. A file is
moved by a hard link where that is possible, else by a copy (``copying``). Its old name is removed only when the new one
is durable (``set_aside``).

In this module *there* is the open folder that the file is moved into, and *wanted* the name it should get. All
functions block and work below open folders. They raise ``ShareNotReady`` when the disk refuses, and ``FileChanged``
when the file is another one or has other content.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from uploader.domain import errors, selection
from uploader.domain.model import Identity, Snapshot, shown
from uploader.files import copying, set_aside
from uploader.files.inspection import snapshot
from uploader.files.naming import NO_LINKS, folder_below, is_inode, numbered, status_at, sync_folder
from uploader.files.safe_open import FOLDER, open_regular, opened, our_errors, parent
from uploader.files.set_aside import Disposer

TIME_GRAIN: Final = 2_000_000_000  # ns; FAT stores even seconds only


@dataclass(frozen=True, slots=True)
class SentFile:
    """Describes the file that was sent. Only a file that still matches it may be touched."""

    identity: Identity
    sha256: str
    inode: tuple[int, int] | None  # device, inode; where it differs, as on some shares, the whole content is compared


@dataclass(frozen=True, slots=True)
class Source:
    """Where the file that was sent is: *name* in the open *folder*.

    After an interrupted removal the name is hidden, or the folder is *aside*, a hidden one in the open folder *above*.
    """

    folder: int
    name: str
    found: Snapshot
    above: int | None = None
    aside: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """The folder that files are moved to: open, and its mount identity checked."""

    handle: int
    path: str


def delete(root: int, relpath: str, sent: SentFile, disposer: Disposer) -> bool:
    """Delete the file at *relpath*, durably. False when it is gone already."""
    with _refusals(relpath, "deleted"), _source(root, relpath, sent, disposer) as source:
        if source is None:
            return False
        _remove(source, relpath, disposer)
        return True


def move(root: int, relpath: str, sent: SentFile, archive: Archive, target: str, disposer: Disposer) -> str | None:
    """Move the file at *relpath* to *target* or, where that is taken, to the next free name beside it.

    Returns the new path of the file; None when it is gone, and is not at *target* either. *target* lies below
    *archive*, unless it was chosen when another archive was configured. An interrupted move is finished under the name
    that it had already given: a second link is recognised by its inode, a copy by its time and all of its bytes.
    """
    with _refusals(relpath, "moved"), _source(root, relpath, sent, disposer) as source:
        if source is None:
            return target if _holds(target, sent, disposer) else None
        below = selection.relative(archive.path, target)
        if below is None:  # chosen when another archive was configured
            if _moved_elsewhere(source, target, sent, disposer):
                _remove(source, relpath, disposer)
                return target
            below = relpath
        folder, wanted = os.path.split(below)
        with folder_below(archive.handle, folder) as there:
            name = _name_of_earlier_try(source, there, wanted, sent, disposer)
            if name is None:
                name = _give_name(source, there, wanted, sent, disposer, relpath)
            sync_folder(there)
        _remove(source, relpath, disposer)
        return os.path.join(archive.path, folder, name)


def free_target(root: int, relpath: str, move_to: str, sent: SentFile, disposer: Disposer) -> str:
    """Choose the path for a move: the same relative path below *move_to*, numbered if that name is taken.

    A name that an earlier try of this move has given is chosen again, even if the file has left its folder since.
    """
    folder, wanted = os.path.split(os.path.join(move_to, relpath))
    with _refusals(relpath, "moved"):
        try:
            there = os.open(folder, FOLDER)
        except FileNotFoundError:
            return os.path.join(folder, wanted)
        try:
            with _source(root, relpath, sent, disposer) as source:
                if source is None:
                    return _held_or_free(folder, there, wanted, sent, disposer)
                name = _name_of_earlier_try(source, there, wanted, sent, disposer)
            return os.path.join(folder, name or _free(there, wanted))
        except errors.FileChanged:  # the move will report it
            return os.path.join(folder, wanted)
        finally:
            os.close(there)


def _free(folder: int, wanted: str) -> str:
    """Return *wanted*, or the first numbered name of it that is free."""
    return next(name for name in numbered(wanted) if status_at(folder, name) is None)


def _held_or_free(folder: str, there: int, wanted: str, sent: SentFile, disposer: Disposer) -> str:
    """Return the path where the file that was sent lies already, as *wanted* or numbered; else the first free path."""
    for name in numbered(wanted):
        path = os.path.join(folder, name)
        if status_at(there, name) is None or _holds(path, sent, disposer):
            return path
    raise AssertionError("there is always another number")


@contextlib.contextmanager
def _refusals(relpath: str, participle: str) -> Iterator[None]:
    """Turn an ``OSError`` into ``ShareNotReady``: the disposal is tried again later, and the upload keeps its state."""
    try:
        yield
    except OSError as error:
        raise errors.ShareNotReady(f"{shown(relpath)} cannot be {participle}: {error.strerror}") from None


# Finding the file


@contextlib.contextmanager
def _source(root: int, relpath: str, sent: SentFile, disposer: Disposer) -> Iterator[Source | None]:
    """Hold open the folder of the file that was sent, and yield where in it the file is; None when it is gone.

    Another file that an interrupted removal has set aside is put back. Raises ``FileChanged``, ``OSError``.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder, name = stack.enter_context(parent(root, relpath))
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        aside = _set_aside_before(root, relpath, folder, name, sent, disposer, stack)
        if aside is not None:
            yield aside
            return
        found = _still_there(root, relpath, sent, disposer)
        if found is None:
            sync_folder(folder)  # an earlier try may have removed it, and then failed to make that durable
        yield None if found is None else Source(folder, name, found)


def _set_aside_before(
    root: int, relpath: str, folder: int, name: str, sent: SentFile, disposer: Disposer, stack: contextlib.ExitStack
) -> Source | None:
    """Return the file that was sent if an interrupted removal has left it set aside; put back any other.

    The folder that it lies in is open until *stack* ends.
    """
    source = None
    for above, hidden in set_aside.left_of(folder, name, disposer):
        try:
            found = _still_there(root, os.path.join(os.path.dirname(relpath), above, hidden), sent, disposer)
        except errors.FileChanged:
            found = None  # another file: the crash came between setting it aside and checking it
        inner = stack.enter_context(set_aside.opened_below(folder, above))
        if found is not None and source is None and not _has_both_names(folder, inner, hidden, name):
            source = Source(inner, hidden, found, folder, above) if above else Source(folder, hidden, found)
        elif status_at(inner, hidden) is not None:
            set_aside.put_back(folder, above, hidden, name, disposer)
    return source


def _has_both_names(folder: int, inner: int, hidden: str, name: str) -> bool:
    """True when *hidden* and *name* are two links to one file, so that the visible one can be removed as usual."""
    status = status_at(inner, hidden)
    return status is not None and is_inode(status_at(folder, name), status)


def _still_there(root: int, relpath: str, sent: SentFile, disposer: Disposer) -> Snapshot | None:
    """Return the snapshot of the file at *relpath* if it is still the one that was sent; None when it is missing.

    Raises ``FileChanged`` when it is another.
    """
    try:
        with our_errors(relpath):
            now = snapshot(root, relpath)
    except errors.FileMissing:
        return None
    except errors.NotAFile:
        raise _changed(relpath) from None
    if now.identity != sent.identity:
        raise _changed(relpath)
    if now.inode != sent.inode:
        with opened(root, relpath) as fd:
            if copying.digest(fd, disposer.check) != sent.sha256:
                raise _changed(relpath)  # equal ends, size and time prove nothing about the middle
    return now


def _changed(relpath: str) -> errors.FileChanged:
    return errors.FileChanged(f"{shown(relpath)} is no longer the file that was sent")


def _remove(source: Source, relpath: str, disposer: Disposer) -> None:
    if source.above is not None:
        set_aside.remove_in(source.above, source.aside, source.folder, source.name)
    else:
        set_aside.remove(source.folder, source.name, source.found, disposer, lambda: _changed(relpath))


# Recognising the result of an earlier try


def _name_of_earlier_try(source: Source, there: int, wanted: str, sent: SentFile, disposer: Disposer) -> str | None:
    """Return the name that an earlier try of this move has given the file in the open folder *there*; else None."""
    for name in numbered(wanted):
        status = status_at(there, name)
        if status is None:
            return None
        if _is_second_name(source, there, name, status):
            return name
        if _is_copy(source, there, name, status, sent, disposer):
            copying.clear_left_over(there)
            return name
    raise AssertionError("there is always another number")


def _is_second_name(source: Source, there: int, name: str, status: os.stat_result) -> bool:
    """True when *name* is a second hard link to the source.

    False when *name* may be the source's only name, seen through another path (a link to its folder). Removing the
    source would then remove the last link.
    """
    same_folder = os.path.samestat(os.fstat(source.folder), os.fstat(there))
    return (status.st_dev, status.st_ino) == source.found.inode and not (same_folder and name == source.name)


def _is_copy(source: Source, there: int, name: str, status: os.stat_result, sent: SentFile, disposer: Disposer) -> bool:
    """True when *name* is a copy of the source; the copy is durable then.

    The source itself, seen through another mount, is not a copy: its inode number or its ctime is the same.
    """
    found = source.found
    one_file = status.st_ino == found.inode[1] or status.st_ctime_ns == found.ctime_ns
    near = abs(status.st_mtime_ns - found.identity.mtime_ns) <= TIME_GRAIN
    if one_file or not near or status.st_size != found.identity.size or not stat.S_ISREG(status.st_mode):
        return False
    fd = open_regular(name, dir_fd=there)
    try:
        os.fsync(fd)
        return copying.digest(fd, disposer.check) == sent.sha256
    finally:
        os.close(fd)


def _moved_elsewhere(source: Source, target: str, sent: SentFile, disposer: Disposer) -> bool:
    """True when *target*, in an earlier archive, is a second name or a copy of the source; it is durable then."""
    folder, name = os.path.split(target)
    try:
        there = os.open(folder, FOLDER)
    except OSError:
        return False
    try:
        status = status_at(there, name)
        moved = status is not None and (
            _is_second_name(source, there, name, status) or _is_copy(source, there, name, status, sent, disposer)
        )
        if moved:
            sync_folder(there)
        return moved
    finally:
        os.close(there)


def _holds(target: str, sent: SentFile, disposer: Disposer) -> bool:
    """True when the file at *target* has the size and the sha256 of what was sent."""
    try:
        fd = open_regular(target)
    except (OSError, errors.NotAFile):
        return False
    try:
        return os.fstat(fd).st_size == sent.identity.size and copying.digest(fd, disposer.check) == sent.sha256
    finally:
        os.close(fd)


# Giving the new name


def _give_name(source: Source, there: int, wanted: str, sent: SentFile, disposer: Disposer, relpath: str) -> str:
    """Give the file the name *wanted* in the open folder *there*, or the next free one; return that name."""
    for name in numbered(wanted):
        try:
            # Unlike rename(2), link(2) refuses to overwrite.
            os.link(source.name, name, src_dir_fd=source.folder, dst_dir_fd=there, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _copy(source, there, wanted, sent, disposer)
        status = os.stat(name, dir_fd=there, follow_symlinks=False)
        if not set_aside.is_still(source.found, status):  # another file has taken its name meanwhile
            if status.st_nlink > 1:
                os.unlink(name, dir_fd=there)
            raise _changed(relpath)
        return name
    raise AssertionError("there is always another number")


def _copy(source: Source, there: int, wanted: str, sent: SentFile, disposer: Disposer) -> str:
    fd = open_regular(source.name, dir_fd=source.folder)
    try:
        return copying.copy(fd, there, wanted, sent.sha256, disposer)
    finally:
        os.close(fd)

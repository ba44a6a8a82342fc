"""What becomes of a recording after ``ready``: deleted or moved, by handle, and only if it is what was sent.

Must never overwrite anything, remove a file that is not the one that was sent, or remove a folder. Between looking at
a name and removing it another file may take that name; so a file is first set aside under a name of ours, looked at
there, and put back if it is another. All of it blocks; refusals are ``ShareNotReady``, other content ``FileChanged``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from uploader import errors
from uploader.files.looking import sha256, snapshot
from uploader.files.opening import FOLDER, in_our_words, open_regular, parent
from uploader.model import Identity, Snapshot, shown
from uploader.selection import OURS

COPY_BLOCK: Final = 1024 * 1024  # bytes
_NO_LINKS: Final = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent: only a file that is still this may be touched."""

    identity: Identity
    sha256: str
    inode: tuple[int, int] | None  # device, inode; shares hand out new ones, and then the whole content is compared


def delete(root: int, relpath: str, sent: Sent) -> bool:
    """Remove the file at *relpath*. False when it is gone already."""
    with _refusals(relpath, "deleted"):
        found = _still_there(root, relpath, sent)
        if found is None:
            return _finish_removal(root, relpath, sent)
        _remove(root, relpath, found)
        return True


def move(root: int, relpath: str, sent: Sent, target: str) -> bool:
    """Move the file at *relpath* to *target*, an absolute path. False when it is gone already.

    Across file systems: copy, fsync, compare with what was sent, then remove. A *target* that is this very file already
    is a move that was cut short, and is finished.
    """
    with _refusals(relpath, "moved"):
        found = _still_there(root, relpath, sent)
        if found is None:
            return _finish_removal(root, relpath, sent)
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        if not _half_moved(root, relpath, target):
            _give_name(root, relpath, target, sent, found)
        _sync_folder(folder)
        _remove(root, relpath, found)
        return True


def free_target(root: int, relpath: str, move_to: str) -> str:
    """Say where the file goes below *move_to*: the same way below it, numbered if that name is taken.

    A name that a move of this very file has made is its own: the move was cut short before the old one was removed.
    """
    target = os.path.join(move_to, relpath)
    stem, suffix = os.path.splitext(target)
    number = 0
    while os.path.lexists(target) and not _half_moved(root, relpath, target):
        number += 1
        target = f"{stem} ({number}){suffix}"
    return target


@contextlib.contextmanager
def _refusals(relpath: str, done: str) -> Iterator[None]:
    """Put a refusal of the disk into words: it is tried again, and the upload stays what it is."""
    try:
        yield
    except OSError as error:
        raise errors.ShareNotReady(f"{shown(relpath)} cannot be {done}: {error.strerror}") from None


def _still_there(root: int, relpath: str, sent: Sent) -> Snapshot | None:
    """Return what is there now if it is still the file that was sent, None when nothing is; else ``FileChanged``."""
    try:
        with in_our_words(relpath):
            now = snapshot(root, relpath)
    except errors.FileMissing:
        return None
    except errors.NotAFile:
        raise _changed(relpath) from None
    if now.identity != sent.identity:
        raise _changed(relpath)
    if now.inode != sent.inode and sha256(root, relpath) != sent.sha256:
        raise _changed(relpath)  # equal ends, size and time prove nothing about the middle
    return now


def _changed(relpath: str) -> errors.FileChanged:
    return errors.FileChanged(f"{shown(relpath)} is no longer the file that was sent")


def _remove(root: int, relpath: str, found: Snapshot) -> None:
    """Remove the name of the file that was *found*, and of no other."""
    with parent(root, relpath) as (folder, name):
        aside = _aside(name)
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
        if not _is(found, os.stat(aside, dir_fd=folder, follow_symlinks=False)):
            _put_back(folder, aside, name)
            raise _changed(relpath)
        os.unlink(aside, dir_fd=folder)


def _is(found: Snapshot, status: os.stat_result) -> bool:
    """True when *status* is that of the file that was found. Its inode alone may be that of its successor already."""
    now = (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns
    return now == (found.inode, found.identity.size, found.identity.mtime_ns)


def _finish_removal(root: int, relpath: str, sent: Sent) -> bool:
    """Remove what a crash left aside between the two steps of a removal. False when there is none."""
    try:
        with parent(root, relpath) as (folder, name):
            aside = _aside(name)
            beside = os.path.join(os.path.dirname(relpath), aside)
            if _still_there(root, beside, sent) is None:
                return False
            os.unlink(aside, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except errors.FileChanged:  # set aside, and the crash came before it was looked at
        with parent(root, relpath) as (folder, name):
            _put_back(folder, _aside(name), name)
        raise
    return True


def _put_back(folder: int, aside: str, name: str) -> None:
    """Give a file that was set aside its name again; should that be taken by now, one beside it."""
    (stem, suffix), number, again = os.path.splitext(name), 0, name
    while True:
        try:
            os.link(aside, again, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            number += 1
            again = f"{stem} ({number}){suffix}"
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            return os.unlink(aside, dir_fd=folder)


def _aside(name: str) -> str:
    """Name for a file that is about to be removed: the same after a crash, and never too long."""
    return f"{OURS}{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.gone"


def _half_moved(root: int, relpath: str, target: str) -> bool:
    """True when a move has made *target* already: as the file's second name, or as a copy equal to the last byte.

    Never true of what may be the first name seen another way (a link or a second mount leads to its folder):
    removing one would remove both.
    """
    try:
        with parent(root, relpath) as (folder, name):
            here, there = os.stat(name, dir_fd=folder, follow_symlinks=False), os.lstat(target)
            if os.path.samestat(here, there):
                same_folder = os.path.samestat(os.fstat(folder), os.stat(os.path.dirname(target)))
                return not same_folder or name != os.path.basename(target)
        one_file = here.st_ino == there.st_ino or here.st_ctime_ns == there.st_ctime_ns
        alike = here.st_size == there.st_size and not one_file
        return alike and sha256(root, relpath) == _sha256_at(target)
    except (OSError, errors.UploaderError):
        return False


def _give_name(root: int, relpath: str, target: str, sent: Sent, found: Snapshot) -> None:
    with parent(root, relpath) as (folder, name):
        try:
            os.link(name, target, src_dir_fd=folder, follow_symlinks=False)  # unlike rename, it refuses to overwrite
        except OSError as error:
            # Another file system or mount, one without links, or too many of them already.
            if error.errno not in _NO_LINKS:
                raise
            _copy(folder, name, target, sent.sha256)
        else:
            if not _is(found, os.lstat(target)):  # its name was taken while we looked
                os.unlink(target)
                raise _changed(relpath)


def _copy(folder: int, name: str, target: str, digest: str) -> None:
    """Copy to another file system: durable and proved equal before the target's name appears."""
    # A name that is ours alone: what a crash leaves under it may be thrown away, and a long name fits too.
    temporary = os.path.join(os.path.dirname(target), f"{OURS}{digest[:16]}.part")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        fd = open_regular(name, dir_fd=folder)
        with os.fdopen(fd, "rb") as source, open(temporary, "xb") as copy:
            shutil.copyfileobj(source, copy, COPY_BLOCK)
            copy.flush()
            with contextlib.suppress(OSError):  # times and rights, where that file system keeps such
                _copy_times_and_rights(source.fileno(), copy.fileno())
            os.fsync(copy.fileno())
        _prove_copy(temporary, target, digest)
        os.rename(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _copy_times_and_rights(source: int, copy: int) -> None:
    status = os.fstat(source)
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.fchmod(copy, status.st_mode & 0o7777)


def _prove_copy(temporary: str, target: str, digest: str) -> None:
    if _sha256_at(temporary) != digest:
        raise OSError(errno.EIO, "the copy differs from what was sent")
    if os.path.lexists(target):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def _sha256_at(path: str) -> str:
    """Hash a whole file outside the share: where it was moved to."""
    with open(path, "rb", opener=open_regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, FOLDER)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

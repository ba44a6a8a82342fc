"""Gives names to files without ever overwriting one, and makes names durable.

Never takes a name that another file has. In one step this is possible by a hard link (refused when the name is taken),
or by renameat2(2) with RENAME_NOREPLACE (exFAT, SMB). On a file system with neither, a file in a watched folder gets a
name with 64 random bits, which no other program can have chosen. In an archive, where only this program writes, an
empty file claims the wanted name first (O_EXCL) and is then replaced.

All functions block, and work in open folders.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Final

from uploader.files import syscalls
from uploader.files.safe_open import FOLDER

# Another file system or mount, one without links, or too many links already.
NO_LINKS: Final = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_NO_NOREPLACE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
_NO_FOLDER_FSYNC: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})  # names are written through there
FILE_NAME_LIMIT: Final = 255  # bytes of a name on all common file systems (limits.h, NAME_MAX)

Unique = Callable[[], str]  # returns 16 random hexadecimal digits
LastResort = Callable[[int, str, str], str]  # folder, old name, wanted name; returns the new one


def fitted(stem: str, tail: str, limit: int = FILE_NAME_LIMIT) -> str:
    """Return *stem* and *tail* as one name of at most *limit* bytes; a longer stem is cut between two characters."""
    available = limit - len(os.fsencode(tail))
    while stem and len(os.fsencode(stem)) > available:
        stem = stem[:-1]
    return stem + tail


def numbered(name: str) -> Iterator[str]:
    """Yield *name*, then ``name (1)``, ``name (2)`` … with the suffix where it was."""
    yield name
    stem, suffix = os.path.splitext(name)
    number = 0
    while True:
        number += 1
        yield fitted(stem, f" ({number}){suffix}")


def status_at(folder: int, name: str) -> os.stat_result | None:
    """Return the status of the entry *name* in an open folder; None when there is none. Does not follow links."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_inode(status: os.stat_result | None, other: os.stat_result) -> bool:
    """True when both belong to the same inode."""
    return status is not None and (status.st_dev, status.st_ino) == (other.st_dev, other.st_ino)


def reveal(folder: int, hidden: str, wanted: str, last_resort: LastResort, *, source: int | None = None) -> str:
    """Rename our own hidden file *hidden* to *wanted*, or to the next free name beside it; return that name.

    *source*: the open folder that it lies in, if it is not *folder* itself. *last_resort* is used where neither links
    nor RENAME_NOREPLACE work: ``unguessably`` or ``by_claim``. After a crash between the two steps the file has both
    names already; then only *hidden* is removed.
    """
    source = folder if source is None else source
    itself = os.stat(hidden, dir_fd=source, follow_symlinks=False)
    for name in numbered(wanted):
        try:
            _move_to_free_name(source, hidden, folder, name)
        except FileExistsError:
            if not is_inode(status_at(folder, name), itself):
                continue
            os.unlink(hidden, dir_fd=source)
        except OSError as error:
            if error.errno not in _NO_NOREPLACE:
                raise
            return last_resort(folder, hidden, wanted)
        return name
    raise AssertionError("there is always another number")


def _move_to_free_name(source: int, old: str, folder: int, new: str) -> None:
    """Move a file from one open folder to a name in another if that is free, else raise ``FileExistsError``."""
    try:
        os.link(old, new, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        syscalls.rename_noreplace(source, old, folder, new)
    else:
        os.unlink(old, dir_fd=source)


def unguessably(unique: Unique, source: int) -> LastResort:
    """Return a ``LastResort`` that adds random digits to the name: for watched folders, where others make files too.

    *source*: the open folder that the file lies in.
    """

    def rename(folder: int, old: str, wanted: str) -> str:
        stem, suffix = os.path.splitext(wanted)
        new = fitted(stem, f" ({unique()}){suffix}")
        os.rename(old, new, src_dir_fd=source, dst_dir_fd=folder)
        return new

    return rename


def by_claim(folder: int, old: str, wanted: str) -> str:
    """Rename by replacing an empty file that claims the name: for archives. A crash may leave the empty file behind."""
    for name in numbered(wanted):
        try:
            fd = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
        except FileExistsError:
            continue
        try:
            claim = os.fstat(fd)
        finally:
            os.close(fd)
        now = status_at(folder, name)
        if now is None or not is_inode(now, claim) or now.st_size:  # another program writes here after all
            continue
        os.rename(old, name, src_dir_fd=folder, dst_dir_fd=folder)
        return name
    raise AssertionError("there is always another number")


def sync_folder(folder: int) -> None:
    """Make the names in an open folder durable. Raises ``OSError``, but not where folders cannot be synced at all."""
    fd = os.open(".", FOLDER, dir_fd=folder)  # handles of folders below a share are O_PATH, which fsync refuses
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def folder_below(root: int, relpath: str) -> Iterator[int]:
    """Hold open the folder at *relpath* below an open folder, made durably if it is missing. "": the folder itself.

    Follows links, since archives belong to the operator.
    """
    handle = os.open(".", FOLDER, dir_fd=root)
    try:
        for name in filter(None, relpath.split("/")):
            try:
                below = os.open(name, FOLDER, dir_fd=handle)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=handle)
                sync_folder(handle)
                below = os.open(name, FOLDER, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)

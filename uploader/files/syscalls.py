"""System calls that disposal needs and that ``os`` does not offer in this form.

They have a module of their own so that the simulated worlds can replace them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Final

RENAME_NOREPLACE: Final = 1  # linux/fs.h
_FOLDER: Final = "/proc/self/fd"


def rename_noreplace(source: int, old: str, folder: int, new: str) -> None:
    """Rename from the open folder *source* into another one, or within it, but only to a free name: renameat2(2).

    Raises ``FileExistsError`` when *new* is taken; ``OSError`` with EINVAL, ENOSYS or ENOTSUP where the kernel or the
    file system cannot do it.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # no C library, or one without this call
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if call(source, os.fsencode(old), folder, os.fsencode(new), RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


def open_unnamed(folder: int) -> int | None:
    """Open a new file without a name in an open folder; None where the file system has no such files.

    The file is gone when the process ends, so a crash leaves nothing behind.
    """
    if not os.path.isdir(_FOLDER):  # without /proc it could never be given a name
        return None
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError:  # each file system refuses with another error: EOPNOTSUPP, EISDIR, EINVAL
        return None


def link_unnamed(fd: int, folder: int, name: str) -> None:
    """Give a file of ``open_unnamed`` a name. Raises ``FileExistsError`` when it is taken, and ``OSError``."""
    os.link(f"{_FOLDER}/{fd}", name, dst_dir_fd=folder, follow_symlinks=True)


def lock(fd: int) -> bool:
    """Lock an open file for as long as it is open. False when it is locked already, or locks are not supported."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

"""Finds out whether a process on this host has a file open for writing: then it is certainly not finished.

Size, time and content of a file can stay the same for minutes while a copy stalls or a recorder pauses. Works on local
file systems only: on a cifs mount the kernel grants the lease while another client writes (measured).

A lease is released at once, since a writer that opens the file meanwhile has to wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable, Iterator
from typing import Final

_F_SETSIG: Final = 10  # fcntl(2)
_WRITE_MODES: Final = (os.O_WRONLY, os.O_RDWR)

Inode = tuple[int, int]  # device, inode
Table = Callable[[], "frozenset[Inode]"]


def held_by_writer(fd: int, table: Table) -> bool:
    """True when a process has the open file *fd* open or mapped for writing too, as far as this user can see.

    A read lease is refused while there is a writer (fcntl(2), EAGAIN). A user who does not own the file may not ask
    for one (EACCES); then *table* decides: the files that /proc shows as open for writing.
    """
    with contextlib.suppress(OSError):
        # A writer that opens the file within these microseconds breaks the lease by a signal. SIGIO, the default one,
        # would end the process.
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EWOULDBLOCK}:
            return True
        if error.errno in {errno.EACCES, errno.EPERM}:
            status = os.fstat(fd)
            return (status.st_dev, status.st_ino) in table()
        return False  # a file system without leases
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def open_for_writing() -> frozenset[Inode]:
    """Return every regular file that is open for writing in a process whose handles this user may see.

    Blocks for some ten milliseconds on a busy host; callers that ask often should keep the answer for a while.
    """
    return frozenset(_handles())


def _handles() -> Iterator[Inode]:
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or this user may not look at it
            for handle in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{process}/fd/{handle}")
                    if stat.S_ISREG(status.st_mode) and _writes(process, handle):
                        yield status.st_dev, status.st_ino


def _writes(process: str, handle: str) -> bool:
    with open(f"/proc/{process}/fdinfo/{handle}", encoding="ascii") as file:
        flags = next((line.split()[1] for line in file if line.startswith("flags:")), "0")
    return int(flags, 8) & os.O_ACCMODE in _WRITE_MODES

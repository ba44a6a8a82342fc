"""The recordings on disk, and the folders they lie in: the only code that touches either.

    share.py           what the stages need of a watched folder: the port
    mounted.py         the real one: is it there and the same, then by handle
    mounts.py          which file system it is on; events or polling
    runtime/threads.py     what hangs in a share, hangs alone
    walk.py            finding files, without links, in batches
    safe_open.py       the one way to a file: beneath a handle, regular, never waiting
    inspection.py      inode, identity, container, sha256
    open_writers.py    who still has it open for writing
    recording.py       open for sending: read once, hashed on the way
    sending.py         what a thread does of it: to a hash, to a socket, to a block
    shared_fd.py       a descriptor that is not closed under a thread
    watching.py        events of a large tree, heard by a process of their own
    dispose.py         deleted or moved, if it is still what was sent
    disposal.py        the table of what ``after_upload`` can be
    set_aside.py       removing a name only if it is that of the file that was looked at
    copying.py         a copy on another file system
    naming.py          names given without overwriting, and made durable
    archive.py         the folder that files are moved to
    mount_identity.py  a folder is known again by where it lies
    syscalls.py        system calls that ``os`` does not offer

Must never change a recording's bytes. Every ``OSError`` about a file leaves as an error of ours.

Touches: the watched folders and move_to; /proc for mounts and open files.
Imports: config, container, domain, runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from uploader.files.archive import Archives
from uploader.files.disposal import DISPOSALS, Disposal, Done, Request
from uploader.files.dispose import SentFile
from uploader.files.inspection import look
from uploader.files.mounted import MountedShare
from uploader.files.mounts import Mode
from uploader.files.recording import Bookmark, Recording
from uploader.files.safe_open import folder_problem, kind_of
from uploader.files.share import Share, ShareStatus
from uploader.files.threads import ShareThreads
from uploader.files.walk import WalkBatch, WalkFilter, walk_filter
from uploader.files.watching import changes_below

__all__ = [
    "DISPOSALS",
    "Archives",
    "Bookmark",
    "Disposal",
    "Done",
    "Mode",
    "MountedShare",
    "Recording",
    "Request",
    "SentFile",
    "Share",
    "ShareStatus",
    "ShareThreads",
    "Shares",
    "WalkBatch",
    "WalkFilter",
    "changes_below",
    "folder_problem",
    "kind_of",
    "look",
    "walk_filter",
]


class Shares:
    """Every share by the folder it is: the watched ones, and those of files that were named by hand."""

    def __init__(self, make: Callable[[str], Share], roots: Iterable[str] = ()) -> None:
        self._make = make
        self._shares = {root: make(root) for root in roots}

    def of(self, root: str) -> Share:
        """The share that is, or begins at, *root*."""
        return self._shares.get(root) or self._shares.setdefault(root, self._make(root))

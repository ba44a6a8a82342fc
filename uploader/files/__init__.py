"""Access to the recordings on disk and to the folders they lie in. No other code touches either.

    share.py            the port: what the stages need of a watched folder
    mounted.py          the real share: checks the folder, then works below its open handle
    mounts.py           which file system a folder is on; events or polling
    mount_identity.py   recognises a folder by its file system and marker
    threads.py          worker threads per share, so that a hung share blocks only its own calls
    walk.py             finds files in batches, without following links
    watching.py         reads change events from a child process
    watcher_process.py  that child process
    safe_open.py        opens files: below a handle, regular files only, without blocking
    inspection.py       inode, identity, container state, duration, sha256
    companion_files.py  what a program keeps beside a file that it has not finished
    untaken_count.py    counts the files of a folder that no include pattern takes
    open_writers.py     whether a process has a file open for writing
    recording.py        a file open for sending, hashed as it is read
    sending.py          the blocking part of sending: sendfile, hashing, reading
    shared_fd.py        a descriptor that is not closed while a thread uses it
    disposal.py         table of the ``after_upload`` actions
    dispose.py          deletes or moves a file if it is still the one that was sent
    set_aside.py        removes a file from a hidden folder after checking it again
    copying.py          copies to another file system
    attributes.py       gives a copy the owner, rights, extended attributes and times of its original
    naming.py           gives names without overwriting, and makes them durable
    archive.py          the folder that files are moved to
    syscalls.py         system calls that ``os`` does not offer

Never changes a recording's bytes. Every ``OSError`` about a file leaves as an ``UploaderError``.

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
from uploader.files.untaken_count import count_untaken
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
    "count_untaken",
    "folder_problem",
    "kind_of",
    "look",
    "walk_filter",
]


class Shares:
    """Every share by its root folder: the watched folders, and those of files named on the command line."""

    def __init__(self, make: Callable[[str], Share], roots: Iterable[str] = ()) -> None:
        self._make = make
        self._shares = {root: make(root) for root in roots}

    def of(self, root: str) -> Share:
        """Return the share whose root folder is *root*; made if there is none."""
        return self._shares.get(root) or self._shares.setdefault(root, self._make(root))

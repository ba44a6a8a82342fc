"""The share port: what the stages need of a watched folder.

A share may be a local disk, an NFS or SMB mount, or a bind mount. It may go away, hang, or be replaced by another one.
``mounted.MountedShare`` implements it. Stages touch recordings only through it, never by path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from uploader.domain.model import Identity, MountIdentity, Sighting, Snapshot, WriteState
from uploader.files.dispose import SentFile
from uploader.files.mounts import Mount
from uploader.files.recording import Recording
from uploader.files.walk import WalkBatch, WalkFilter


@dataclass(frozen=True, slots=True)
class ShareStatus:
    """Whether a share can be used. ``away``: why it cannot, empty when it can. ``inode``: that of its folder."""

    away: str = ""
    mount: Mount | None = None
    inode: tuple[int, int] | None = None

    @property
    def local(self) -> bool:
        """True when this kernel sees everything that happens there."""
        return self.mount is None or not self.mount.network


class Share(Protocol):
    """What the stages need of a watched folder. Paths are absolute; every call may raise ``ShareNotReady``."""

    root: str
    identity: MountIdentity | None  # the one it had when recordings were first seen in it; None when not known yet

    @property
    def status(self) -> ShareStatus:
        """The result of the last check."""

    @property
    def not_kept(self) -> Collection[str]:
        """What of owner, group, rights, times and attributes its copies in another file system could not keep."""

    async def check(self) -> ShareStatus:
        """Check that it is there and still the same: before each scan, and after a call has failed."""

    def accept_new_mount(self) -> None:
        """Forget the known identity: the operator accepts whatever file system is found next."""

    async def record_identity(self) -> MountIdentity | None:
        """Return its identity for the state to remember, and write a marker where one is needed to recognise it."""

    def walk(self, walk_filter: WalkFilter) -> AsyncIterator[WalkBatch]:
        """Walk the folder, batch by batch. Raises ``ShareNotReady`` at the end when parts could not be read."""

    async def look(self, paths: Collection[str]) -> list[tuple[str, Sighting | str]]:
        """Look at some inodes: a ``Sighting`` of each regular file; else the kind (``missing``, ``folder`` …)."""

    async def snapshot(self, path: str) -> Snapshot:
        """Take a file's identity. Raises ``FileMissing``, ``NotAFile``."""

    async def write_state(self, path: str, *, gate: bool) -> WriteState:
        """Find out whether a file is closed by its writer and its recorder. Raises ``FileMissing``, ``NotAFile``."""

    async def sha256(self, path: str) -> str:
        """Hash a whole file. Raises ``FileMissing``, ``NotAFile``."""

    async def duration(self, path: str, identity: Identity) -> float | None:
        """Return the seconds that a file's container states.

        None when it states none, and when the file is missing, or not the one of *identity* by its size and mtime.
        """

    def open(self, path: str, identity: Identity) -> AbstractAsyncContextManager[Recording]:
        """Open a recording for sending. Raises ``FileMissing``, ``NotAFile``, ``FileChanged``."""

    async def delete(self, path: str, sent: SentFile) -> bool:
        """Delete a file that was sent; False when it is gone. Raises ``FileChanged``."""

    async def free_target(self, path: str, sent: SentFile, move_to: str) -> str:
        """Choose the path below *move_to* that a move would give a file; the caller saves it before ``move``."""

    async def move(self, path: str, sent: SentFile, move_to: str, target: str) -> str | None:
        """Move a file that was sent to *target* below the archive *move_to*, or to the next free name beside it.

        Returns the new path of the file; None when it is gone. With the same *target*, a move that was interrupted is
        finished under the name that it had given. Raises ``FileChanged``, and ``ShareNotReady`` when *move_to* is on
        another file system than at its first use.

        Like ``delete``, it returns from a cancellation only when nothing touches the file any more. On a share that
        hangs this may take as long as the hang; the caller must bound it.
        """

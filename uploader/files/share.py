"""What the house needs of a watched folder: the port behind which every recording lies.

A share may be a local disk, an NFS or SMB mount, a bind mount; it may go away, hang, or be another one tomorrow.
``mounted.MountedShare`` is the real one. Must never be gone around: no stage touches a recording by its path.
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
    """How a share stands. ``away``: why it is not to be touched, empty when it is there. ``inode``: of its folder."""

    away: str = ""
    mount: Mount | None = None
    inode: tuple[int, int] | None = None

    @property
    def local(self) -> bool:
        """True when our kernel sees everything that happens there."""
        return self.mount is None or not self.mount.network


class Share(Protocol):
    """What the stages need of a watched folder. Paths are absolute; every call may raise ``ShareNotReady``."""

    root: str
    identity: MountIdentity | None  # where it lay when recordings were seen in it

    @property
    def status(self) -> ShareStatus:
        """How it stood when it was checked last."""

    async def check(self) -> ShareStatus:
        """Look whether it is there, and the same: before each scan, and when a call failed."""

    def accept_new_mount(self) -> None:
        """Take it as it is found next, although another share stood there before: the operator says so."""

    async def record_identity(self) -> MountIdentity | None:
        """Say where it lies, for the state to remember, and mark it where that is needed to know it again."""

    def walk(self, walk_filter: WalkFilter) -> AsyncIterator[WalkBatch]:
        """Walk through it; the last batch is followed by the end, or by ``ShareNotReady`` when it was not whole."""

    async def look(self, paths: Collection[str]) -> list[tuple[str, Sighting | str]]:
        """Look at some inodes: what each regular file is, and of anything else its kind (``missing``, ``folder`` …)."""

    async def snapshot(self, path: str) -> Snapshot:
        """Take a file's identity. Raises ``FileMissing``, ``NotAFile``."""

    async def write_state(self, path: str, *, gate: bool) -> WriteState:
        """Ask whether its writer and its recorder have closed a file. Raises ``FileMissing``, ``NotAFile``."""

    async def sha256(self, path: str) -> str:
        """Hash a whole file. Raises ``FileMissing``, ``NotAFile``."""

    def open(self, path: str, identity: Identity) -> AbstractAsyncContextManager[Recording]:
        """Open a recording for sending. Raises ``FileMissing``, ``NotAFile``, ``FileChanged``."""

    async def delete(self, path: str, sent: SentFile) -> bool:
        """Remove a file that was sent; False when it is gone. Raises ``FileChanged``."""

    async def free_target(self, path: str, sent: SentFile, move_to: str) -> str:
        """Say where a move would put a file below *move_to*: for the caller to save before ``move``."""

    async def move(self, path: str, sent: SentFile, move_to: str, target: str) -> str | None:
        """Move a file that was sent to *target* below the archive *move_to*, or to the next free name beside it.

        Returns where the file is now; None when it is gone. With the same *target*, a move that was cut short is
        finished under the name that it had given. Raises ``FileChanged``, and ``ShareNotReady`` when another file
        system is at *move_to* than when it was first used.

        Like ``delete``, it is not abandoned half-way: cancelled, it passes the cancellation on when nothing touches
        the file any more. A share that hangs makes that wait as long; whoever cancels must bound it.
        """

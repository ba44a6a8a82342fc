"""Finds out which file system a folder lies on, and whether the kernel reports all changes there.

inotify reports only what this host writes. On a network mount it reports nothing of other hosts' changes (measured
with cifs, nfs4, sshfs, rclone). Reads /proc and nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from uploader.domain.model import MountIdentity

# Other hosts may write to these without this kernel's knowledge, and to every ``fuse.*``. ``fuseblk`` is a local disk.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "coda", "drvfs", "fuse", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs"}
)
INOTIFY_FILL_LIMIT: Final = 0.9  # of an inotify limit: other programs on this host need watches too
INOTIFY: Final = Path("/proc/sys/fs/inotify")

ReadText = Callable[[], str]


def read_mountinfo() -> str:
    """Return the mount table of this process: proc(5), /proc/self/mountinfo."""
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    id: int
    root: str  # the folder of the file system that is mounted
    point: str  # where it is mounted
    fstype: str
    source: str

    @property
    def network(self) -> bool:
        """True when other hosts may write there without this kernel's knowledge."""
        return self.fstype in NETWORK_FILE_SYSTEMS or self.fstype.startswith("fuse.")


def parse(text: str) -> dict[int, Mount]:
    """Read a mount table, by mount id; malformed lines are skipped."""
    mounts = {}
    for line in text.splitlines():
        fields, _, tail = line.partition(" - ")
        first, last = fields.split(" "), tail.split(" ")
        if len(first) >= 5 and len(last) >= 2 and first[0].isdigit():
            mount = Mount(int(first[0]), _plain(first[3]), _plain(first[4]), last[0], _plain(last[1]))
            mounts[mount.id] = mount
    return mounts


def _plain(field: str) -> str:
    r"""Undo the kernel's escapes of blank, tab, line feed and backslash: ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mount_of(fd: int, table: ReadText = read_mountinfo) -> Mount | None:
    """Return the mount that an open folder lies on; None where /proc does not show it."""
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
        match = re.search(r"^mnt_id:\s*(\d+)", info, re.MULTILINE)
        return parse(table()).get(int(match[1])) if match else None
    except OSError:
        return None


def identity_of(root: str, fd: int, mount: Mount | None) -> MountIdentity:
    """Return the identity of the folder *root*, open as *fd*, without its marker."""
    if mount is None:
        return MountIdentity(root, "", "", "")
    below = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), mount.point)
    inner = os.path.normpath(os.path.join(mount.root, below))
    return MountIdentity(root, mount.fstype, mount.source if mount.network else "", inner)


@dataclass(frozen=True, slots=True)
class Mode:
    """How a folder is watched, and why. Both modes scan; ``events`` adds change events."""

    events: bool
    why: str

    def __str__(self) -> str:
        return f"{'events and scans' if self.events else 'scans alone'} ({self.why})"


def mode_for(configured: Literal["auto", "events", "poll"], mount: Mount | None) -> Mode:
    """Choose between events and polling for a folder on *mount*."""
    if configured != "auto":
        return Mode(configured == "events", f'mode = "{configured}"')
    if mount is None:
        return Mode(events=True, why="the file system is not known")
    if mount.network:
        return Mode(events=False, why=f"{mount.fstype}: events report only what this host writes")
    return Mode(events=True, why=f"{mount.fstype} is local")


def inotify_limit(name: str, folder: Path = INOTIFY) -> int | None:
    """Return ``max_user_watches``, ``max_user_instances`` or ``max_queued_events``; None where it cannot be read."""
    try:
        return int((folder / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def too_many_folders(folders: int, limit: int | None) -> str:
    """Explain why inotify cannot watch so many folders (one watch each), and what to do; empty when it can.

    Reaching the limit while running is silent (49 of 100 new folders were watched), so it is checked beforehand.
    """
    if limit is None or folders < INOTIFY_FILL_LIMIT * limit:
        return ""
    return (
        f"{folders} folders need a watch each, and fs.inotify.max_user_watches = {limit}; "
        f"sysctl fs.inotify.max_user_watches={max(2 * folders, 2 * limit)} brings events back"
    )


def out_of_inotify(text: str) -> str:
    """Name the sysctl behind a watcher's error *text*; empty when the error has another cause."""
    if "watch limit reached" in text:
        return f"no inotify watch is left; raise fs.inotify.max_user_watches (now {inotify_limit('max_user_watches')})"
    if "os error 24" in text or "Too many open files" in text:
        limit = inotify_limit("max_user_instances")
        return f"no inotify instance is left; raise fs.inotify.max_user_instances (now {limit})"
    return ""

"""Knows a folder again: by the file system it lies on, its place in there, and on network shares by a marker file.

One way for watched folders and for archives: where it lay when it was first used is remembered in the state, and a
folder that lies elsewhere now is refused until the operator says that it is right (``retry FOLDER``). Must never write
into a folder that is known and is another one. All of it blocks.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from typing import Final

from uploader.domain import errors, selection
from uploader.domain.model import MountIdentity
from uploader.files import mounts, safe_open
from uploader.files.mounts import Mount, ReadText, read_mountinfo

MARKER_NAME: Final = f"{selection.HIDDEN_PREFIX}share"  # holds the id by which a network share is known again


def mount_problem(known: MountIdentity | None, path: str, fd: int, mount: Mount | None) -> str:
    """Say that another file system or share stands at *path*, open as *fd*, than is *known*; else nothing."""
    if known is None:
        return ""
    if mount is None:
        return f"{path}: the mount table does not tell what stands there; it was {known}"
    seen = mounts.identity_of(path, fd, mount)
    how = f"if that is right: valt-uploader retry {path}"
    if seen != replace(known, marker=""):
        return f"{path}: another file system is there than before; {how}; before: {known}; now: {seen}"
    if known.marker and (marker := _read_marker(fd)) != known.marker:
        what = "has another marker" if marker else "has no marker"
        return f"{path}: the share there {what} ({MARKER_NAME}), so it may be another one; {how}"
    return ""


def identify_mount(path: str, fd: int, table: ReadText = read_mountinfo) -> MountIdentity | None:
    """Say where the folder at *path*, open as *fd*, lies; a network share is given a marker, where it takes one."""
    mount = mounts.mount_of(fd, table)
    if mount is None:
        return None
    home = mounts.identity_of(path, fd, mount)
    return replace(home, marker=_marked(fd)) if mount.network else home


def _read_marker(folder: int) -> str:
    """Return what the marker in an open folder says; empty when there is none."""
    try:
        fd = safe_open.open_regular(MARKER_NAME, dir_fd=folder)
    except (OSError, errors.NotAFile):
        return ""
    with os.fdopen(fd, "rb") as file:
        return file.read(64).decode("ascii", "replace").strip()


def _marked(folder: int) -> str:
    """Return the marker of an open folder, made if it has none; empty where none can be made."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    marker = uuid.uuid4().hex
    try:
        fd = os.open(MARKER_NAME, flags, 0o644, dir_fd=folder)
    except FileExistsError:
        return _read_marker(folder)
    except OSError:  # a share that is only read, or full: it is known by its source alone
        return ""
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{marker}\n")
    return marker

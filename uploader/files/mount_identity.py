"""Recognises a folder by its file system, its place in there and, on network shares, a marker file.

Watched folders and archives are treated alike. The state remembers the mount identity of a folder at its first use. A
folder with another identity is refused until the operator accepts it (``retry FOLDER``). Never writes into a folder
that does not match its known identity. All functions block.
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

MARKER_NAME: Final = f"{selection.HIDDEN_PREFIX}share"  # holds the id by which a network share is recognised


def mount_problem(known: MountIdentity | None, path: str, fd: int, mount: Mount | None) -> str:
    """Explain how the folder at *path*, open as *fd*, differs from its *known* identity; "" if it does not."""
    if known is None:
        return ""
    if mount is None:
        return f"{path}: the mount table does not show its file system; it was {known}"
    seen = mounts.identity_of(path, fd, mount)
    how = f"if that is right: valt-uploader retry {path}"
    if seen != replace(known, marker=""):
        return f"{path}: another file system is there than before; {how}; before: {known}; now: {seen}"
    if known.marker and (marker := _read_marker(fd)) != known.marker:
        what = "has another marker" if marker else "has no marker"
        return f"{path}: the share there {what} ({MARKER_NAME}), so it may be another one; {how}"
    return ""


def identify_mount(path: str, fd: int, table: ReadText = read_mountinfo) -> MountIdentity | None:
    """Return the identity of the folder at *path*, open as *fd*; a network share gets a marker if it is writable."""
    mount = mounts.mount_of(fd, table)
    if mount is None:
        return None
    identity = mounts.identity_of(path, fd, mount)
    return replace(identity, marker=_marked(fd)) if mount.network else identity


def _read_marker(folder: int) -> str:
    """Return the id in the marker of an open folder; empty when there is none."""
    try:
        fd = safe_open.open_regular(MARKER_NAME, dir_fd=folder)
    except (OSError, errors.NotAFile):
        return ""
    with os.fdopen(fd, "rb") as file:
        return file.read(64).decode("ascii", "replace").strip()


def _marked(folder: int) -> str:
    """Return the id of an open folder's marker, made if there is none; empty where none can be made."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    marker = uuid.uuid4().hex
    try:
        fd = os.open(MARKER_NAME, flags, 0o644, dir_fd=folder)
    except FileExistsError:
        return _read_marker(folder)
    except OSError:  # a share that is read-only, or full: it is recognised by its source alone
        return ""
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{marker}\n")
    return marker

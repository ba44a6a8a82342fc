"""The folder that finished files are moved to, opened only while it is the one that it was at its first use.

A folder below a mount point whose disk is not mounted lies on another file system: moved there, the only copy of a
recording would fill the wrong disk and vanish below the mount. Where an archive lay is remembered as it is for watched
folders (``homes``). Must never make a folder on another file system than the one that is known. All of it blocks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol

from uploader.domain import errors
from uploader.domain.model import MountIdentity
from uploader.files import mount_identity, mounts
from uploader.files.dispose import Archive
from uploader.files.mounts import ReadText, read_mountinfo
from uploader.files.naming import folder_below
from uploader.files.safe_open import FOLDER
from uploader.files.walk import in_words


class Archives(Protocol):
    """Where the archives lay when they were first used, as the state remembers it."""

    def identity_of(self, path: str) -> MountIdentity | None:
        """Where the archive *path* lay; None when it was never used, or the operator has accepted another one."""

    async def remember(self, identity: MountIdentity) -> None:
        """Remember where an archive lies; it is durable when this returns."""


class NoArchives:
    """Nothing is remembered: every archive is taken as it is found."""

    def identity_of(self, path: str) -> MountIdentity | None:
        """Know none."""
        del path
        return None

    async def remember(self, identity: MountIdentity) -> None:
        """Forget it."""


@contextlib.contextmanager
def opened_archive(path: str, known: MountIdentity | None, table: ReadText = read_mountinfo) -> Iterator[Archive]:
    """Hold the archive at *path* open, made if it is missing. Raises ``ShareNotReady`` when it is another."""
    with contextlib.ExitStack() as stack:
        try:
            above, missing = _nearest(path)
            stack.callback(os.close, above)
            if away := _mount_problem(known, path, above, missing, table):
                raise errors.ShareNotReady(away)
            handle = stack.enter_context(folder_below(above, missing))
        except OSError as error:
            raise errors.ShareNotReady(f"files cannot be moved there: {in_words(path, error)}") from None
        yield Archive(handle, path)


def first_identity(path: str, table: ReadText = read_mountinfo) -> MountIdentity | None:
    """Say where an archive lies that is not known yet; it is made if it is missing. Raises ``ShareNotReady``."""
    with opened_archive(path, None, table) as archive:
        return mount_identity.identify_mount(path, archive.handle, table)


def _nearest(path: str) -> tuple[int, str]:
    """Open the folder at *path*, or the nearest one above it that is there; and say what is missing below that."""
    missing: list[str] = []
    while True:
        try:
            return os.open(path, FOLDER), "/".join(reversed(missing))
        except FileNotFoundError:
            path, name = os.path.split(path.rstrip("/"))
            missing.append(name)


def _mount_problem(known: MountIdentity | None, path: str, above: int, missing: str, table: ReadText) -> str:
    """Say that the archive, or the place where it was, lies elsewhere now; else nothing."""
    mount = mounts.mount_of(above, table)
    if known is None or not missing:
        return mount_identity.mount_problem(known, path, above, mount)
    how = f"if that is right: valt-uploader retry {path}"
    if known.marker:
        return f"{path}: is missing; it was {known}; {how}"
    if mount is None:
        return f"{path}: is missing, and the mount table does not tell what stands there; it was {known}; {how}"
    seen = mounts.identity_of(path, above, mount)
    now = MountIdentity(path, seen.fstype, seen.source, os.path.join(seen.inner, missing))
    if now != known:
        return f"{path}: is missing, and another file system is there than before; {how}; before: {known}; now: {now}"
    return ""

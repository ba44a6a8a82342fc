"""Opens the archive, the folder that finished files are moved to, if it is still on the file system of its first use.

While the archive's disk is not mounted, its path lies on another file system. A recording moved there would fill the
wrong disk, and would be hidden as soon as the disk is mounted again. So the state remembers the mount identity of each
archive, as it does for watched folders. Never makes a folder on another file system than the known one.

All functions block.
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
    """The mount identities of the archives at their first use, as the state remembers them."""

    def identity_of(self, path: str) -> MountIdentity | None:
        """Return the known identity of the archive *path*; None if never used, or if the operator accepted a change."""

    async def remember(self, identity: MountIdentity) -> None:
        """Remember an archive's identity; it is durable when this returns."""


class NoArchives:
    """Remembers nothing: every archive is accepted as it is found."""

    def identity_of(self, path: str) -> MountIdentity | None:
        """Return None."""
        del path
        return None

    async def remember(self, identity: MountIdentity) -> None:
        """Do nothing."""


@contextlib.contextmanager
def opened_archive(path: str, known: MountIdentity | None, table: ReadText = read_mountinfo) -> Iterator[Archive]:
    """Hold the archive at *path* open, made if it is missing. Raises ``ShareNotReady`` when *known* does not match."""
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
    """Return the identity of an archive that is not known yet; made if it is missing. Raises ``ShareNotReady``."""
    with opened_archive(path, None, table) as archive:
        return mount_identity.identify_mount(path, archive.handle, table)


def _nearest(path: str) -> tuple[int, str]:
    """Open the folder at *path*, or its nearest existing parent; return it, and the path that is missing below it."""
    missing: list[str] = []
    while True:
        try:
            return os.open(path, FOLDER), "/".join(reversed(missing))
        except FileNotFoundError:
            path, name = os.path.split(path.rstrip("/"))
            missing.append(name)


def _mount_problem(known: MountIdentity | None, path: str, above: int, missing: str, table: ReadText) -> str:
    """Explain why the archive, or its nearest existing parent, is not on the known file system; "" if it is."""
    mount = mounts.mount_of(above, table)
    if known is None or not missing:
        return mount_identity.mount_problem(known, path, above, mount)
    how = f"if that is right: valt-uploader retry {path}"
    if known.marker:
        return f"{path}: is missing; it was {known}; {how}"
    if mount is None:
        return f"{path}: is missing, and the mount table does not show its file system; it was {known}; {how}"
    seen = mounts.identity_of(path, above, mount)
    now = MountIdentity(path, seen.fstype, seen.source, os.path.join(seen.inner, missing))
    if now != known:
        return f"{path}: is missing, and another file system is there than before; {how}; before: {known}; now: {now}"
    return ""

"""Helpers for shares and their files that take a path."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from uploader.domain.model import Identity, Sighting
from uploader.files import MountedShare, Recording, SentFile, WalkFilter, dispose, safe_open
from uploader.files.archive import opened_archive
from uploader.files.set_aside import Disposer
from uploader.files.walk import PathPredicate, Walk, match_nothing
from uploader.runtime.clock import SystemClock


def share_of(root: str | Path) -> MountedShare:
    """Return the share at *root*."""
    return MountedShare(str(root), SystemClock())


async def identify(path: str | Path) -> Identity:
    """Return the identity of the file at *path*."""
    return (await share_of(Path(path).parent).snapshot(str(path))).identity


def sha256_of(path: str | Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.asynccontextmanager
async def opened(path: str | Path, identity: Identity) -> AsyncIterator[Recording]:
    """Open a recording for sending."""
    async with share_of(Path(path).parent).open(str(path), identity) as recording:
        yield recording


@dataclass(frozen=True)
class Scan:
    """The result of one whole walk."""

    root: str
    sightings: tuple[Sighting, ...]
    irregular: tuple[tuple[str, str], ...]
    problem: str | None
    folders: int
    names: int


def scan(
    root: str | Path,
    *,
    takes: PathPredicate = lambda _: True,
    enters: PathPredicate = lambda _: True,
    passes: PathPredicate = match_nothing,
    start: str = "",
) -> Scan:
    """Walk through all of *root*."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        walk = Walk(fd, str(root), WalkFilter(takes, enters, passes, start))
    finally:
        os.close(fd)
    batches = []
    while not walk.done:
        batches.append(walk.step())
    return Scan(
        str(root),
        tuple(seen for batch in batches for seen in batch.sightings),
        tuple(odd for batch in batches for odd in batch.irregular),
        walk.problem,
        sum(batch.folders for batch in batches),
        sum(batch.names for batch in batches),
    )


@contextlib.contextmanager
def _root_of(path: str, root: str | None) -> Iterator[tuple[int, str]]:
    folder = root or str(Path(path).parent)
    fd = safe_open.open_root(folder)
    try:
        yield fd, os.path.relpath(path, folder)
    finally:
        os.close(fd)


def was_sent(path: str | Path, identity: Identity, digest: str) -> SentFile:
    """Return what the state would hold of a file that has just been sent."""
    status = os.lstat(path) if os.path.lexists(path) else None
    return SentFile(identity, digest, None if status is None else (status.st_dev, status.st_ino))


def disposer() -> Disposer:
    """Return the ``Disposer`` that all removals of one run share."""
    return Disposer(lambda: uuid.uuid4().hex[:16], uuid.uuid4().hex[:16])


def delete(path: str, sent: SentFile, by: Disposer | None = None) -> bool:
    """Delete a file as the finish stage does."""
    with _root_of(path, None) as (fd, name):
        return dispose.delete(fd, name, sent, by or disposer())


def move(path: str, sent: SentFile, target: str, by: Disposer | None = None) -> str | None:
    """Move a file as the finish stage does; *target* lies directly in the archive."""
    with _root_of(path, None) as (fd, name), opened_archive(str(Path(target).parent), None) as archive:
        return dispose.move(fd, name, sent, archive, target, by or disposer())


def free_target(path: str, root: str, move_to: str, sent: SentFile) -> str:
    """Choose a free name below *move_to*."""
    with _root_of(path, root) as (fd, relpath):
        return dispose.free_target(fd, relpath, move_to, sent, disposer())

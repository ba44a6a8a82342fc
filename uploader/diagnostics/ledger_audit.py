"""Reads the ledger for the commands ``ledger`` and ``link``: lists and proves it, and compares videos with the server.

Each line holds the hash of the line before it; to prove the ledger is to check this chain. The ledger is never changed.
What is downloaded is hashed and not kept. One or two lines are in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from uploader.app.status import iso
from uploader.domain import errors
from uploader.domain.model import RecordIds, shown
from uploader.domain.units import format_bytes
from uploader.server.port import Server
from uploader.store import LedgerLine
from uploader.store.codec import LedgerHead, StateSnapshot, UnreadableContent, from_json
from uploader.store.disk import StateFolder, may_exist
from uploader.store.ledger import Lines, chain, unusable
from uploader.store.line import IndexKeys
from uploader.store.opening import read_state


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of one ledger line with the server's video. ``equal`` is None when the video is unavailable."""

    line: LedgerLine
    equal: bool | None
    why: str = ""

    def __str__(self) -> str:
        word = {True: "equal", False: "differs", None: "unavailable"}[self.equal]
        return f"{word:<13}{shown(self.line.upload.path)}" + (f": {self.why}" if self.why else "")


def lines(folder: Path) -> Iterator[LedgerLine]:
    """Yield the lines of the ledger that are proved, oldest first.

    A line is proved by the hash in the line after it, the last one by the state, if that can be read. If the chain is
    broken, raises ``StateUnusable`` after the last good line.
    """
    try:
        head = _expected_head(folder)
    except errors.StateUnusable:  # other commands report it; the lines can be listed all the same
        head = None
    for _, raw in _confirmed_lines(folder, head):
        yield from_json(LedgerLine, raw)


def prove(folder: Path) -> int:
    """Prove the ledger from its first line to its last; return the number of lines. Raises ``StateUnusable``."""
    return sum(1 for _ in _checked_lines(folder, _expected_head(folder)))


def _confirmed_lines(folder: Path, head: LedgerHead | None) -> Iterator[tuple[IndexKeys, bytes]]:
    """Yield each line, with its index keys, only when the line after it has confirmed its hash."""
    previous = None
    for checked in _checked_lines(folder, head):
        if previous is not None:
            yield previous
        previous = checked
    if previous is not None:
        yield previous


def _checked_lines(folder: Path, head: LedgerHead | None) -> Iterator[tuple[IndexKeys, bytes]]:
    """Yield each complete line with its index keys. A line that is just being written is left out."""
    if not may_exist(folder):  # before the first start
        return
    disk = StateFolder(folder, lock=False)
    try:
        for keys, raw, _ in chain(Lines(disk), head):
            yield keys, raw
    except UnreadableContent as error:
        raise unusable(disk, error) from None
    finally:
        disk.close()


def _expected_head(folder: Path) -> LedgerHead | None:
    """Return where the state has seen the ledger end.

    Call it before the ledger is read: a running daemon writes the line first, then the state.
    """
    return _state(folder).ledger


def _state(folder: Path) -> StateSnapshot:
    if not may_exist(folder):
        return StateSnapshot()
    disk = StateFolder(folder, lock=False)
    try:
        return read_state(disk)
    finally:
        disk.close()


def line_text(line: LedgerLine) -> str:
    """Format one line for people."""
    upload = line.upload
    return (
        f"{line.seq:>6}  {iso(upload.ready_at)}  {format_bytes(upload.size):>10}  "
        f"{upload.sha256[:16]}…  {upload.proof:<8}  {upload.record}  {shown(upload.path)}"
    )


def find(folder: Path, path: str) -> RecordIds:
    """Return the ids of the record of *path*, finished or not. Raises ``FileMissing`` and ``StateUnusable``.

    The state is read first: an upload that finishes meanwhile is in the ledger before it leaves the state.
    """
    newest, broken, state = None, None, StateSnapshot()
    try:
        state = _state(folder)
    except errors.StateUnusable as error:  # the ledger may have the record all the same
        broken = error
    try:
        for keys, raw in _confirmed_lines(folder, state.ledger):
            if keys.path == path:
                newest = raw
    except errors.StateUnusable as error:
        broken = broken or error
    if newest is not None:
        upload = from_json(LedgerLine, newest).upload
        return RecordIds(upload.record, upload.video)
    for unfinished in state.uploads:
        if unfinished.path == path and unfinished.ids is not None:
            return unfinished.ids
    if broken is not None:
        raise broken
    raise errors.FileMissing(
        f"{shown(path)} has not been uploaded", hint="for the reason type: valt-uploader explain PATH"
    )


async def compare_with_server(lines: Iterable[LedgerLine], valt: Server) -> AsyncIterator[Comparison]:
    """Download every video and compare its checksum with that of the bytes that were sent.

    Raises what the client raises when the server is unavailable, since that says nothing about a video.
    """
    await valt.login_if_needed()
    for line in lines:
        ids, digest = RecordIds(line.upload.record, line.upload.video), hashlib.sha256()
        try:
            async for block in valt.download(ids):
                digest.update(block)
        except errors.RecordGone:
            text = "was ready, but is no longer on the server; to send it again, copy the file under another name"
            yield Comparison(line, None, text)
        except (errors.ServerRefused, errors.DownloadUnavailable) as error:
            if isinstance(error, errors.DownloadUnavailable) and not error.reached:
                raise  # no other video can be fetched either
            yield Comparison(line, None, str(error))
        else:
            equal = digest.hexdigest() == line.upload.sha256
            if not equal and line.upload.proof == "duration":
                yield Comparison(line, None, "the server has transcoded it; its duration was compared when it arrived")
                continue
            why = "" if equal else "the server has other bytes: it has transcoded the video, or the video is damaged"
            yield Comparison(line, equal, why)

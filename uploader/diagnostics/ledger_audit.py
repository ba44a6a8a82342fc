"""``ledger`` and ``link``: what was finished, proof that the list is whole, and what the server holds of it.

Must never change the ledger, and never keep what it downloads: it is hashed and thrown away. Nothing here holds
more than a line or two at a time.
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
from uploader.store.disk import StateFolder
from uploader.store.ledger import Lines, chain, unusable
from uploader.store.line import IndexKeys
from uploader.store.store import read_state


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the server handed out for one ledger line. ``equal`` is None when it handed out nothing."""

    line: LedgerLine
    equal: bool | None
    why: str = ""

    def __str__(self) -> str:
        word = {True: "equal", False: "differs", None: "missing"}[self.equal]
        return f"{word:<9}{shown(self.line.upload.path)}" + (f": {self.why}" if self.why else "")


def lines(folder: Path) -> Iterator[LedgerLine]:
    """Read the ledger line by line, proving each link: every line that is vouched for, oldest first.

    A line is vouched for by the one after it, the last one by the state if that can be read. Raises
    ``StateUnusable`` after the last good line, when something breaks there.
    """
    for _, raw in _vouched_for(folder):
        yield from_json(LedgerLine, raw)


def prove(folder: Path) -> int:
    """Prove the ledger from its first line to its last: how many there are. Raises ``StateUnusable``."""
    return sum(1 for _ in _proved(folder, _tail(folder)))


def _vouched_for(folder: Path) -> Iterator[tuple[IndexKeys, bytes]]:
    """Walk the lines, each only when the one after it has been looked at."""
    try:
        tail = _tail(folder)
    except errors.StateUnusable:  # whoever works on the state is told so; what is done can still be listed
        tail = None
    held = None
    for proved in _proved(folder, tail):
        if held is not None:
            yield held
        held = proved
    if held is not None:
        yield held


def _proved(folder: Path, head: LedgerHead | None) -> Iterator[tuple[IndexKeys, bytes]]:
    """Walk the whole lines; one that is being written just now is not one yet."""
    if not folder.exists():  # before the first start
        return
    disk = StateFolder(folder, lock=False)
    try:
        for facts, raw, _ in chain(Lines(disk), head):
            yield facts, raw
    except UnreadableContent as error:
        raise unusable(disk, error) from None
    finally:
        disk.close()


def _tail(folder: Path) -> LedgerHead | None:
    """How far the state has seen the ledger. To be asked first: a daemon that is at work writes the line first."""
    return _state(folder).ledger


def _state(folder: Path) -> StateSnapshot:
    if not folder.exists():
        return StateSnapshot()
    disk = StateFolder(folder, lock=False)
    try:
        return read_state(disk)
    finally:
        disk.close()


def line_text(line: LedgerLine) -> str:
    """Lay one line out for people."""
    upload = line.upload
    return (
        f"{line.seq:>6}  {iso(upload.ready_at)}  {format_bytes(upload.size):>10}  "
        f"{upload.sha256[:16]}…  {upload.record}  {shown(upload.path)}"
    )


def find(folder: Path, path: str) -> RecordIds:
    """Find the record that *path* became, finished or still processing. Raises ``FileMissing``."""
    newest, broken = None, None
    try:
        for facts, raw in _vouched_for(folder):
            if facts.path == path:
                newest = raw
    except errors.StateUnusable as error:
        broken = error
    if newest is not None:
        upload = from_json(LedgerLine, newest).upload
        return RecordIds(upload.record, upload.video)
    for unfinished in _state(folder).uploads:
        if unfinished.path == path and unfinished.ids is not None:
            return unfinished.ids
    if broken is not None:
        raise broken
    raise errors.FileMissing(f"{shown(path)} has not been uploaded", hint="valt-uploader explain tells why")


async def compare_with_server(lines: Iterable[LedgerLine], valt: Server) -> AsyncIterator[Comparison]:
    """Download every video and compare its checksum with what was sent.

    A server that cannot be talked to ends it: that says nothing about a recording.
    """
    await valt.login_if_needed()
    for line in lines:
        ids, digest = RecordIds(line.upload.record, line.upload.video), hashlib.sha256()
        try:
            async for block in valt.download(ids):
                digest.update(block)
        except errors.RecordGone:
            yield Comparison(line, None, "it was ready, and is no longer on the server; it is not sent again by itself")
        except errors.ServerRefused as error:
            yield Comparison(line, None, str(error))
        else:
            equal = digest.hexdigest() == line.upload.sha256
            why = "" if equal else "the server keeps another version of it (transcoded), or not these bytes"
            yield Comparison(line, equal, why)

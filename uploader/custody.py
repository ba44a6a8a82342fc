"""``ledger`` and ``link``: what was finished, proof that the list is whole, and what the server holds of it.

Must never change the ledger, and never keep what it downloads: it is hashed and thrown away.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uploader import errors
from uploader.model import RecordIds, Upload, shown
from uploader.report import iso
from uploader.store import LedgerLine
from uploader.store.codec import Unreadable
from uploader.store.disk import StateFolder
from uploader.store.ledger import NAME, chain
from uploader.store.store import peek
from uploader.units import format_bytes
from uploader.valt import Valt

PUT_BACK: Final = "put the whole file back from a copy; it is never rewritten"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the server handed out for one ledger line. ``equal`` is None when it handed out nothing."""

    line: LedgerLine
    equal: bool | None
    why: str = ""

    def __str__(self) -> str:
        word = {True: "equal", False: "differs", None: "missing"}[self.equal]
        return f"{word:<9}{shown(self.line.upload.path)}" + (f": {self.why}" if self.why else "")


def read_chain(folder: Path) -> tuple[list[LedgerLine], str | None]:
    """Read the ledger, proving each link: the lines that hold, and what breaks after them, if anything.

    Each line is vouched for by the one after it: the last one before a break is not.
    """
    if not folder.exists():  # before the first start
        return [], None
    disk = StateFolder(folder, lock=False)
    try:
        content = disk.read(NAME) or b""
    finally:
        disk.close()
    whole = content[: content.rfind(b"\n") + 1]  # a line that is being written just now is not one yet
    lines: list[LedgerLine] = []
    try:
        for line, _ in chain(whole):
            lines.append(line)
    except Unreadable as error:
        return lines[:-1], f"{folder / NAME}: {error}"
    return lines, None


def told(line: LedgerLine) -> str:
    """Lay one line out for people."""
    upload = line.upload
    return (
        f"{line.seq:>6}  {iso(upload.ready_at)}  {format_bytes(upload.size):>10}  "
        f"{upload.sha256[:16]}…  {upload.record}  {shown(upload.path)}"
    )


def find(folder: Path, path: str) -> RecordIds:
    """Find the record that *path* became, finished or still processing. Raises ``FileMissing``."""
    lines, broken = read_chain(folder)
    for line in reversed(lines):
        if line.upload.path == path:
            return RecordIds(line.upload.record, line.upload.video)
    for upload in _unfinished(folder) if folder.exists() else ():
        if upload.path == path and upload.ids is not None:
            return upload.ids
    if broken is not None:
        raise errors.StateUnusable(broken, hint=PUT_BACK)
    raise errors.FileMissing(f"{shown(path)} has not been uploaded", hint="valt-uploader explain tells why")


def _unfinished(folder: Path) -> tuple[Upload, ...]:
    disk = StateFolder(folder, lock=False)
    try:
        return peek(disk).uploads
    finally:
        disk.close()


async def compare(lines: list[LedgerLine], valt: Valt) -> AsyncIterator[Comparison]:
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

"""Compares the files of the demonstration with the server's copies, and lists what is wrong.

Checksums are computed here, from the bytes on both sides; nothing that the daemon reports is believed. The comparison
itself is pure.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from uploader.domain import events
from uploader.testing.simulator import RecordView

DIGITS: Final = 12  # of a checksum's 64 that are shown; all are compared
RECORD: Final = 8  # characters of a record's id that are shown


@dataclass(frozen=True, slots=True)
class Row:
    """One file here, and the copy in its record on the server."""

    name: str
    size: int = 0  # bytes here
    here: str = ""  # sha256 (hex) of the local file
    record: str | None = None  # its id; None: the upload was not finished
    there: str | None = None  # sha256 (hex) of the server's bytes; None: it has none
    seconds: float = 0.0  # from the creation of the record to ready


async def compare(
    names: Mapping[str, str], finished: Mapping[str, events.UploadFinished], records: Sequence[RecordView]
) -> list[Row]:
    """Compute the checksums of both sides. *names*: path → name; *finished*: what the daemon reported, by path."""
    by_id = {record.id: record for record in records}

    def row(path: str, name: str) -> Row:
        size, here = Path(path).stat().st_size, _sha256(path)
        end = finished.get(path)
        if end is None:
            return Row(name, size, here)
        held = by_id.get(end.record)
        there = _sha256(str(held.path)) if held is not None and held.path.exists() else None
        return Row(name, size, here, end.record, there, end.seconds)

    return [await asyncio.to_thread(row, path, name) for path, name in names.items()]


def _sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def what_is_wrong(rows: Sequence[Row], records: Sequence[RecordView], log_ins: int, restarts: int) -> list[str]:
    """List what is wrong. Each file must have one finished record with equal bytes, and nothing may be stored twice."""
    by_id = {record.id: record for record in records}
    wrong: list[str] = []
    for row in rows:
        if row.record is None:
            wrong.append(f"{row.name} was not finished")
        elif (record := by_id.pop(row.record, None)) is None:
            wrong.append(f"{row.name} has no record of its own on the server")
        else:
            wrong += [f"{row.name}: {fault}" for fault in _faults_of(row, record)]
    wrong += [f"record {left.id} ({left.name}) on the server belongs to no file" for left in by_id.values()]
    if log_ins != restarts + 1:
        wrong.append(f"the daemon logged in {log_ins} times instead of {restarts + 1}")
    if restarts != 1:
        wrong.append("the server should have been restarted once")
    return wrong


def _faults_of(row: Row, record: RecordView) -> list[str]:
    """Compare one file with its record."""
    faults = []
    if record.status != "ready":
        faults.append(f"its record is {record.status}")
    if row.there != row.here:
        faults.append("the server holds other bytes")
    # Each acknowledged range begins where the one before it ended: none is repeated or missing.
    ends = [0, *(chunk.end + 1 for chunk in record.ranges)]
    starts = [*(chunk.start for chunk in record.ranges), row.size]
    if starts != ends or record.strays:
        faults.append("its ranges were not acknowledged exactly once each")
    return faults


def table_of(rows: Sequence[Row]) -> Table:
    """Make the table, for a terminal of 80 columns or a pipe."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("file", overflow="ellipsis", no_wrap=True)
    table.add_column("record", no_wrap=True, style="dim")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("sha256 here", no_wrap=True)
    table.add_column("on the server", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.name),
            (row.record or "none")[:RECORD],
            f"{row.size:,}",
            row.here[:DIGITS],
            Text((row.there or "nothing")[:DIGITS], "green" if row.there == row.here else "bold red"),
            f"{row.seconds:.1f} s",
        )
    return table


def summary(rows: Sequence[Row], records: Sequence[RecordView], log_ins: int, restarts: int) -> str:
    """Summarise a successful run in one line."""
    return (
        f"{len(rows)} files, {len(records)} records on the server, equal byte for byte; {log_ins} log-ins, "
        f"{restarts} restart survived, nothing stored twice."
    )

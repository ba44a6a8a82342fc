"""Stores the simulator's records on disk, one folder per record, so that they survive a restart.

::

    <folder>/<record>/record.json   the payload and, once complete, time, sha256 and duration; replaced atomically
    <folder>/<record>/requests.log  one line per upload request that the application saw
    <folder>/<record>/video.mp4     the bytes; strays are beside it as stray-1.mp4 …
    <folder>/.spool/                request bodies that are arriving; emptied at every start

Replaying ``requests.log`` through ``semantics.receive`` gives what the receiver holds, so a chunk costs one short line
however many came before. Bytes are written first, then ``record.json``, then the line: what has no line was not
acknowledged. Nothing is synced: the store survives a kill, not a power cut.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uploader.domain.model import RecordSharing, RecordSpec
from uploader.testing.simulator.durations import duration_of
from uploader.testing.simulator.semantics import ContentRange, Held, Semantics, Taken, parse_content_range, receive

_COPY_SIZE = 4 << 20  # bytes: large enough for the full speed of the page cache, small enough for any machine
_NO_RANGE = "-"  # in requests.log, for a request with an invalid range


@dataclass
class Record:
    """One record, and what its receiver holds. Only ``Records`` changes it."""

    id: str
    video: str
    spec: RecordSpec
    author: str
    created: float  # Unix seconds
    semantics: Semantics  # of the receiver that it began with
    held: Held = field(default_factory=Held)
    requests: int = 0  # upload requests that the application saw
    ranges: list[ContentRange] = field(default_factory=list)  # those it took, in the order they came
    completed_at: float | None = None
    sha256: str | None = None
    duration: float = 0.0  # seconds that the bytes held play; 0: unknown
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)  # one change at a time

    def status(self, now: float, processing: float, processed: str = "ready") -> str:
        """Return the video's status at *now*: "incomplete", "created", or after *processing* seconds *processed*."""
        if self.completed_at is None:
            return "incomplete"
        return processed if now >= self.completed_at + processing else "created"


class Records:
    """The records in one folder. ``take`` and ``forget`` block for long; call them in a thread."""

    def __init__(self, folder: Path) -> None:
        """Load the records in *folder*, made when it does not exist."""
        self.folder = folder
        self.spool = folder / ".spool"
        self.sweep()
        loaded = [self._load(path.parent) for path in folder.glob("*/record.json")]
        self._records = {record.id: record for record in sorted(loaded, key=lambda record: record.created)}

    def __iter__(self) -> Iterator[Record]:
        """Iterate over all records, the oldest first."""
        return iter(tuple(self._records.values()))

    def get(self, record_id: str) -> Record | None:
        """Return the record with this id, or None."""
        return self._records.get(record_id)

    def path(self, record: Record, file: int = 0) -> Path:
        """Return the path of the video's bytes (0) or of one of its strays (1…)."""
        return self.folder / record.id / ("video.mp4" if file == 0 else f"stray-{file}.mp4")

    def add(self, record: Record) -> None:
        """Store a new *record*."""
        (self.folder / record.id).mkdir()
        self._save(record)
        self._records[record.id] = record

    def rename(self, record: Record, spec: RecordSpec) -> None:
        """Give *record* another name and other fields."""
        record.spec = spec
        self._save(record)

    def refuse(self, record: Record, chunk: ContentRange | None) -> None:
        """Log an upload request that was answered 400."""
        self._note(record, 400, chunk)
        record.requests += 1

    def take(self, record: Record, chunk: ContentRange, taken: Taken, body: Path, now: float) -> None:
        """Store the bytes in the file *body* as *taken* says, and remove *body*."""
        target = self.path(record, taken.file)
        if taken.keep is not None:
            os.truncate(body, taken.keep)
        if taken.fresh or (taken.at == 0 and not target.exists()):
            body.replace(target)
        else:
            _copy_into(target, taken.at, body, taken.copies)
        if taken.held.complete:
            video = self.path(record)
            with video.open("rb") as held:
                record.sha256 = hashlib.file_digest(held, "sha256").hexdigest()
            record.duration = duration_of(video)
            record.completed_at = now if record.completed_at is None else record.completed_at
            self._save(record)
        self._note(record, 201, chunk)
        record.requests += 1
        record.ranges.append(chunk)
        record.held = taken.held

    def forget(self, record: Record) -> None:
        """Delete *record* and its bytes."""
        del self._records[record.id]
        shutil.rmtree(self.folder / record.id)

    def sweep(self) -> None:
        """Empty the spool."""
        shutil.rmtree(self.spool, ignore_errors=True)
        self.spool.mkdir(parents=True)

    def _save(self, record: Record) -> None:
        saved = {
            "id": record.id,
            "video": record.video,
            "name": record.spec.name,
            "template": record.spec.template,
            "users": record.spec.share.users,
            "groups": record.spec.share.groups,
            "author": record.author,
            "created": record.created,
            "semantics": record.semantics,
            "completed_at": record.completed_at,
            "sha256": record.sha256,
            "duration": record.duration,
        }
        path = self.folder / record.id / "record.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(saved, indent=1), encoding="utf-8")
        fresh.replace(path)

    def _note(self, record: Record, status: int, chunk: ContentRange | None) -> None:
        line = f"{status} {chunk or _NO_RANGE}\n"
        with (self.folder / record.id / "requests.log").open("a", encoding="utf-8") as log:
            log.write(line)

    def _load(self, folder: Path) -> Record:
        saved: dict[str, Any] = json.loads((folder / "record.json").read_text("utf-8"))
        record = Record(
            id=saved["id"],
            video=saved["video"],
            spec=RecordSpec(
                saved["name"], saved["template"], RecordSharing(tuple(saved["users"]), tuple(saved["groups"]))
            ),
            author=saved["author"],
            created=saved["created"],
            semantics=Semantics(saved["semantics"]),
            completed_at=saved["completed_at"],
            sha256=saved["sha256"],
            duration=saved.get("duration", 0.0),
        )
        log = folder / "requests.log"
        for line in log.read_text("utf-8").splitlines() if log.exists() else []:
            _replay(record, line)
        if record.completed_at is not None:  # its last line may be missing after a kill
            held = self.path(record).stat().st_size
            record.held = replace(record.held, sizes=(held, *record.held.sizes[1:]), complete=True)
        else:
            self._trim(record)
        return record

    def _trim(self, record: Record) -> None:
        """Cut off bytes that have no line in the log: their request counts as not seen."""
        ends = [record.held.spans[-1][1]] if record.held.spans else list(record.held.sizes)
        for file, end in enumerate(ends):
            path = self.path(record, file)
            if path.exists():
                os.truncate(path, end)


def _replay(record: Record, line: str) -> None:
    """Apply one line of ``requests.log`` to *record*."""
    status, _, header = line.partition(" ")
    chunk = parse_content_range(header)
    record.requests += 1
    if status != "201" or chunk is None:
        return
    taken = receive(record.semantics, record.held, chunk)
    if taken is not None:
        record.held = taken.held
        record.ranges.append(chunk)


def _copy_into(target: Path, offset: int, body: Path, copies: int) -> None:
    """Write *body* at *offset* of *target*, *copies* times in a row, after a gap if need be; then remove *body*."""
    source = os.open(body, os.O_RDONLY)
    sink = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.lseek(sink, offset, os.SEEK_SET)
        for _ in range(copies):
            os.lseek(source, 0, os.SEEK_SET)
            while os.sendfile(sink, source, None, _COPY_SIZE):
                pass
    finally:
        os.close(source)
        os.close(sink)
    body.unlink()

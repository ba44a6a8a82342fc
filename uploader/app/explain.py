"""Explains one file: ``explain``. Each rule, what is on disk, what is known of it, and what happens next.

Pure, except ``look_at``. In the words of ``status``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from uploader import files
from uploader.app.status import PAUSED, StatusSnapshot, is_paused, iso, unexpected_word, what_next
from uploader.config import Config
from uploader.domain import errors, selection
from uploader.domain.model import Proof, Sighting, Upload, shown
from uploader.domain.units import format_bytes
from uploader.stages.settle import Candidate
from uploader.store.ledger import LedgerEntry

FILE_LOOK_TIMEOUT: Final = 2.0  # s that ``look_at`` waits for a share: an operator waits for the answer


PROVEN_BY: Final[Mapping[Proof, str]] = {
    "bytes": "proven by its bytes, which were fetched back",
    "size": "proven by its size",
    "duration": "proven by its duration",
    "ready": "on the server's word alone",
}


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of one file, found by its present name or by the one that it was sent under."""

    upload: Upload | None = None
    candidate: Candidate | None = None
    finished: Sequence[LedgerEntry] = ()  # its lines in the ledger
    paused: bool = False
    running: bool = False  # whether the daemon runs
    last_word: str = ""  # the last status word of its video
    monotonic: float = 0.0  # the monotonic clock when all this was asked


def facts_of(snapshot: StatusSnapshot, path: str, finished: Sequence[LedgerEntry]) -> FileFacts:
    """Find what is known of one file, by a search through everything. Used only while no daemon runs."""
    upload = next((upload for upload in snapshot.uploads if path in {upload.path, upload.where}), None)
    candidate = next((one for one in snapshot.settling if one.sighting.path == path), None)
    paused = upload is not None and is_paused(upload, snapshot)
    return FileFacts(upload, candidate, finished, paused, snapshot.process is not None)


async def look_at(path: str, threads: files.ShareThreads | None = None) -> Sighting | str:
    """Return what the inode of a regular file says; for anything else a word for what it is.

    Waits ``FILE_LOOK_TIMEOUT`` seconds for its share.
    """
    threads = files.ShareThreads("file checks") if threads is None else threads
    try:
        return await threads.call(lambda: files.look(path, "") or files.kind_of(path), time_limit=FILE_LOOK_TIMEOUT)
    except errors.ShareNotReady as error:
        return f"unreadable ({error})"


def explanation(config: Config, path: str, facts: FileFacts, now: float, seen: Sighting | str) -> list[str]:
    """Say why this file is, or is not, uploaded: each rule, then its state. The last line is the result.

    *seen*: what ``look_at`` has returned.
    """
    lines, watched = _folder_rules(config, path)
    lines.append(_disk_line(seen))
    for line in facts.finished:
        sent = f"sent as record {line.record}, {format_bytes(line.size)}"
        if line.path != path:
            sent += f", under the name {shown(line.path)}; it was renamed, or is a copy"
        lines.append(f"ledger   line {line.seq}: {sent}, {PROVEN_BY[line.proof]}")
    if facts.upload is not None:
        lines += _upload_lines(facts.upload, facts)
        result = f"not finished: {what_next(facts.upload, now, paused=facts.paused)}"
    elif facts.candidate is not None:
        lines += _movements(facts.candidate, now, facts.monotonic)
        result = f"settling: {facts.candidate.reason}"
    else:
        there = seen if isinstance(seen, Sighting) else None
        result = _result(there, facts.finished, watched=watched, running=facts.running)
    return [*lines, f"result   {result}"]


def _upload_lines(upload: Upload, facts: FileFacts) -> list[str]:
    """Say which state an upload is in, and why."""
    lines = [f"state    {upload.state}, {upload.offset} of {upload.identity.size} bytes acknowledged"]
    if upload.where != upload.path:
        lines.append(f"file     was {shown(upload.path)} when its upload began, is {shown(upload.where)} now")
    if upload.last_error is not None:
        count = f" (failures in a row: {upload.last_error.attempts})" if upload.last_error.attempts else ""
        lines.append(f"reason   {upload.last_error.reason}{count}")
    if last_word := unexpected_word(facts.last_word):
        lines.append(f"reason   the server says: {shown(last_word)}")
    lines += [f"record   {record} arrived spoilt; deleted when a new one is proven" for record in upload.spoilt]
    return [*lines, f"reason   {PAUSED}"] if facts.paused else lines


def _movements(candidate: Candidate, now: float, monotonic: float) -> list[str]:
    """Say which parts of a file that settles have moved, how often, and when last."""
    moved = {} if candidate.stable is None else candidate.stable.moved
    rows = sorted(moved.items(), key=lambda item: -item[1].last)
    return [
        f"moved    {part}: {row.times} time{'s' * (row.times > 1)} while it is waited for, last seen at "
        f"{iso(now - (monotonic - row.last))}"
        for part, row in rows
    ]


def _result(seen: Sighting | None, finished: Sequence[LedgerEntry], *, watched: bool, running: bool) -> str:
    """Say what happens to a file that has no unfinished upload and is not settling."""
    if finished and (seen is None or (seen.size, seen.mtime_ns) in {(line.size, line.mtime_ns) for line in finished}):
        return "uploaded; it is sent again only if its content changes"
    if not watched:
        return "not sent: no [[watch]] takes it"
    if seen is None:
        return "not sent: the file does not exist"
    if seen.size == 0:
        return "not sent: it is empty"
    when = "" if running else " when the daemon runs (or: valt-uploader once)"
    if finished:
        return f"written to since it was uploaded; sent again{when} if its content has changed"
    return f"it will be sent{when}"


def _folder_rules(config: Config, path: str) -> tuple[list[str], bool]:
    owner = selection.owner(config.watch, path)
    lines = []
    for number, watch in enumerate(config.watch):
        relpath = selection.relative(watch.path, path)
        if relpath is None:
            lines.append(f"rule     watch[{number}] {watch.path}: not below this folder")
        elif watch is owner:
            lines.append(f"rule     watch[{number}] {watch.path}: takes it")
        else:
            why = selection.refusal(watch, relpath) or "the file belongs to an earlier [[watch]] or to a move_to folder"
            lines.append(f"rule     watch[{number}] {watch.path}: {why}")
    return lines, owner is not None


def _disk_line(seen: Sighting | str) -> str:
    if isinstance(seen, str):
        return f"disk     {seen}: only regular files are sent" if seen != "missing" else "disk     does not exist"
    empty = "; empty files wait until they have content" if seen.size == 0 else ""
    return f"disk     {seen.size} bytes, last written {iso(seen.mtime_ns / 1e9)}{empty}"

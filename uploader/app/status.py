"""What is known, in the same words for every reader: ``status``, ``explain``, systemd's status line.

Pure but for looking at one file on request. Must never hold a secret; names are made safe only where they are
shown, so that scripts get the real ones.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from uploader import files
from uploader.config import PASSWORD_VARIABLE, Config
from uploader.domain import errors, selection
from uploader.domain.model import (
    EVERYTHING,
    ActionBy,
    LastError,
    Orphan,
    ServerCapabilities,
    Sighting,
    State,
    Upload,
    covers,
    shown,
)
from uploader.domain.units import format_bytes, format_duration
from uploader.server.credentials import password_source
from uploader.stages.discover import FolderStats
from uploader.stages.settle import Candidate
from uploader.store.ledger import LedgerEntry

NEXT_ACTION = {
    ActionBy.UPLOADER: "it is tried again by itself",
    ActionBy.FILE: "it goes on by itself when the file changes",
    ActionBy.OPERATOR: "a person must act; then: valt-uploader retry",
}

PAUSED = "a person paused it"
FILE_LOOK_TIMEOUT: Final = 2.0  # s that one look at a file by hand may take: somebody is waiting for the answer
EXPECTED_WORDS: Final = frozenset({"created", "ready"})  # what a server says of a video that it takes in its stride
SORTED_AT_ONCE: Final = 5000  # uploads; sorting holds every other thread until it is done: this many take a few ms
REFUSED_BEFORE = "the log-in was refused before, and is not tried again yet"  # what is left of it after a restart


@dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """Everything a report is made of."""

    uploads: Collection[Upload]
    orphans: Iterable[Orphan]
    capabilities: ServerCapabilities
    done: int
    counts: Mapping[State, int] | None = None  # of the uploads; None: they are counted when it is asked for
    settling: Collection[Candidate] = ()
    folders: Iterable[FolderStats] = ()
    outage: float = 0.0  # seconds until the server is called again
    outage_reason: str = ""  # why it is not called now
    process: int | None = None  # of the daemon; None: it is stopped
    warnings: list[str] = field(default_factory=list)
    paused: Collection[str] = ()  # files and folders, by a person
    not_saved: str = ""  # why the state cannot be saved now
    last_words: Mapping[str, str] = field(default_factory=dict)  # by path: what the server said last of its video


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of one file, found by the name that it has now or by the one that it was sent under."""

    upload: Upload | None = None
    candidate: Candidate | None = None
    finished: Sequence[LedgerEntry] = ()  # its lines in the ledger
    paused: bool = False
    running: bool = False  # the daemon does
    last_word: str = ""  # what the server said last of its video


def facts_of(snapshot: StatusSnapshot, path: str, finished: Sequence[LedgerEntry]) -> FileFacts:
    """Find one file among all that is known, by looking at every one: only while no daemon runs."""
    upload = next((upload for upload in snapshot.uploads if path in {upload.path, upload.where}), None)
    candidate = next((one for one in snapshot.settling if one.sighting.path == path), None)
    paused = upload is not None and _is_paused(upload, snapshot)
    return FileFacts(upload, candidate, finished, paused, snapshot.process is not None)


def standing_warnings(config: Config, environ: Mapping[str, str]) -> list[str]:
    """What the operator has switched off, or asked for in vain: said at every start and in every status."""
    warnings = []
    if password_source(config.server, environ) == "environment":
        warnings.append(f"the password comes from ${PASSWORD_VARIABLE}: every process of this user can see it")
    if not config.server.tls_verify:
        warnings.append("server.tls_verify = false: anybody on the way can read and change what is sent")
    if config.server.url.startswith("http://") and config.server.allow_plaintext:
        warnings.append("server.allow_plaintext = true: password and recordings travel unencrypted")
    if config.server.resend_is_safe:
        warnings.append("server.resend_is_safe = true: a chunk in doubt is sent again to the same record")
    warnings += [f"{key}: accepted, but not yet in force in this version" for key in config.not_in_force()]
    return warnings


def status_document(config: Config, snapshot: StatusSnapshot, now: float) -> dict[str, Any]:
    """Return the document of ``status --json``."""
    document = status_by_rows(config, snapshot, now)
    return {key: list(value) if isinstance(value, Iterator) else value for key, value in document.items()}


def status_by_rows(config: Config, snapshot: StatusSnapshot, now: float) -> dict[str, Any]:
    """Return the document of ``status --json``; each of its long lists is an iterator that makes row after row.

    So a hundred thousand rows need neither be held at the same time nor be made without a break.
    """
    brief = summary(snapshot, now)
    return {
        "server": config.server.url,
        "state_dir": str(config.state.dir),
        "daemon": None if snapshot.process is None else {"pid": snapshot.process},
        **brief,
        "folders": [_folder(tally) for tally in snapshot.folders],
        "paused": list(snapshot.paused),
        "uploads": (_upload(upload, snapshot, now) for upload in _by_path(snapshot.uploads)),
        "settling": (_settling(candidate) for candidate in snapshot.settling),
        "learnt": _learnt(snapshot.capabilities),
        "orphans": ({"record": one.record, "path": one.path, "landed": one.landed} for one in snapshot.orphans),
        "warnings": snapshot.warnings,
    }


def summary(snapshot: StatusSnapshot, now: float) -> dict[str, Any]:
    """Return the part of the status that ``one_line`` is made of. Looks at no upload, if ``known`` has its counts."""
    refused = max(0.0, (snapshot.capabilities.login_not_before or 0.0) - now)
    outage = refused if snapshot.process is None else snapshot.outage
    out = outage > 0 or bool(snapshot.outage_reason)  # also while the first call after the pause is on its way
    counts = Counter(upload.state for upload in snapshot.uploads) if snapshot.counts is None else snapshot.counts
    return {
        "not_saved": snapshot.not_saved or None,
        "outage": round(outage, 1) if out else None,
        "outage_reason": (snapshot.outage_reason or REFUSED_BEFORE) if out else None,
        "counts": {
            "settling": len(snapshot.settling),
            **{state.value: counts.get(state, 0) for state in State if state is not State.DONE},
            "done": snapshot.done,
        },
    }


def _by_path(uploads: Iterable[Upload]) -> Iterator[Upload]:
    """Sort uploads by path, ``SORTED_AT_ONCE`` at a time: one sort of all of them could not be interrupted."""
    rest, key = iter(uploads), attrgetter("path")
    parts = iter(lambda: sorted(islice(rest, SORTED_AT_ONCE), key=key), [])
    yield from heapq.merge(*parts, key=key)


def _learnt(capabilities: ServerCapabilities) -> dict[str, Any]:
    """What is known of the server's ways; its password is not among that."""
    return {
        "version": capabilities.version,
        "probed": None if capabilities.probed_at is None else iso(capabilities.probed_at),
        "resend_is_safe": capabilities.resend_is_safe,
        "whole_only_until": None if capabilities.whole_only_until is None else iso(capabilities.whole_only_until),
        "chunk_limit": capabilities.chunk_limit,
        "chunk_limit_until": None if capabilities.chunk_limit_until is None else iso(capabilities.chunk_limit_until),
    }


def _folder(stats: FolderStats) -> dict[str, Any]:
    return {
        "path": stats.folder,
        "mode": stats.mode or None,
        "offline": stats.away or None,
        "unreadable": stats.unreadable or None,
        "scans": stats.scans,
        "last_scan": None if stats.scanned_at is None else iso(stats.scanned_at),
        "folders": stats.folders,
        "names": stats.names,
        "missed_by_events": stats.missed,
    }


def _settling(candidate: Candidate) -> dict[str, Any]:
    return {"path": candidate.sighting.path, "size": candidate.sighting.size, "reason": candidate.reason}


def _is_paused(upload: Upload, snapshot: StatusSnapshot) -> bool:
    return bool(snapshot.paused) and (covers(snapshot.paused, upload.path) or covers(snapshot.paused, upload.where))


def _upload(upload: Upload, snapshot: StatusSnapshot, now: float) -> dict[str, Any]:
    paused = _is_paused(upload, snapshot)
    trouble = LastError(PAUSED, ActionBy.OPERATOR) if paused else upload.trouble
    return {
        "path": upload.path,
        "file": upload.where,
        "state": upload.state.value,
        "size": upload.identity.size,
        "offset": upload.offset,
        "name": upload.record.name,
        "record": None if upload.ids is None else upload.ids.record,
        "video": None if upload.ids is None else upload.ids.video,
        "reason": None if trouble is None else trouble.reason,
        "turn": None if trouble is None else trouble.turn.value,
        "attempts": 0 if trouble is None else trouble.attempts,
        "next_try": None if trouble is None or trouble.next_try is None else iso(trouble.next_try),
        "next": what_next(upload, now, paused=paused),
        "server_says": _unexpected(snapshot.last_words.get(upload.path, "")) or None,
    }


def _unexpected(last_word: str) -> str:
    """Return what the server said last of a video, if whoever looks has to know it; else nothing."""
    return "" if last_word in EXPECTED_WORDS else last_word


def what_next(upload: Upload, now: float, *, paused: bool = False) -> str:
    """Say what happens next with an unfinished upload."""
    trouble = upload.trouble
    if paused:
        return "goes on after: valt-uploader resume"
    if trouble is not None and trouble.next_try is not None:
        return f"tried again in {format_duration(max(0.0, trouble.next_try - now))}"
    if upload.state is State.PARKED and trouble is not None:
        return NEXT_ACTION[trouble.turn]
    return {
        State.QUEUED: "waits for a worker",
        State.CREATING: "its record is being made, or looked for",
        State.SENDING: f"the next chunk begins at byte {upload.offset}",
        State.IN_DOUBT: "the server is asked what became of the last chunk",
        State.VERIFYING: "the server is asked until it says ready",
        State.FINISHING: f"the file is dealt with: {upload.after_upload}",
    }.get(upload.state, "")


def one_line(document: Mapping[str, Any]) -> str:
    """Sum a status up for ``systemctl status``: what is going on, then what is done."""
    counts = document["counts"]
    parts = [f"{count} {state}" for state, count in counts.items() if count and state != "done"]
    text = f"{', '.join(parts) or 'nothing to do'}; {counts['done']} done"
    why = [document["not_saved"], document["outage_reason"]]
    return ", ".join([*(reason.partition(";")[0] for reason in why if reason), text])


def status_lines(document: Mapping[str, Any]) -> list[str]:
    """Lay a status out for people."""
    daemon = document["daemon"]
    lines = [
        f"server   {document['server']}",
        f"daemon   {'stopped' if daemon is None else 'running, process ' + str(daemon['pid'])}",
        f"files    {one_line(document)}",
    ]
    lines += [line for row in document["folders"] for line in _folder_lines(row)]
    lines += [f"warning  {text}" for text in document["warnings"]]
    if document["not_saved"]:
        lines.append(f"waits    {document['not_saved']}")
    if document["outage"] is not None:
        lines.append(f"waits    {document['outage_reason']}")
        lines.append(f"         the server is called again in {format_duration(document['outage'])}")
    lines += [
        f"paused   {'everything' if path == EVERYTHING else shown(path)}: {PAUSED}" for path in document["paused"]
    ]
    for row in document["uploads"]:
        percent = f" {100 * row['offset'] // max(1, row['size'])} %" if row["state"] == State.SENDING else ""
        lines.append(f"\n{shown(row['path'])}\n  {row['state']}{percent}, {format_bytes(row['size'])}")
        if (file := row.get("file", row["path"])) != row["path"]:  # an older daemon does not say it
            lines.append(f"  file: now {shown(file)}")
        if row["reason"]:
            lines.append(f"  why:  {row['reason']}")
        if row.get("server_says"):
            lines.append(f"  why:  the server says: {shown(row['server_says'])}")
        lines.append(f"  next: {row['next']}")
    for row in document["settling"]:
        lines.append(f"\n{shown(row['path'])}\n  settling, {format_bytes(row['size'])}\n  why:  {row['reason']}")
    for row in document["orphans"]:
        keep = f"delete it on the server, or keep it: valt-uploader forget {row['record']}"
        what = f"holds a video: a person must decide; {keep}" if row["landed"] else "is cleared away by itself"
        lines.append(f"\nrecord {row['record']} was given up for {shown(row['path'])}\n  {what}")
    return lines


def _folder_lines(row: Mapping[str, Any]) -> list[str]:
    if row["offline"]:
        return [f"folder   {shown(row['path'])}: OFFLINE, nothing is inferred from that", f"         {row['offline']}"]
    lines = [f"folder   {shown(row['path'])}: {row['mode'] or 'not looked at yet'}"]
    if row["last_scan"]:
        missed = f", {row['missed_by_events']} found that no event had told of" if row["missed_by_events"] else ""
        lines.append(f"         {row['names']} names in {row['folders']} folders at {row['last_scan']}{missed}")
    if row["unreadable"]:
        lines.append(f"         cannot be looked at: {row['unreadable']}")
    return lines


async def look_at(path: str, threads: files.ShareThreads | None = None) -> Sighting | str:
    """Look at one file: what its inode says, and of anything else its kind.

    Waits ``FILE_LOOK_TIMEOUT`` for its share.
    """
    threads = files.ShareThreads("looks by hand") if threads is None else threads
    try:
        return await threads.call(lambda: files.look(path, "") or files.kind_of(path), patience=FILE_LOOK_TIMEOUT)
    except errors.ShareNotReady as error:
        return f"unreadable ({error})"


def explanation(config: Config, path: str, facts: FileFacts, now: float, seen: Sighting | str) -> list[str]:
    """Say why this file is, or is not, uploaded: each rule, then where it stands. The last line is the verdict.

    *seen*: what ``look_at`` has said.
    """
    lines, watched = _folder_rules(config, path)
    lines.append(_disk_line(seen))
    for line in facts.finished:
        lines.append(f"ledger   line {line.seq}: sent as record {line.record}, {format_bytes(line.size)}")
    if facts.upload is not None:
        lines += _upload_lines(facts.upload, facts)
        verdict = f"not finished: {what_next(facts.upload, now, paused=facts.paused)}"
    elif facts.candidate is not None:
        verdict = f"settling: {facts.candidate.reason}"
    else:
        there = seen if isinstance(seen, Sighting) else None
        verdict = _verdict(there, facts.finished, watched=watched, running=facts.running)
    return [*lines, f"verdict  {verdict}"]


def _upload_lines(upload: Upload, facts: FileFacts) -> list[str]:
    """Say where an upload stands, and why."""
    lines = [f"state    {upload.state}, {upload.offset} of {upload.identity.size} bytes acknowledged"]
    if upload.where != upload.path:
        lines.append(f"file     it was {shown(upload.path)} when its upload began, and is {shown(upload.where)} now")
    if upload.trouble is not None:
        count = f" (failures in a row: {upload.trouble.attempts})" if upload.trouble.attempts else ""
        lines.append(f"reason   {upload.trouble.reason}{count}")
    if last_word := _unexpected(facts.last_word):
        lines.append(f"reason   the server says: {shown(last_word)}")
    return [*lines, f"reason   {PAUSED}"] if facts.paused else lines


def _verdict(seen: Sighting | None, finished: Sequence[LedgerEntry], *, watched: bool, running: bool) -> str:
    """Say what becomes of a file that nothing is under way for."""
    if finished and (seen is None or (seen.size, seen.mtime_ns) in {(line.size, line.mtime_ns) for line in finished}):
        return "uploaded; it is sent again only if its content changes"
    if not watched:
        return "not sent: no [[watch]] takes it"
    if seen is None:
        return "not sent: there is no file"
    if seen.size == 0:
        return "not sent: it is empty"
    when = "" if running else " when the daemon runs (or: valt-uploader once)"
    if finished:
        return f"written to since it was uploaded; sent again{when} if its content is another"
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
            why = selection.refusal(watch, relpath) or "another [[watch]] before it, or a move_to folder, has it"
            lines.append(f"rule     watch[{number}] {watch.path}: {why}")
    return lines, owner is not None


def _disk_line(seen: Sighting | str) -> str:
    if isinstance(seen, str):
        return f"disk     {seen}: only regular files are sent" if seen != "missing" else "disk     it is not there"
    empty = "; empty files wait until they have content" if seen.size == 0 else ""
    return f"disk     {seen.size} bytes, last written {iso(seen.mtime_ns / 1e9)}{empty}"


def iso(seconds: float) -> str:
    """A time for people and scripts: local time with its offset, to the second; ``@seconds`` beyond every calendar."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # shares report absurd times
        return f"@{seconds:.0f}"

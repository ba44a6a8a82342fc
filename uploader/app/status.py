"""Describes what is known, in the same words for every reader: ``status``, ``explain``, systemd's status line.

Pure. Holds no secret. Names are made safe to print only in the lines for people; the document for
scripts has the real ones.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from uploader.config import PASSWORD_VARIABLE, PROXY_PASSWORD_VARIABLE, Config
from uploader.domain import learnt, untaken
from uploader.domain.commands import typed
from uploader.domain.model import (
    EVERYTHING,
    ActionBy,
    LastError,
    Orphan,
    ServerCapabilities,
    State,
    Upload,
    covers,
    shown,
)
from uploader.domain.units import format_bytes, format_duration
from uploader.server.credentials import password_source, proxy_password_source
from uploader.stages.settle import Candidate
from uploader.stages.watched_folder import FolderStats

NEXT_ACTION = {
    ActionBy.UPLOADER: "tried again automatically",
    ActionBy.FILE: "continues automatically when the file is back or has changed",
    ActionBy.OPERATOR: "an operator must act (see the reason); then type: {command}",
}

PAUSED = "paused by operator"
FORGOTTEN = "forgotten by operator; the server may have a record of it, which is looked for first"
EXPECTED_WORDS: Final = frozenset({"created", "ready"})  # the server's words for a video that need no operator
SORTED_AT_ONCE: Final = 5000  # uploads; no other thread runs during a sort: for this many that is a few ms
# Shown after a restart, when the server's own words are no longer known.
REFUSED_BEFORE = (
    "the server refused the password before, so it is not tried again yet; change the password, then type: "
    "valt-uploader retry"
)


@dataclass(frozen=True, slots=True)
class StatusSnapshot:
    """Everything a status report is made from."""

    uploads: Collection[Upload]
    orphans: Iterable[Orphan]
    capabilities: ServerCapabilities
    done: int
    counts: Mapping[State, int] | None = None  # uploads by state; None: counted from ``uploads``
    settling: Collection[Candidate] = ()
    folders: Iterable[FolderStats] = ()
    outage: float = 0.0  # seconds until the server is called again
    outage_reason: str = ""  # why it is not called now
    process: int | None = None  # the daemon's process id; None: it is stopped
    warnings: list[str] = field(default_factory=list)
    paused: Collection[str] = ()  # files and folders, paused by the operator
    not_saved: str = ""  # why the state cannot be saved now
    last_words: Mapping[str, str] = field(default_factory=dict)  # by path: the last status word of its video


def standing_warnings(config: Config, environ: Mapping[str, str]) -> list[str]:
    """List protections that are switched off and settings without effect: shown at every start and in every status."""
    warnings = []
    if password_source(config.server, environ) == "environment":
        warnings.append(f"the password comes from ${PASSWORD_VARIABLE}: every process of this user can see it")
    if proxy_password_source(config.server, environ) == "environment":
        variable = PROXY_PASSWORD_VARIABLE
        warnings.append(f"the proxy's password comes from ${variable}: every process of this user can see it")
    if not config.server.tls_verify:
        warnings.append("server.tls_verify = false: anyone on the network path can read and change what is sent")
    if config.server.url.startswith("http://") and config.server.allow_plaintext:
        warnings.append("server.allow_plaintext = true: password and recordings are sent unencrypted")
    if config.server.resend_is_safe:
        warnings.append("server.resend_is_safe = true: a chunk in doubt is sent again to the same record")
    if any((config.upload.proof if watch.proof is None else watch.proof) == "ready" for watch in config.watch):
        warnings.append('proof = "ready": files are deleted or moved on the server\'s word alone')
    warnings += [f"{key}: accepted, but not yet in force in this version" for key in config.not_in_force()]
    return warnings


def status_document(config: Config, snapshot: StatusSnapshot, now: float) -> dict[str, Any]:
    """Return the document of ``status --json``."""
    document = status_by_rows(config, snapshot, now)
    return {key: list(value) if isinstance(value, Iterator) else value for key, value in document.items()}


def status_by_rows(config: Config, snapshot: StatusSnapshot, now: float) -> dict[str, Any]:
    """Return the document of ``status --json``, with an iterator in place of each long list.

    A hundred thousand rows are then neither in memory at the same time nor made in one go.
    """
    brief = brief_document(snapshot, now)
    return {
        "server": config.server.url,
        "proxy": config.server.proxy or None,
        "state_dir": str(config.state.dir),
        "daemon": None if snapshot.process is None else {"pid": snapshot.process},
        **brief,
        "folders": [_folder(stats) for stats in snapshot.folders],
        "paused": list(snapshot.paused),
        "uploads": (_upload(upload, snapshot, now) for upload in _by_path(snapshot.uploads)),
        "settling": (_settling(candidate) for candidate in snapshot.settling),
        "learnt": _learnt(snapshot.capabilities),
        "limits": learnt.limits(snapshot.capabilities, now=now),
        "orphans": ({"record": one.record, "path": one.path, "landed": one.landed} for one in snapshot.orphans),
        "warnings": snapshot.warnings,
    }


def brief_document(snapshot: StatusSnapshot, now: float) -> dict[str, Any]:
    """Return the part of the status that ``one_line`` needs. Looks at no upload if *snapshot* has counts."""
    refused = max(0.0, (snapshot.capabilities.login_not_before or 0.0) - now)
    outage = refused if snapshot.process is None else snapshot.outage
    out = outage > 0 or bool(snapshot.outage_reason)  # also while the first call after the pause is under way
    counts = Counter(upload.state for upload in snapshot.uploads) if snapshot.counts is None else snapshot.counts
    return {
        "not_saved": snapshot.not_saved or None,
        "outage": round(outage, 1) if out else None,
        "outage_reason": (snapshot.outage_reason or REFUSED_BEFORE) if out else None,
        "not_taken": untaken.summed(stats.untaken for stats in snapshot.folders),
        "counts": {
            "settling": len(snapshot.settling),
            **{state.value: counts.get(state, 0) for state in State if state is not State.DONE},
            "done": snapshot.done,
        },
    }


def _by_path(uploads: Iterable[Upload]) -> Iterator[Upload]:
    """Sort uploads by path, ``SORTED_AT_ONCE`` at a time, so that other threads can run in between."""
    rest, key = iter(uploads), attrgetter("path")
    parts = iter(lambda: sorted(islice(rest, SORTED_AT_ONCE), key=key), [])
    yield from heapq.merge(*parts, key=key)


def _learnt(capabilities: ServerCapabilities) -> dict[str, Any]:
    """Return the server's capabilities, without anything about its password."""
    return {
        "version": capabilities.version,
        "probed": None if capabilities.probed_at is None else iso(capabilities.probed_at),
        "resend_is_safe": capabilities.resend_is_safe,
        "chunks": capabilities.chunks,
        "transcodes": capabilities.transcodes,
        "whole_only_until": None if capabilities.whole_only_until is None else iso(capabilities.whole_only_until),
        "chunk_limit": capabilities.chunk_limit,
        "nameless_until": None if capabilities.nameless_until is None else iso(capabilities.nameless_until),
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
        "not_taken": dict(stats.untaken),
        "missed_by_events": stats.missed,
    }


def _settling(candidate: Candidate) -> dict[str, Any]:
    return {"path": candidate.sighting.path, "size": candidate.sighting.size, "reason": candidate.reason}


def is_paused(upload: Upload, snapshot: StatusSnapshot) -> bool:
    """True when the operator has paused the file, a folder above it, or everything."""
    return bool(snapshot.paused) and (covers(snapshot.paused, upload.path) or covers(snapshot.paused, upload.where))


def _upload(upload: Upload, snapshot: StatusSnapshot, now: float) -> dict[str, Any]:
    paused = is_paused(upload, snapshot)
    last_error = LastError(PAUSED, ActionBy.OPERATOR) if paused else upload.last_error
    return {
        "path": upload.path,
        "file": upload.where,
        "state": upload.state.value,
        "size": upload.identity.size,
        "offset": upload.offset,
        "name": upload.record.name,
        "record": None if upload.ids is None else upload.ids.record,
        "video": None if upload.ids is None else upload.ids.video,
        "reason": None if last_error is None else last_error.reason,
        "turn": None if last_error is None else last_error.action_by.value,
        "attempts": 0 if last_error is None else last_error.attempts,
        "next_try": None if last_error is None or last_error.next_try is None else iso(last_error.next_try),
        "next": what_next(upload, now, paused=paused),
        "server_says": unexpected_word(snapshot.last_words.get(upload.path, "")) or None,
    }


def unexpected_word(last_word: str) -> str:
    """Return the last status word of a video if it is an unexpected one, else an empty text."""
    return "" if last_word in EXPECTED_WORDS else last_word


def what_next(upload: Upload, now: float, *, paused: bool = False) -> str:
    """Say what happens next with an unfinished upload, who must act, and what to type."""
    last_error = upload.last_error
    if paused:
        return "continues after: valt-uploader resume"
    text = ""
    if last_error is not None and last_error.next_try is not None:
        text = f"tried again automatically in {format_duration(max(0.0, last_error.next_try - now))}"
        if last_error.action_by is ActionBy.OPERATOR:
            text = f"an operator must act (see the reason); {text}, or at once after: {typed('retry', upload.path)}"
    elif upload.state is State.PARKED and last_error is not None:
        text = NEXT_ACTION[last_error.action_by].format(command=typed("retry", upload.path))
    if upload.forgotten:
        return f"{FORGOTTEN}; {text}" if text else FORGOTTEN
    return text or {
        State.QUEUED: "waits for a worker",
        State.CREATING: "its record is created, or looked for on the server",
        State.SENDING: f"the next chunk begins at byte {upload.offset}",
        State.IN_DOUBT: "the server is asked whether the last chunk arrived",
        State.VERIFYING: "the server is asked until the video is ready",
        State.PROVING: "what the server holds is compared with what was sent",
        State.FINISHING: f'the ledger line is written, then after_upload = "{upload.after_upload}"',
    }.get(upload.state, "")


def named(path: str) -> str:
    """Name a file, a folder, or everything, for people."""
    return "everything" if path == EVERYTHING else shown(path)


def one_line(document: Mapping[str, Any]) -> str:
    """Sum a status up for ``systemctl status``: what is waited for, how many files are in each state, what is done."""
    counts = document["counts"]
    parts = [f"{count} {state}" for state, count in counts.items() if count and state != "done"]
    text = f"{', '.join(parts) or 'nothing to do'}; {counts['done']} done"
    if left := document.get("not_taken"):  # an older daemon does not send it
        text += f"; not taken: {untaken.in_words(left, 3)}"
    why = [document["not_saved"], document["outage_reason"]]
    return ", ".join([*(reason.partition(";")[0] for reason in why if reason), text])


def status_lines(document: Mapping[str, Any]) -> list[str]:
    """Lay a status document out for people."""
    daemon = document["daemon"]
    lines = [
        f"server   {document['server']}" + (f" through the proxy {proxy}" if (proxy := document.get("proxy")) else ""),
        f"daemon   {'stopped' if daemon is None else 'running, process ' + str(daemon['pid'])}",
        f"files    {one_line(document)}",
    ]
    lines += [line for row in document["folders"] for line in _folder_lines(row)]
    lines += [f"warning  {text}" for text in document["warnings"]]
    if document["not_saved"]:
        lines.append(f"waiting  {document['not_saved']}")
    if document["outage"] is not None:
        again = format_duration(document["outage"])
        lines.append(f"waiting  {document['outage_reason']}")
        lines.append(f"         the server is called again in {again}; at once after: valt-uploader retry")
    lines += [f"server   {limit}" for limit in document.get("limits", ())]  # an older daemon does not send it
    lines += [f"paused   {named(path)}: {PAUSED}; to continue: {typed('resume', path)}" for path in document["paused"]]
    for row in document["uploads"]:
        percent = f" {100 * row['offset'] // max(1, row['size'])} %" if row["state"] == State.SENDING else ""
        lines.append(f"\n{shown(row['path'])}\n  {row['state']}{percent}, {format_bytes(row['size'])}")
        if (file := row.get("file", row["path"])) != row["path"]:  # a daemon of an older version does not send it
            lines.append(f"  file: now {shown(file)}")
        if row["reason"]:
            lines.append(f"  why:  {row['reason']}")
        if row.get("server_says"):
            lines.append(f"  why:  the server says: {shown(row['server_says'])}")
        lines.append(f"  next: {row['next']}")
    for row in document["settling"]:
        lines.append(f"\n{shown(row['path'])}\n  settling, {format_bytes(row['size'])}\n  why:  {row['reason']}")
    for row in document["orphans"]:
        lines.append(f"\norphan record {row['record']} of {shown(row['path'])}")
        if row["landed"]:
            lines.append("  why:  it holds a video, so it is not deleted automatically")
            forget = typed("forget", row["record"])
            lines.append(f"  next: an operator must decide: delete it on the server, or keep it and type: {forget}")
        else:
            lines.append("  next: deleted automatically")
    return lines


def _folder_lines(row: Mapping[str, Any]) -> list[str]:
    if row["offline"]:
        return [
            f"folder   {shown(row['path'])}: offline; uploads wait",
            f"         why:  {row['offline']}",
            "         next: continues automatically when the folder is back; mount it, or repair its server",
        ]
    lines = [f"folder   {shown(row['path'])}: {row['mode'] or 'not scanned yet'}"]
    if row["last_scan"]:
        missed = f", {row['missed_by_events']} found without an event" if row["missed_by_events"] else ""
        lines.append(f"         {row['names']} names in {row['folders']} folders at {row['last_scan']}{missed}")
    if left := row.get("not_taken"):
        todo = "add their patterns to include, or to exclude"
        lines.append(f"         no include pattern takes {untaken.in_words(left)}; {todo}")
    if row["unreadable"]:
        lines.append(f"         cannot be read: {row['unreadable']}; give the daemon's user access, or repair it")
    return lines


def iso(seconds: float) -> str:
    """Format a time: local time with its offset, to the second; ``@seconds`` for one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # shares report impossible times
        return f"@{seconds:.0f}"

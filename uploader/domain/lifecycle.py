"""The states of an upload, as one table: which step leads from which state to which. Pure.

The field ``state`` of an ``Upload`` is changed only through ``advance``, ``park`` and ``start_over``. Whoever sets it
with ``dataclasses.replace`` bypasses the rules.

The table follows the numbered rules of docs/protocol.md. Two ideas shape it. What is about to be asked of the server is
saved first: CREATING and IN_DOUBT are on disk before the server can know of it. And an unknown outcome has a state of
its own, IN_DOUBT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from uploader.domain.model import LastError, Orphan, RecordIds, State, Upload


class Step(StrEnum):
    """What can happen to an upload."""

    INTEND = "intend"  # a record is about to be asked for
    CREATED = "created"  # the server gave the ids of record and video
    NOT_CREATED = "not-created"  # the server has no such record
    LAST_BYTE = "last-byte"  # the last byte of a chunk is about to be sent
    ACKNOWLEDGED = "acknowledged"  # 2xx for a chunk that is not the last
    SENT = "sent"  # 2xx for the last chunk, or the record shows that it arrived
    REFUSED = "refused"  # the server refused a chunk, or never saw all of it; it kept none of it
    RESEND = "resend"  # in doubt, and sending again is known to be safe on this server
    START_OVER = "start-over"  # begin again on a new record
    ADOPT = "adopt"  # a record of it that was given up has landed whole after all
    READY = "ready"  # the server has processed the video
    PROVEN = "proven"  # it is what was sent
    UNPROVEN = "unproven"  # a build without proofs has left it at this point
    FINISHED = "finished"  # the ledger is written, the local file disposed of
    PARK = "park"  # somebody else must act first
    RELEASE = "release"  # go on from the state in which it was parked


# every byte was acknowledged: nothing is sent any more, unless the upload starts over
COMPLETE: Final = frozenset({State.VERIFYING, State.PROVING, State.FINISHING})
_PARKABLE = (
    State.QUEUED,
    State.CREATING,
    State.SENDING,
    State.IN_DOUBT,
    State.VERIFYING,
    State.PROVING,
    State.FINISHING,
)

TABLE: Final[Mapping[tuple[State, Step], State]] = MappingProxyType(
    {
        (State.QUEUED, Step.INTEND): State.CREATING,
        (State.CREATING, Step.CREATED): State.SENDING,
        (State.CREATING, Step.NOT_CREATED): State.QUEUED,
        (State.SENDING, Step.LAST_BYTE): State.IN_DOUBT,
        (State.IN_DOUBT, Step.ACKNOWLEDGED): State.SENDING,
        (State.IN_DOUBT, Step.SENT): State.VERIFYING,
        (State.IN_DOUBT, Step.REFUSED): State.SENDING,
        (State.IN_DOUBT, Step.RESEND): State.SENDING,
        (State.QUEUED, Step.ADOPT): State.VERIFYING,
        (State.SENDING, Step.ADOPT): State.VERIFYING,
        (State.IN_DOUBT, Step.ADOPT): State.VERIFYING,
        (State.CREATING, Step.START_OVER): State.QUEUED,
        (State.SENDING, Step.START_OVER): State.QUEUED,
        (State.IN_DOUBT, Step.START_OVER): State.QUEUED,
        (State.VERIFYING, Step.START_OVER): State.QUEUED,
        (State.VERIFYING, Step.READY): State.PROVING,
        (State.PROVING, Step.PROVEN): State.FINISHING,
        (State.PROVING, Step.START_OVER): State.QUEUED,
        (State.FINISHING, Step.UNPROVEN): State.PROVING,
        (State.FINISHING, Step.FINISHED): State.DONE,
        **{(state, Step.PARK): State.PARKED for state in _PARKABLE},
        # RELEASE is not here: it leads to the upload's own ``parked_from``
    }
)

# the steps that clear ``last_error``
FORWARD: Final = frozenset(
    {Step.CREATED, Step.ACKNOWLEDGED, Step.SENT, Step.ADOPT, Step.READY, Step.PROVEN, Step.FINISHED}
)


class IllegalStep(RuntimeError):  # noqa: N818 - it names what was tried
    """A step that the table does not have, or that would break a rule: a bug in this program."""


def advance(upload: Upload, step: Step, **changes: Any) -> Upload:
    """Take *step*; *changes* are the fields that come with it. Raises ``IllegalStep``.

    A step forward clears ``last_error``, so that only failures in a row are counted. The fields ``doubt_…`` are kept
    while the upload is in doubt, or was parked in doubt. All other steps clear them.
    """
    if upload.state is State.PARKED and step is Step.RELEASE:
        target = upload.parked_from or State.QUEUED
    elif (upload.state, step) in TABLE:
        target = TABLE[upload.state, step]
    else:
        raise IllegalStep(f"{step} is no step from {upload.state}")
    if target is not State.IN_DOUBT and not (step is Step.RELEASE or step is Step.PARK):
        changes = {"doubt_end": None, "doubt_digest": "", "doubt_at": None, **changes}
    if step in FORWARD:
        changes = {"last_error": None, **changes}
    if step is not Step.PARK:
        changes = {"parked_from": None, **changes}
    after = replace(upload, state=target, **changes)
    if broken := broken_rule(after):
        raise IllegalStep(f"{step} from {upload.state}: {broken}")
    return after


def acknowledge(upload: Upload, *, now: float) -> Upload:
    """Count the chunk in doubt as acknowledged: the answer was 2xx, or the record shows that it arrived."""
    if upload.doubt_end is None:
        raise IllegalStep("nothing is in doubt")
    changes: dict[str, Any] = {
        "offset": upload.doubt_end,
        "digest": upload.doubt_digest,
        "chunks": upload.chunks + 1,
    }
    if upload.doubt_end == upload.identity.size:
        return advance(upload, Step.SENT, sent_at=now, **changes)
    return advance(upload, Step.ACKNOWLEDGED, **changes)


def park(upload: Upload, last_error: LastError) -> Upload:
    """Park the upload with its reason. ``Step.RELEASE`` brings it back to the state that it was in."""
    if upload.state is State.PARKED:
        return replace(upload, last_error=last_error)
    return advance(upload, Step.PARK, last_error=last_error, parked_from=upload.state)


def start_over(upload: Upload, *, now: float, settle: float, spoilt: bool = False) -> tuple[Upload, Orphan | None]:
    """Begin again on a new record; the old one, if there is one, becomes an orphan.

    *settle*: seconds until the orphan is looked at; until then a request may still be on its way to it. *spoilt*: the
    old record holds a video, but not what was sent. It is kept in mind until its replacement is proven.
    """
    if upload.state is State.PARKED:
        upload = advance(upload, Step.RELEASE)
    orphan = None if spoilt else orphan_of(upload, now=now, settle=settle)
    if spoilt and upload.ids is not None:
        upload = replace(upload, spoilt=(*upload.spoilt, upload.ids.record))
    fresh = upload if upload.state is State.QUEUED else advance(upload, Step.START_OVER)
    return replace(
        fresh,
        ids=None,
        offset=0,
        digest="",
        chunks=0,
        intent_at=None,
        sent_at=None,
        ready_at=None,
        recorded=0.0,
        duration=0.0,
        restarts=upload.restarts + 1,
    ), orphan


def orphan_of(upload: Upload, *, now: float, settle: float) -> Orphan | None:
    """Return the orphan that this upload leaves behind when it is given up; None when it has no record."""
    if upload.ids is None:
        return None
    orphan = Orphan(upload.ids.record, upload.record.name, upload.path, since=now, next_look=now + settle)
    if upload.doubt_end != upload.identity.size:
        return orphan
    chunks = upload.chunks + 1
    return replace(orphan, identity=upload.identity, video=upload.ids.video, digest=upload.doubt_digest, chunks=chunks)


def adopt(upload: Upload, orphan: Orphan, *, now: float) -> Upload:
    """Take an orphan that has landed as the upload's record: every byte was sent to it."""
    return advance(
        upload,
        Step.ADOPT,
        ids=RecordIds(orphan.record, orphan.video),
        offset=upload.identity.size,
        digest=orphan.digest,
        chunks=orphan.chunks,
        sent_at=now,
        begun_at=upload.begun_at or orphan.since,
    )


def spoilt_orphans(upload: Upload, *, now: float, replaced: bool) -> tuple[Orphan, ...]:
    """Return the orphans for the records that arrived spoilt.

    *replaced*: the upload is proven, so they may be deleted. Else the upload is given up: a person must decide.
    """
    return tuple(
        Orphan(record, upload.record.name, upload.path, since=now, next_look=now, replaced=replaced)
        for record in upload.spoilt
    )


def chunk_end(upload: Upload) -> int:
    """Return the offset of the first byte after the next chunk."""
    if upload.chunk_size == 0:
        return upload.identity.size
    return min(upload.offset + upload.chunk_size, upload.identity.size)


def broken_rule(upload: Upload) -> str | None:
    """Return the rule that this value breaks, or None. Checked after every step and on every load."""
    size, state = upload.identity.size, upload.state
    if upload.state is State.PARKED:
        state = upload.parked_from or State.QUEUED
        if upload.last_error is None:
            return "parked without a reason"
        if state not in _PARKABLE:
            return f"nothing is parked from {state}"
    has_ids = state in {State.SENDING, State.IN_DOUBT, *COMPLETE}
    rules = (
        (0 <= upload.offset <= size, "offset outside the file"),
        (not has_ids or upload.ids is not None, "a record is needed here"),
        (upload.offset == 0 or bool(upload.digest), "acknowledged bytes without their digest"),
        ((state is State.IN_DOUBT) == (upload.doubt_end is not None), "doubt and its mark go together"),
        (
            upload.doubt_end is None or upload.offset < upload.doubt_end <= size,
            "the mark is not ahead of the offset",
        ),
        (state is not State.SENDING or upload.offset < size, "nothing left to send"),
        (
            state not in COMPLETE or upload.offset == size,
            "not every byte is acknowledged",
        ),
        (state is not State.CREATING or upload.intent_at is not None, "an intent without its time"),
    )
    return next((text for holds, text in rules if not holds), None)

"""Decides what shows that a recording has arrived, from the evidence so far. Pure.

``ready`` says that the server has processed something for a video, not that it is what was sent. So a local file is
touched only after its arrival is proven (docs/reliability.md, *When a server is believed*). ``judge`` asks for the
cheapest evidence that is missing, until it can decide:

* The size of what the server hands out. It suffices for a file that went in one request, or to a server that was seen
  to put chunks together: last-wins, first-wins, lost tails and doubled chunks all change it.
* The duration that the server shows, where the server transcodes and so hands out other bytes.
* The bytes themselves, fetched back: if the operator wants that, if the server does not tell a size, or if a file went
  in chunks to a server that was not seen to put them together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from uploader.domain.duration_match import durations_agree
from uploader.domain.model import Proof, ProofRule
from uploader.domain.units import format_duration

HINT: Final = 'watch the video on the server; if it is whole, set proof = "ready" to trust the server'


class Missing(Enum):
    """A piece of evidence that must be got next, the cheapest first."""

    SIZE = "size"  # what the server says when asked for the size alone
    CONFIRMED_SIZE = "confirmed size"  # what it says when asked for the first byte
    DURATIONS = "durations"
    BYTES = "bytes"
    PROBE = "probe"  # whether this server hands out the bytes that it got


@dataclass(frozen=True, slots=True)
class Proven:
    """The recording has arrived."""

    by: Proof


@dataclass(frozen=True, slots=True)
class Spoilt:
    """Something else has arrived."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unprovable:
    """No evidence can be had, for now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one upload. Sizes in bytes, durations in seconds."""

    size: int  # what was sent
    one_request: bool  # the whole of it in one request
    chunks_work: bool | None  # whether this server puts chunks together; None: not seen
    transcodes: bool | None  # whether it hands out other bytes than it got; None: not seen
    asked: frozenset[Missing] = frozenset()
    held: int | None = None  # what the server hands out; None: it does not say
    recorded: float | None = None  # duration by the file's own container; None: it does not say
    shown: float | None = None  # duration by the server; None: it does not say
    same_bytes: bool | None = None  # whether what was fetched back is what was sent

    def with_answer(self, to: Missing, **found: object) -> Evidence:
        """Return the evidence with the answer to one question."""
        return replace(self, asked=self.asked | {to}, **found)  # type: ignore[arg-type]  # each has its field's type


Judgement = Missing | Proven | Spoilt | Unprovable


def judge(rule: ProofRule, evidence: Evidence) -> Judgement:
    """Decide, or say which evidence is missing."""
    if rule == "ready":
        return Proven("ready")
    if evidence.transcodes:
        return _by_duration(evidence)
    if rule == "bytes" or not (evidence.one_request or evidence.chunks_work):
        return _by_bytes(evidence)
    return _by_size(evidence)


def _by_size(evidence: Evidence) -> Judgement:
    for question in (Missing.SIZE, Missing.CONFIRMED_SIZE):
        if question not in evidence.asked:
            return question
        if evidence.held == evidence.size:
            return Proven("size")
    if evidence.held is None:
        return _by_bytes(evidence)
    return _differs(evidence, f"the server hands out {evidence.held} bytes where {evidence.size} were sent")


def _by_bytes(evidence: Evidence) -> Judgement:
    if Missing.BYTES not in evidence.asked:
        return Missing.BYTES
    if evidence.same_bytes:
        return Proven("bytes")
    return _differs(evidence, f"the server hands out other bytes than the {evidence.size} that were sent")


def _differs(evidence: Evidence, what: str) -> Judgement:
    """What is handed out is not what was sent: it has arrived spoilt, or the server transcodes."""
    if evidence.transcodes is False:
        return Spoilt(what)
    if Missing.PROBE not in evidence.asked:
        return Missing.PROBE
    return Unprovable(f"{what}, and whether this server transcodes is not known; valt-uploader check --probe finds out")


def _by_duration(evidence: Evidence) -> Judgement:
    if Missing.DURATIONS not in evidence.asked:
        return Missing.DURATIONS
    match durations_agree(evidence.recorded, evidence.shown):
        case None:
            return Unprovable(f"this server transcodes, so only durations can be compared, and {_lacks(evidence)}")
        case False:
            recorded, shown = format_duration(evidence.recorded or 0.0), format_duration(evidence.shown or 0.0)
            return Spoilt(f"the server shows a video of {shown} where one of {recorded} was sent")
        case _ if not (evidence.one_request or evidence.chunks_work):
            return Unprovable("it went in chunks to a server that was not seen to put them together, and transcodes")
        case _:
            return Proven("duration")


def _lacks(evidence: Evidence) -> str:
    """Say why the durations are no evidence."""
    if not evidence.recorded:
        return "the file's container tells none, or the file has changed since"
    if not evidence.shown:
        return "the server tells none"
    return f"the recording is too short for that ({evidence.recorded:.1f} s)"

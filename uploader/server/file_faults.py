"""Tells a failure that only one file's calls have from an outage of the server. Pure.

A 503, 504 or 429 concerns all files as a rule: the circuit breaker opens. But a proxy or a server may give such an
answer to one file's calls only, for ever, and succeed for all others. Then the failure is that file's own. It is so
when the same kind of call has failed for the same file ``OWN_AFTER`` times, and such calls have succeeded for other
files before each repetition, at least as often as they have failed for them. A failure of another file is judged by
itself, so an outage that begins meanwhile is seen at its first failure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from uploader.domain import errors
from uploader.domain.model import State

OWN_AFTER: Final = 3  # failures of one file, with good answers to other files' calls in between
FILES_REMEMBERED: Final = 1000  # files and kinds of call; the one that failed longest ago is forgotten first


class CallKind(StrEnum):
    """What was asked of the server. An answer to one kind of call says little of another kind."""

    RECORD = "record"  # create a record, or look for it
    CHUNK = "chunk"
    ASK = "ask"  # what became of a record


def kind_of(state: State) -> CallKind:
    """Return the kind of call that an upload in this *state* needs."""
    if state in {State.QUEUED, State.CREATING}:
        return CallKind.RECORD
    return CallKind.CHUNK if state is State.SENDING else CallKind.ASK


def may_be_own(error: errors.UploaderError) -> bool:
    """True when *error* may concern one file only: the server, or a proxy, was reached and has not served this call."""
    everybody = errors.Unreachable | errors.BreakerOpen | errors.ServerFull | errors.AccountShared | errors.ProxyRefused
    return isinstance(error, errors.ServerBusy | errors.ServerDown) and not isinstance(error, everybody)


@dataclass(frozen=True, slots=True)
class OwnFailure:
    """What a failure says of its file. ``times``: own failures in a row; 0: it is the server's failure."""

    times: int = 0
    others_answered: bool = True  # such calls succeeded for other files since this file's last failure


@dataclass(frozen=True, slots=True)
class _Failures:
    """The failures of one file at one kind of call, since that last succeeded for it."""

    row: int = 0  # all of them
    others_went_well: int = 1  # the first one, and those before which other files' calls had succeeded
    good: int = 0  # good answers to such calls, of all files, when it last failed
    bad: int = 0  # failures of such calls that were no file's own, likewise


class FileFaults:
    """Remembers which files' calls have failed, and whether other files' calls succeeded in between."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, CallKind], _Failures] = {}
        self._good: Counter[CallKind] = Counter()
        self._bad: Counter[CallKind] = Counter()

    def failed(self, path: str, kind: CallKind) -> OwnFailure:
        """Note that a call for this file has failed, and say whether that is the file's own failure."""
        before = self._failures.pop((path, kind), None)
        others_answered, well = True, 1
        if before is not None:
            answered, failed = self._good[kind] - before.good, self._bad[kind] - before.bad
            others_answered = answered > 0 and answered >= failed
            well = before.others_went_well + others_answered
        own = well >= OWN_AFTER
        self._bad[kind] += not own
        row = 1 if before is None else before.row + 1
        self._failures[path, kind] = _Failures(row, well, self._good[kind], self._bad[kind])
        if len(self._failures) > FILES_REMEMBERED:
            del self._failures[next(iter(self._failures))]
        return OwnFailure(row, others_answered) if own else OwnFailure()

    def succeeded(self, path: str, kind: CallKind) -> None:
        """Note that such a call has succeeded for this file: its failures are forgotten."""
        self._failures.pop((path, kind), None)
        self._good[kind] += 1

"""The retry policy: from an error and the history of an upload it decides to try again, start over or park. Pure.

``RULES`` is the policy: one row for each kind of error, which says what is done, who waits and for how long. To change
what happens after a 503, change the row of ``ServerDown``. All limits and pauses are here, each with its unit and its
reason. The stages carry the decisions out. No retry library is used: their retries end with the coroutine that runs
them, while these must survive kill -9 and must not hold a worker (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

from uploader.domain import errors
from uploader.domain.model import ActionBy, LastError

Uniform = Callable[[float, float], float]  # returns a random number between the two

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0  # seconds

BACKOFF_CAP: Final = 300.0  # s; full jitter U(0, min(cap, 1 s * 2^n)) after n failures in a row
SLOW_BACKOFF_DOUBLINGS: Final = 3  # doublings with which the backoff of a disk or share begins
TRIES_BEFORE_PARKING: Final = 8  # failures in a row that count against a file before it is parked
PAYLOAD_REFUSALS_BEFORE_PARKING: Final = 3  # tries; VALT's "invalid payload" (500) may be a passing fault
RECORD_REMOVALS_BEFORE_PARKING: Final = 2  # records: a second removal is no accident
GONE_LOOK_PAUSE: Final = (5.0, 10.0)  # s, from and to; then *details* is asked once more before a 404 is believed
RECORDS_PER_FILE: Final = 5  # records begun for one file before an operator must act
# a chunk that is cut so often before its last byte may be too large for a proxy or gateway
CHUNK_CUTS_BEFORE_HALVING: Final = 4
FLAKY_SERVER_PAUSE: Final = 1.0  # s; doubled for each failure: 2, 4, 8, 16 s
# An outage is over after so many good answers in a row, or so many seconds (s) without a failure after the first one.
# Calls that fail and succeed in turns are then one outage in the log, not forty.
OUTAGE_OVER_ANSWERS, OUTAGE_OVER_AFTER = 10, 30.0
CONNECT_INTERVAL: Final = (5.0, 10.0)  # s, from and to; between two bare connects to a server that cannot be reached
BREAKER_FAILURES: Final = 5  # failures in a row, of any calls, after which the server counts as down
OUTAGE_PAUSE_FIRST, OUTAGE_PAUSE_CAP = 30.0, 15 * MINUTE  # s between calls to a server that is down: 30, 60, … 900 s
RETRY_BUDGET: Final = 20  # retries that a server is granted at once
ANSWERS_PER_RETRY: Final = 5  # answers that earn one more retry
HALF_OPEN_CALLS: Final = (1, 2)  # calls at a time after an outage: one, after its answer two, after the next any number
# s for which the half-open breaker keeps a slot for a call that is about to be made or recorded
HALF_OPEN_SLOT_HELD: Final = 5.0
SERVER_FULL_PAUSE: Final = OUTAGE_PAUSE_CAP  # s; a person must make room on the server
RETRY_AFTER_DEFAULT: Final = 1.0  # s; a 429 without a Retry-After (nginx never sends one): the pauses grow from there
LOGIN_PAUSES: Final = (5 * MINUTE, 15 * MINUTE, HOUR)  # s after a wrong password; faster log-ins can lock the account
RETRY_AFTER_CAP: Final = HOUR  # s; longest pause that a server can ask for
READY_POLL_FIRST, READY_POLL_CAP = 0.5, 60.0  # s between two looks at a record that is being processed
PROCESSING_RATE: Final = 1_000_000.0  # bytes/s; time for processing on top of ``ready_timeout``
# s; then ranges and larger chunks are tried again: the server may have been changed
CAPABILITIES_VALID_FOR: Final = 30 * DAY
CHANGES_BEFORE_PARKING: Final = 5  # records that were given up because the content of the file had changed meanwhile
CHANGE_PAUSES: Final = (0.0, 30.0, 2 * MINUTE, 10 * MINUTE)  # s after so many of them until the next is begun
SMALLEST_HALVED_CHUNK: Final = 64 * 1024  # bytes; a 413 for less is not about the size


class Action(StrEnum):
    """What is done with the upload."""

    TRY_AGAIN = "try-again"  # from its current state
    START_OVER = "start-over"  # on a new record
    RESETTLE = "resettle"  # drop it; the file settles again as it is now
    PARK = "park"


class FailureScope(StrEnum):
    """What has failed, and so what waits."""

    FILE = "file"  # this upload; it counts as a failure except in an outage
    SERVER = "server"  # the server: every call waits, and no upload counts a failure
    NONE = "none"  # nothing that counts as a failure: the upload waits or is parked


class Delay(StrEnum):
    """How long until the next try: of this upload or, where the rule's scope is SERVER, of any call to the server.

    The first three are pauses of one upload (``decide``), the others of the circuit breaker (``breaker_pause``).
    """

    BACKOFF = "backoff"  # U(0, min(300 s, 2^n s)) after n failures in a row
    BACKOFF_SLOW = "backoff-slow"  # the same, beginning at 2^3: for a disk or share that is not ready
    STATED = "stated"  # as long as the error says; at once if it says nothing
    OUTAGE = "outage"  # 2, 4, 8, 16 s, then 30 s doubling to 15 min; each between half of that and all of it
    OUTAGE_STATED = "outage-stated"  # the same, but at least Retry-After; no other answer ends it
    FULL = "full"  # 15 min, each between half of that and all of it
    LOGIN = "login"  # 5, 15, 60 min, then hourly; no other answer ends it


ENDED_BY_TIME: Final = frozenset({Delay.OUTAGE_STATED, Delay.LOGIN})  # pauses that answers to other calls do not end


@dataclass(frozen=True, slots=True)
class RetryRule:
    """What follows from one kind of error.

    *delay*: how long until the next try, while *tries* are left.
    *tries*: failures after which the file is parked; None: it is not parked because of a count.
    *parked_for*: seconds, ± a tenth, until a parked file is tried once more; None: not by time.
    """

    action: Action
    scope: FailureScope = FailureScope.FILE
    delay: Delay = Delay.BACKOFF
    tries: int | None = None
    parked_for: float | None = DAY


# The first row that fits applies. *tries* counts failures in a row; for START_OVER it counts records.
RULES: Final[tuple[tuple[type[errors.UploaderError], RetryRule], ...]] = (
    (errors.FileChanged, RetryRule(Action.RESETTLE, FailureScope.NONE, Delay.STATED)),
    (errors.FileError, RetryRule(Action.PARK, FailureScope.NONE, parked_for=None)),
    (errors.PasswordRefused, RetryRule(Action.TRY_AGAIN, FailureScope.SERVER, Delay.LOGIN)),
    (errors.PasswordUnusable, RetryRule(Action.TRY_AGAIN, FailureScope.SERVER, Delay.OUTAGE)),
    (errors.ServerFull, RetryRule(Action.TRY_AGAIN, FailureScope.SERVER, Delay.FULL)),  # 507
    (errors.NoRoom, RetryRule(Action.TRY_AGAIN, FailureScope.SERVER, Delay.FULL)),
    # 407, or a CONNECT that is refused: further log-ins could lock the account there
    (errors.ProxyRefused, RetryRule(Action.TRY_AGAIN, FailureScope.SERVER, Delay.FULL)),
    (errors.AccountShared, RetryRule(Action.TRY_AGAIN, FailureScope.SERVER, Delay.OUTAGE_STATED)),
    # 503, no connection, a redirect, an answer of a proxy …
    (errors.ServerDown, RetryRule(Action.TRY_AGAIN, FailureScope.SERVER, Delay.OUTAGE)),
    # 429; 503 with Retry-After
    (errors.ServerBusy, RetryRule(Action.TRY_AGAIN, FailureScope.SERVER, Delay.OUTAGE_STATED)),
    # The API works: no other upload waits, and nothing counts. It is asked again as a video that is not ready is.
    (errors.DownloadUnavailable, RetryRule(Action.PARK, FailureScope.NONE, parked_for=HOUR)),
    (errors.FileReplaced, RetryRule(Action.TRY_AGAIN, tries=TRIES_BEFORE_PARKING, parked_for=HOUR)),
    (errors.StillInDoubt, RetryRule(Action.TRY_AGAIN, FailureScope.NONE, Delay.STATED)),
    (errors.ShareNotReady, RetryRule(Action.TRY_AGAIN, FailureScope.NONE, Delay.BACKOFF_SLOW)),
    (errors.PayloadRefused, RetryRule(Action.TRY_AGAIN, tries=PAYLOAD_REFUSALS_BEFORE_PARKING)),
    (errors.RightMissing, RetryRule(Action.PARK, parked_for=HOUR)),
    (errors.LedgerUnreadable, RetryRule(Action.PARK, parked_for=HOUR)),  # by then the file may have been put back
    (errors.ServerRefused, RetryRule(Action.PARK)),
    (errors.NotReadyInTime, RetryRule(Action.PARK, FailureScope.NONE, parked_for=HOUR)),
    (errors.VideoFailed, RetryRule(Action.PARK, FailureScope.NONE, parked_for=HOUR)),
    (errors.Unproven, RetryRule(Action.PARK, FailureScope.NONE, parked_for=HOUR)),
    (errors.RecordGone, RetryRule(Action.START_OVER, tries=RECORD_REMOVALS_BEFORE_PARKING)),
    (errors.RecordSpoilt, RetryRule(Action.START_OVER, tries=RECORDS_PER_FILE + 1)),
    (errors.ChunkRefused, RetryRule(Action.START_OVER, tries=RECORDS_PER_FILE + 1)),
    (errors.ChunkTooLarge, RetryRule(Action.START_OVER)),  # halving ends by itself
    (errors.ChunkCut, RetryRule(Action.TRY_AGAIN, tries=TRIES_BEFORE_PARKING)),
    (errors.CallFailed, RetryRule(Action.TRY_AGAIN, tries=TRIES_BEFORE_PARKING, parked_for=HOUR)),
    (errors.UploaderError, RetryRule(Action.TRY_AGAIN, tries=TRIES_BEFORE_PARKING)),
)

# For an error whose row says SERVER, when only one file's calls have it.
OWN_FAILURE: Final = RetryRule(Action.TRY_AGAIN, tries=TRIES_BEFORE_PARKING, parked_for=HOUR)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done. The caller sets ``last_error.next_try`` to now + ``after``."""

    action: Action
    last_error: LastError
    after: float | None  # seconds until the next try; None: not by time
    server_level: bool = False  # no file's fault: every call to the server waits
    costs: bool = False  # the retry counts against the server's retry budget
    whole_only: bool = False  # note that this server takes whole files only
    halve_chunk: bool = False  # send smaller chunks; into the same record, unless the action is START_OVER
    limit_seen: bool = False  # note that this server refuses requests of this size
    gone: bool = False  # somebody removed the upload's record from the server
    spoilt: bool = False  # the record holds a video that is not what was sent


@dataclass(frozen=True, slots=True)
class FailureHistory:
    """What has happened to this upload so far."""

    attempts: int = 0  # failures in a row that count against this file
    not_ready: int = 0  # times in a row that its disk or share was not ready
    cuts: int = 0  # times that this chunk was cut while it was being sent
    restarts: int = 0
    gone: int = 0  # records of it that somebody removed
    chunk_size: int = 0  # bytes; 0: the whole file as one range
    size: int = 0
    offset: int = 0  # bytes that the server has acknowledged
    begun: bool = True  # the server may know of it
    chunks_work: bool = False  # the server was seen to put chunks together
    requests: int = 0  # acknowledged by its record; 1: the whole file went in one
    outage: bool = False  # other calls to the server failed, too, and none was answered since
    own_failures: int = 0  # in a row, that only this file's calls had; 0: the failure is the server's
    others_answered: bool = True  # the same calls succeeded for other files since the last of them
    asked: bool = False  # the failed call was a question about its record, not a chunk
    sent: bool = False  # every byte was sent, and acknowledged or in doubt
    gone_looks: int = 0  # looks in a row at which the server had no such record
    send_again: bool = False  # the operator wants it sent again if its record is gone
    cause: str = ""  # what its requests have failed with, and how often

    @property
    def whole(self) -> bool:
        """True when the file is sent as one range."""
        return self.chunk_size == 0 or self.chunk_size >= self.size

    @property
    def smallest(self) -> bool:
        """True when its chunks cannot be made smaller: they are minimal, or the whole file is one range."""
        return self.chunk_size == 0 or min(self.chunk_size, self.size) <= SMALLEST_HALVED_CHUNK


def rule_of(error: errors.UploaderError) -> RetryRule:
    """Return the row of ``RULES`` for *error*."""
    return next(rule for kind, rule in RULES if isinstance(error, kind))


def decide(error: errors.UploaderError, history: FailureHistory, uniform: Uniform) -> Decision:
    """Decide what follows from *error* for an upload with this *history*."""
    rule = rule_of(error)
    last_error = LastError(
        str(error), error.action_by, history.attempts, cuts=history.cuts, send_again=history.send_again
    )
    if isinstance(error, errors.FileMissing) and not history.begun:
        return Decision(Action.RESETTLE, last_error, 0.0)  # the server knows nothing of it: nothing is lost
    if rule.scope is FailureScope.SERVER:
        if history.own_failures:
            return _own_failure(error, last_error, history, uniform)
        return Decision(rule.action, last_error, 0.0, server_level=True)
    if isinstance(error, errors.StillInDoubt):
        return Decision(rule.action, last_error, error.wait)
    if isinstance(error, errors.ShareNotReady):
        # It says nothing about the file: tried ever more rarely, never parked, and not counted as a failure.
        again = backoff(history.not_ready + SLOW_BACKOFF_DOUBLINGS, uniform)
        return Decision(rule.action, replace(last_error, not_ready=history.not_ready + 1), again)
    if rule.scope is FailureScope.NONE:
        return (
            Decision(rule.action, last_error, 0.0)
            if rule.action is Action.RESETTLE
            else _park(last_error, rule, uniform)
        )
    return _of_the_file(error, last_error, rule, history, uniform)


def _of_the_file(
    error: errors.UploaderError, last_error: LastError, rule: RetryRule, history: FailureHistory, uniform: Uniform
) -> Decision:
    """Decide what follows from a failure that counts against the file."""
    if isinstance(error, errors.ChunkCut):
        return _cut(last_error, rule, history, uniform)
    if isinstance(error, errors.RecordGone) and history.asked and not history.send_again:
        if not history.gone_looks:
            return _look_again(last_error, uniform)
        if history.sent:
            return _gone_after_sending(last_error, rule, history, uniform)
    if rule.action is Action.START_OVER:
        return _start_over(error, last_error, rule, history, uniform)
    return _again_or_park(last_error, rule, history, uniform)


def _again_or_park(last_error: LastError, rule: RetryRule, history: FailureHistory, uniform: Uniform) -> Decision:
    failed = last_error.action_by is ActionBy.UPLOADER  # else the server has answered, and refused
    if failed and history.outage:
        # a failure in an outage counts against no file
        return Decision(Action.TRY_AGAIN, last_error, 0.0, server_level=True)
    attempts = history.attempts + 1
    last_error = replace(last_error, attempts=attempts)
    if rule.action is Action.TRY_AGAIN and (rule.tries is None or attempts < rule.tries):
        return Decision(Action.TRY_AGAIN, last_error, backoff(attempts, uniform), costs=failed)
    if failed:
        last_error = replace(last_error, reason=history.cause or f"{last_error.reason}, {attempts} times")
    return _park(last_error, rule, uniform)


def _look_again(last_error: LastError, uniform: Uniform) -> Decision:
    """Ask once more before a 404 to *details* is believed: a server that restarts may say so for a moment."""
    reason = f"{last_error.reason}; the server is asked once more before that is believed"
    return Decision(Action.TRY_AGAIN, replace(last_error, reason=reason, gone_looks=1), uniform(*GONE_LOOK_PAUSE))


def _gone_after_sending(last_error: LastError, rule: RetryRule, history: FailureHistory, uniform: Uniform) -> Decision:
    """Park a file that was sent whole and whose record is gone: sent again it might be there twice."""
    reason = (
        f"{last_error.reason}, twice: its record is gone from the server. Every byte had been sent, so it is not sent "
        "again automatically; if it is to be sent again, let it be retried"
    )
    last_error = replace(last_error, reason=reason, action_by=ActionBy.OPERATOR, gone_looks=history.gone_looks + 1)
    return _park(last_error, rule, uniform)


def _own_failure(
    error: errors.UploaderError, last_error: LastError, history: FailureHistory, uniform: Uniform
) -> Decision:
    """Let one file wait for a failure of the server that only this file's calls have (``server.file_faults``).

    It counts as a try of the file only if other files' calls succeeded since: else it may be an outage after all.
    """
    times = history.own_failures
    alone = ", while the same call succeeds for other files" if history.others_answered else ""
    reason = f"{last_error.reason}; {times} times in a row{alone}"
    attempts = history.attempts + history.others_answered
    last_error = replace(last_error, reason=reason, attempts=attempts)
    if attempts >= TRIES_BEFORE_PARKING:
        reason = f"{reason}; look into the log of the server, or of the proxy before it, for the cause"
        return _park(replace(last_error, reason=reason, action_by=ActionBy.OPERATOR), OWN_FAILURE, uniform)
    stated = error.retry_after if isinstance(error, errors.ServerBusy) else 0.0
    return Decision(Action.TRY_AGAIN, last_error, max(stated, backoff(times, uniform)))


def _park(last_error: LastError, rule: RetryRule, uniform: Uniform) -> Decision:
    after = None if rule.parked_for is None else uniform(0.9 * rule.parked_for, 1.1 * rule.parked_for)
    return Decision(Action.PARK, last_error, after)


def _cut(last_error: LastError, rule: RetryRule, history: FailureHistory, uniform: Uniform) -> Decision:
    """Send the chunk again. When it is cut repeatedly it may be too large for something on the way: halve it (rule 5).

    No known receiver needs chunks of one size, so the record stays, and with it every acknowledged byte.
    """
    cuts = history.cuts + 1
    if cuts >= CHUNK_CUTS_BEFORE_HALVING and not history.smallest:
        return Decision(Action.TRY_AGAIN, replace(last_error, cuts=0, attempts=0), 0.0, halve_chunk=True)
    last_error = replace(last_error, cuts=cuts)
    if cuts >= TRIES_BEFORE_PARKING:  # also in an outage: the server was reached every time
        what = f"{last_error.reason}, {cuts} times: the link breaks, or a limit on the way is below this size"
        return _park(
            replace(last_error, reason=what, action_by=ActionBy.OPERATOR, attempts=history.attempts + 1), rule, uniform
        )
    return _again_or_park(last_error, rule, history, uniform)


def _start_over(
    error: errors.UploaderError, last_error: LastError, rule: RetryRule, history: FailureHistory, uniform: Uniform
) -> Decision:
    """Begin a new record (rule 5 and similar), unless that has not helped before."""
    last_error = replace(last_error, send_again=False)
    if isinstance(error, errors.RecordSpoilt) and history.cause:
        last_error = replace(last_error, reason=f"{history.cause}; {last_error.reason}")
    refused_range, too_large = isinstance(error, errors.ChunkRefused), isinstance(error, errors.ChunkTooLarge)
    if refused_range and history.chunks_work and history.offset == 0 and not history.smallest:
        # Ranges were seen to work, so the first one is refused for its size: some handlers call that a bad request.
        refused_range, too_large = False, True
    spoilt = isinstance(error, errors.ArrivedSpoilt)
    gone = isinstance(error, errors.RecordGone)
    begun = history.gone if gone else history.restarts
    hopeless = (refused_range and history.whole) or (too_large and history.smallest)
    hopeless = hopeless or (spoilt and history.requests == 1 and history.offset == history.size)  # in one request
    if hopeless or (rule.tries is not None and begun + 1 >= rule.tries):
        why = ", again on a new record: somebody, or something, deletes it" if gone else ""
        last_error = LastError(last_error.reason + why, ActionBy.OPERATOR, history.attempts + 1)
        return _park(last_error, rule, uniform)
    if spoilt:
        return Decision(Action.START_OVER, last_error, 0.0, whole_only=True, spoilt=True)
    if refused_range or too_large:
        action = Action.TRY_AGAIN if too_large and history.offset else Action.START_OVER  # acknowledged bytes are kept
        return Decision(action, last_error, 0.0, whole_only=refused_range, halve_chunk=too_large, limit_seen=too_large)
    return Decision(Action.START_OVER, last_error, backoff(history.restarts + 1, uniform), costs=True, gone=gone)


def after_changes(times: int, uniform: Uniform) -> Decision:
    """Decide about a file whose content has changed *times* times after a record was begun for it: wait, or park it."""
    what = f"its content has changed {times} time{'s' * (times > 1)} while it was being sent"
    if times >= CHANGES_BEFORE_PARKING:
        reason = f"{what}: something goes on writing to it; find out which program does"
        return _park(LastError(reason, ActionBy.OPERATOR, times), RetryRule(Action.PARK), uniform)
    pause = CHANGE_PAUSES[min(max(times, 1), len(CHANGE_PAUSES)) - 1]
    return Decision(Action.TRY_AGAIN, LastError(f"{what}; it is given time to come to rest", ActionBy.FILE), pause)


def backoff(attempts: int, uniform: Uniform) -> float:
    """Return the pause in seconds after *attempts* failures in a row: full jitter, U(0, min(cap, 2^n))."""
    return uniform(0.0, min(BACKOFF_CAP, 2.0 ** min(attempts, 30)))


def breaker_pause(error: errors.UploaderError, failures: int, refusals: int, uniform: Uniform) -> float:
    """Return the seconds for which no call is made to the server after *error*, by its row of ``RULES``.

    *failures*: of the server, in a row, this one included; *refusals*: of the password, likewise.
    """
    delay = rule_of(error).delay
    if delay is Delay.LOGIN:
        return login_pause(refusals)
    if delay is Delay.FULL:
        return uniform(0.5, 1.0) * SERVER_FULL_PAUSE
    pause = outage_pause(failures, uniform)  # also after a failure of one file during an outage
    return max(error.retry_after, pause) if isinstance(error, errors.ServerBusy | errors.AccountShared) else pause


def outage_pause(failures: int, uniform: Uniform) -> float:
    """Return the seconds until a server that has failed *failures* times in a row is called again.

    The first four pauses are short, enough for a server that restarts. From the fifth failure on it counts as down.
    """
    if failures < BREAKER_FAILURES:
        return uniform(0.5, 1.0) * FLAKY_SERVER_PAUSE * 2.0**failures
    return uniform(0.5, 1.0) * min(OUTAGE_PAUSE_CAP, OUTAGE_PAUSE_FIRST * 2.0 ** min(failures - BREAKER_FAILURES, 30))


@dataclass(slots=True)
class RetryBudget:
    """How many retries a server is granted now. Each retry takes one; answers of the server add some again."""

    left: int = RETRY_BUDGET * ANSWERS_PER_RETRY  # in fifths of a retry, so that an answer adds a whole number

    def spend(self) -> bool:
        """Take one retry. True when that was the last: calls to the server should pause."""
        self.left = max(0, self.left - ANSWERS_PER_RETRY)
        return self.left < ANSWERS_PER_RETRY

    def earn(self) -> None:
        """Add what one answer earns."""
        self.left = min(RETRY_BUDGET * ANSWERS_PER_RETRY, self.left + 1)


def login_pause(refusals: int) -> float:
    """Return the seconds until a password that was refused *refusals* times in a row is tried again."""
    return LOGIN_PAUSES[min(max(refusals, 1), len(LOGIN_PAUSES)) - 1]


def poll_pause(age: float) -> float:
    """Return the seconds until the next look at a record that was sent *age* seconds ago: a quarter of that."""
    return min(READY_POLL_CAP, max(READY_POLL_FIRST, age / 4))


def ready_limit(ready_timeout: float, size: int) -> float:
    """Return the seconds that a server may take to process *size* bytes before the upload is parked."""
    return ready_timeout + size / PROCESSING_RATE


def retry_after(header: str | None, *, now: float, default: float = RETRY_AFTER_DEFAULT) -> float:
    """Read a Retry-After header (RFC 9110, 10.2.3), seconds or a date, in seconds, capped.

    None, and nonsense, give *default*.
    """
    seconds = default
    if header is not None:
        text = header.strip()
        if text.isascii() and text.isdigit():
            seconds = float(text)
        else:
            try:
                date = parsedate_to_datetime(text)
                # A date without a zone (the old asctime form) is in UTC, like every HTTP date.
                seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
            except (ValueError, OverflowError):
                seconds = default
    return min(RETRY_AFTER_CAP, max(0.0, seconds))

"""What next, after something went wrong: one pure policy, error + history → try again | start over | park.

Every number of the house's patience stands here, with its unit and its reason. Must never sleep, read a clock or
change an upload: the stages do what it says. No retry library is used: theirs live in a running coroutine and die
with it, while ours must survive kill -9 and hold no worker (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

from uploader import errors
from uploader.model import Trouble, Turn

Uniform = Callable[[float, float], float]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0  # seconds

BACKOFF_CAP = 300.0  # s; full jitter U(0, min(cap, 1 s * 2^n)) after n failures in a row
FAST_TRIES = 8  # failures in a row that count against a file before it is parked for a day
REFUSED_TRIES = 3  # a 500 may be VALT's "invalid payload" or a passing fault: three tries tell
RESTART_LIMIT = 5  # records begun for one file before a person should look
OUTAGE_FIRST, OUTAGE_CAP = 1.0, 15 * MINUTE  # s; pause between probes of a server that is down
LOGIN_PAUSES = (5 * MINUTE, 15 * MINUTE, HOUR)  # after a wrong password: accounts get locked by less
RETRY_AFTER_CAP = HOUR  # s; whatever the server says
POLL_FIRST, POLL_CAP = 0.5, 60.0  # s; between two looks at a record that is being processed
READY_RATE = 1_000_000.0  # bytes/s of processing that we grant on top of ``ready_timeout``
WHOLE_ONLY_FOR = 30 * DAY  # s; then chunks are tried again: the server may have been updated
MIN_CHUNK = 64 * 1024  # bytes; below this a 413 is not about the size


class Action(StrEnum):
    """What is to be done with the upload."""

    TRY_AGAIN = "try-again"  # from where it stands
    START_OVER = "start-over"  # on a new record
    RESETTLE = "resettle"  # forget it; the file is seen again as it is now
    PARK = "park"


@dataclass(frozen=True, slots=True)
class Next:
    """The policy's answer. ``trouble.next_try`` is left to the caller: it is now + ``after``."""

    action: Action
    trouble: Trouble
    after: float | None  # seconds; None: not by itself
    server_level: bool = False  # nobody's file is at fault: hold every call to the server
    whole_only: bool = False  # learn: this server takes whole files only
    halve_chunk: bool = False  # learn: this server wants smaller requests


@dataclass(frozen=True, slots=True)
class History:
    """What has happened to this upload so far."""

    attempts: int = 0  # failures in a row that count
    not_ready: int = 0  # times in a row that its disk or share was not ready
    restarts: int = 0
    chunk_size: int = 0  # bytes; 0: the whole file as one range
    size: int = 0
    begun: bool = True  # the server may know of it


def decide(error: errors.UploaderError, history: History, uniform: Uniform) -> Next:
    """Say what follows from *error* for an upload with this *history*."""
    not_begun = isinstance(error, errors.FileMissing) and not history.begun
    if isinstance(error, errors.FileChanged) or not_begun:
        return Next(Action.RESETTLE, _trouble(error, history.attempts), 0.0)
    if isinstance(error, errors.FilesTurn):
        return Next(Action.PARK, _trouble(error, history.attempts), None)
    if isinstance(error, errors.PasswordRefused | errors.PasswordUnusable):
        return Next(Action.TRY_AGAIN, _trouble(error, history.attempts), 0.0, server_level=True)
    if isinstance(error, errors.ServerDown | errors.ServerBusy):
        return Next(Action.TRY_AGAIN, _trouble(error, history.attempts), 0.0, server_level=True)
    if isinstance(error, errors.StillInDoubt):
        return Next(Action.TRY_AGAIN, _trouble(error, history.attempts), error.wait)
    if isinstance(error, errors.ShareNotReady):
        # Nobody's verdict on the file: ever more rarely, but never given up, and never a failure of the file's own.
        trouble = replace(_trouble(error, history.attempts), not_ready=history.not_ready + 1)
        return Next(Action.TRY_AGAIN, trouble, backoff(history.not_ready + 3, uniform))
    if isinstance(error, errors.ServerRefused):
        tries = REFUSED_TRIES if error.passing else 1
        return _again_or_park(error, history, uniform, tries=tries)
    if isinstance(error, errors.RecordGone | errors.RecordSpoilt | errors.ChunkRefused | errors.ChunkTooLarge):
        return _start_over(error, history, uniform)
    return _again_or_park(error, history, uniform, tries=FAST_TRIES)


def _again_or_park(error: errors.UploaderError, history: History, uniform: Uniform, *, tries: int) -> Next:
    attempts = history.attempts + 1
    trouble = _trouble(error, attempts)
    if attempts < tries:
        return Next(Action.TRY_AGAIN, trouble, backoff(attempts, uniform))
    return Next(Action.PARK, trouble, uniform(0.9 * DAY, 1.1 * DAY))


def _start_over(error: errors.UploaderError, history: History, uniform: Uniform) -> Next:
    """Begin a new record (rule 5 and its kin), unless that has not helped before."""
    whole = history.chunk_size == 0 or history.chunk_size >= history.size
    refused_range = isinstance(error, errors.ChunkRefused)
    too_large = isinstance(error, errors.ChunkTooLarge)
    small = history.chunk_size != 0 and min(history.chunk_size, history.size) <= MIN_CHUNK
    hopeless = (refused_range and whole) or (too_large and (history.chunk_size == 0 or small))
    # Halving ends by itself at MIN_CHUNK, and what it learns is kept: it does not count as a restart.
    if hopeless or (history.restarts >= RESTART_LIMIT and not too_large):
        trouble = Trouble(str(error), Turn.OPERATOR, history.attempts + 1)
        return Next(Action.PARK, trouble, uniform(0.9 * DAY, 1.1 * DAY))
    pause = 0.0 if refused_range or too_large else backoff(history.restarts + 1, uniform)
    trouble = _trouble(error, history.attempts)
    return Next(Action.START_OVER, trouble, pause, whole_only=refused_range, halve_chunk=too_large)


def _trouble(error: errors.UploaderError, attempts: int) -> Trouble:
    return Trouble(str(error), error.turn, attempts)


def backoff(attempts: int, uniform: Uniform) -> float:
    """Pause in seconds after *attempts* failures in a row: full jitter, U(0, min(cap, 2^n))."""
    return uniform(0.0, min(BACKOFF_CAP, 2.0 ** min(attempts, 30)))


def outage_pause(failures: int, uniform: Uniform) -> float:
    """Seconds until a server that has failed *failures* times in a row is asked again."""
    return uniform(0.5, 1.0) * min(OUTAGE_CAP, OUTAGE_FIRST * 2.0 ** min(failures, 30))


def login_pause(refusals: int) -> float:
    """Seconds until a password that was refused *refusals* times in a row is tried again."""
    return LOGIN_PAUSES[min(max(refusals, 1), len(LOGIN_PAUSES)) - 1]


def poll_pause(age: float) -> float:
    """Seconds until the next look at a record that was sent *age* seconds ago: a quarter of its age."""
    return min(POLL_CAP, max(POLL_FIRST, age / 4))


def ready_patience(ready_timeout: float, size: int) -> float:
    """Seconds a server may take to process *size* bytes before the upload is parked as unverified."""
    return ready_timeout + size / READY_RATE


def retry_after(header: str | None, *, now: float, default: float = MINUTE) -> float:
    """Read a Retry-After header (RFC 9110, 10.2.3): seconds or a date; nonsense gives *default*; capped."""
    seconds = default
    if header is not None:
        text = header.strip()
        if text.isascii() and text.isdigit():
            seconds = float(text)
        else:
            try:
                date = parsedate_to_datetime(text)
                # A date without a zone (the old asctime form) is in UTC, as they all are.
                seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
            except (ValueError, OverflowError):
                seconds = default
    return min(RETRY_AFTER_CAP, max(0.0, seconds))

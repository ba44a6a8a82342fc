"""When a file is complete: the one place that decides it. Pure.

A file that has stood still may be a copy that stalls, a recording on hold, a file that was made at full size and is
being filled. Standing still is asked first, and never proves anything alone. Must never compare a file's time with any
clock: the clocks of shares are wrong; ages are by our own monotonic clock since we last saw a change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from uploader.domain.model import Closeness, Snapshot
from uploader.domain.placeholders import fill_names
from uploader.domain.units import format_duration

LEAST: Final = 0.001  # s: a rest that is lost in the clock's rounding would be waited for in no time, for ever
MIN_PAUSE: Final = 0.5  # s: ``settle = "0s"`` is no reason to look without a pause
PATIENT: Final = 0.25  # of the time that a file has been held back: when it is looked at again


@dataclass(frozen=True, slots=True)
class Rules:
    """What a watched folder asks of a file. Seconds."""

    settle: float
    gate: bool
    gate_timeout: float
    longest: float  # between two looks at a file that is held back
    done_marker: str = ""


@dataclass(frozen=True, slots=True)
class Still:
    """What a file has been, and since when (monotonic): every look that sees another one begins anew."""

    snapshot: Snapshot
    since: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: why, and when to look again, in seconds."""

    reason: str
    after: float
    changed: bool = False  # since the last look
    held: bool = False  # it stands still, and yet something speaks against it
    soon: bool = True  # it may well be complete within moments: worth waiting for


@dataclass(frozen=True, slots=True)
class Complete:
    """It may go on. ``unplayable``: why no record is to be made for it as it is, and what helps."""

    unplayable: str = ""


def stand(before: Still | None, snapshot: Snapshot, now: float) -> Still:
    """Take a look in: the same as before, or standing still only from now on."""
    return before if before is not None and before.snapshot == snapshot else Still(snapshot, now)


def too_early(rules: Rules, still: Still, before: Still | None, now: float) -> Wait | None:
    """Say that a file has not stood still for long enough; None when it may be asked more."""
    if still is not before:
        return Wait(f"it must stand still for {rules.settle:g} s", rules.settle, changed=before is not None)
    if (left := rules.settle - (now - still.since)) > 0:
        return Wait(f"it must stand still for {rules.settle:g} s", max(left, LEAST))
    return None


def judge(rules: Rules, size: int, still_for: float, *, marker: str, closeness: Closeness) -> Wait | Complete:
    """Decide about a file that has stood still for *still_for* seconds. *marker*: the one that is missing, if any."""
    if marker:
        return held_back(f"it waits for its marker {marker}", rules, still_for)
    if closeness.writer:
        return held_back("a process on this host still has it open for writing", rules, still_for, soon=True)
    if size == 0:  # a range of no bytes does not exist (docs/protocol.md, rule 8)
        return Complete(unplayable="the file is empty; it is sent when it has content")
    unfinished = closeness.unfinished
    if not unfinished:
        return Complete()
    if (left := rules.gate_timeout - still_for) <= 0:
        return Complete(unplayable=f"{unfinished}; it goes on when the file changes, or by hand: valt-uploader retry")
    wait = held_back(f"{unfinished}; parked unless it changes within {format_duration(left)}", rules, still_for)
    return replace(wait, after=max(min(wait.after, left), LEAST))


def held_back(reason: str, rules: Rules, still_for: float, *, soon: bool = False) -> Wait:
    """Wait, the longer the longer it has been: what is held back is not looked at more often than what moves."""
    pause = max(rules.settle, PATIENT * still_for, MIN_PAUSE)
    return Wait(reason, min(pause, max(rules.longest, MIN_PAUSE)), held=True, soon=soon)


def marker_of(rules: Rules, path: str) -> str:
    """Name the file beside *path* that must be there before *path* is sent; empty when none is asked for."""
    if not rules.done_marker:
        return ""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{fill_names(rules.done_marker, name)}"

"""When a file is complete: the one place that decides it. Pure.

A file that has stood still may be a copy that stalls, a recording on hold, a file that was made at full size and is
being filled. Standing still is asked first, and never proves anything alone. Must never compare a file's time with any
clock: the clocks of shares are wrong; ages are by our own monotonic clock since we last saw a change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from uploader.domain.model import Snapshot, WriteState
from uploader.domain.placeholders import fill_names
from uploader.domain.units import format_duration

SHORTEST_WAIT: Final = 0.001  # s: a rest that is lost in the clock's rounding would be waited for in no time, for ever
SHORTEST_LOOK_INTERVAL: Final = 0.5  # s: ``settle = "0s"`` is no reason to look without a pause
HELD_BACK_LOOK_FRACTION: Final = 0.25  # of the time that a file has been held back: when it is looked at again


@dataclass(frozen=True, slots=True)
class CompletenessRules:
    """What a watched folder asks of a file. Seconds."""

    settle: float
    gate: bool
    gate_timeout: float
    longest_look_interval: float  # between two looks at a file that is held back
    done_marker: str = ""


@dataclass(frozen=True, slots=True)
class StableSince:
    """What a file has been, and since when (monotonic): every look that sees another one begins anew."""

    snapshot: Snapshot
    since: float


@dataclass(frozen=True, slots=True)
class NotYet:
    """Not yet: why, and when to look again, in seconds."""

    reason: str
    after: float
    changed: bool = False  # since the last look
    held: bool = False  # it stands still, and yet something speaks against it
    worth_waiting: bool = True  # it may well be complete within moments: worth waiting for


@dataclass(frozen=True, slots=True)
class Complete:
    """It may go on. ``unplayable``: why no record is to be made for it as it is, and what helps."""

    unplayable: str = ""


def observe(before: StableSince | None, snapshot: Snapshot, now: float) -> StableSince:
    """Take a look in: the same as before, or standing still only from now on."""
    return before if before is not None and before.snapshot == snapshot else StableSince(snapshot, now)


def too_early(rules: CompletenessRules, stable: StableSince, before: StableSince | None, now: float) -> NotYet | None:
    """Say that a file has not stood still for long enough; None when it may be asked more."""
    if stable is not before:
        return NotYet(f"it must stand still for {rules.settle:g} s", rules.settle, changed=before is not None)
    if (left := rules.settle - (now - stable.since)) > 0:
        return NotYet(f"it must stand still for {rules.settle:g} s", max(left, SHORTEST_WAIT))
    return None


def check_complete(
    rules: CompletenessRules, size: int, stable_for: float, *, marker: str, write_state: WriteState
) -> NotYet | Complete:
    """Decide about a file that has stood still for *stable_for* seconds. *marker*: the one that is missing, if any."""
    if marker:
        return held_back(f"it waits for its marker {marker}", rules, stable_for)
    if write_state.writer:
        return held_back("a process on this host still has it open for writing", rules, stable_for, soon=True)
    if size == 0:  # a range of no bytes does not exist (docs/protocol.md, rule 8)
        return Complete(unplayable="the file is empty; it is sent when it has content")
    unfinished = write_state.unfinished
    if not unfinished:
        return Complete()
    if (left := rules.gate_timeout - stable_for) <= 0:
        return Complete(unplayable=f"{unfinished}; it goes on when the file changes, or by hand: valt-uploader retry")
    wait = held_back(f"{unfinished}; parked unless it changes within {format_duration(left)}", rules, stable_for)
    return replace(wait, after=max(min(wait.after, left), SHORTEST_WAIT))


def held_back(reason: str, rules: CompletenessRules, stable_for: float, *, soon: bool = False) -> NotYet:
    """Wait, the longer the longer it has been: what is held back is not looked at more often than what moves."""
    pause = max(rules.settle, HELD_BACK_LOOK_FRACTION * stable_for, SHORTEST_LOOK_INTERVAL)
    return NotYet(
        reason, min(pause, max(rules.longest_look_interval, SHORTEST_LOOK_INTERVAL)), held=True, worth_waiting=soon
    )


def marker_of(rules: CompletenessRules, path: str) -> str:
    """Name the file beside *path* that must be there before *path* is sent; empty when none is asked for."""
    if not rules.done_marker:
        return ""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{fill_names(rules.done_marker, name)}"

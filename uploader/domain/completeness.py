"""Decides when a file is complete. Pure, and the only place that decides it.

That a file is unchanged is necessary, but not sufficient: it may be a stalled copy, a paused recording, or a file that
was created at full size and is still being filled. Time is measured on this host's monotonic clock since the last
change that was seen. A file's own times are never compared with a clock: the clocks of shares are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from uploader.domain.commands import typed
from uploader.domain.model import EVERYTHING, GateRule, Snapshot, WriteState
from uploader.domain.placeholders import fill_names, pieces
from uploader.domain.units import format_duration

SHORTEST_WAIT: Final = 0.001  # s: a shorter wait may be lost in the clock's rounding, and would be repeated without end
SHORTEST_LOOK_INTERVAL: Final = 0.5  # s; also with ``settle = "0s"``
# × settle: for how long a ctime or an inode that moves alone extends the wait. A backup that makes hard links, or a
# tool that sets rights, moves the ctime of a finished file again and again: no reason never to send it.
LONGEST_WAIT_FOR_METADATA: Final = 3.0
METADATA: Final = frozenset({"ctime", "inode"})  # what moves without a write to the file
HELD_BACK_LOOK_FRACTION: Final = 0.25  # of the time that a file has been held back: the pause until the next look


@dataclass(frozen=True, slots=True)
class CompletenessRules:
    """What a watched folder requires of a file. Times are seconds."""

    settle: float  # how long it must have been unchanged
    gate: GateRule  # whether it is held back while its container is not closed
    gate_timeout: float  # after which it is held back no longer, and is parked or, if ``gate`` says so, sent as it is
    longest_look_interval: float  # between two looks at a file that is held back
    done_marker: str = ""  # pattern for the name of its marker file


@dataclass(frozen=True, slots=True)
class Moved:
    """How often a part of a snapshot has moved while the file was waited for, and when last (monotonic)."""

    times: int
    last: float


@dataclass(frozen=True, slots=True)
class StableSince:
    """What a file is, and since when (monotonic) it has been unchanged.

    ``content_since``: since when its size, mtime and content have been unchanged; None: as long as all the rest.
    ``bytes_since``: since when its size and content have been, whatever its mtime did; None: as long as those three.
    ``moved``: which of size, mtime, ctime, inode and content have moved so far.
    """

    snapshot: Snapshot
    since: float
    content_since: float | None = field(default=None, compare=False)
    moved: Mapping[str, Moved] = field(default_factory=dict, compare=False)
    bytes_since: float | None = field(default=None, compare=False)

    @property
    def unchanged_since(self) -> float:
        """Since when its size, mtime and content have been unchanged."""
        return self.since if self.content_since is None else self.content_since

    @property
    def same_bytes_since(self) -> float:
        """Since when its size and its ends have been unchanged."""
        return self.unchanged_since if self.bytes_since is None else self.bytes_since


@dataclass(frozen=True, slots=True)
class NotYet:
    """The file is not complete yet: why, and in how many seconds to look again."""

    reason: str
    after: float
    changed: bool = False  # since the last look
    held: bool = False  # it has been unchanged for long enough, but another condition is not met
    worth_waiting: bool = True  # it may be complete within moments


@dataclass(frozen=True, slots=True)
class Complete:
    """Nothing more is waited for: the file goes on to the next stage, which sends it or parks it.

    ``unplayable``: why it is parked, and what helps; empty when it is sent. ``not_closed``: what its container lacks,
    though it is sent.
    """

    unplayable: str = ""
    not_closed: str = ""


def observe(before: StableSince | None, snapshot: Snapshot, now: float) -> StableSince:
    """Return since when a file has been unchanged: *before* if it is as it was then, else from *now* on."""
    if before is None:
        return StableSince(snapshot, now)
    if before.snapshot == snapshot:
        return before
    parts = what_moved(before.snapshot, snapshot)
    counts = {part: Moved(before.moved[part].times + 1 if part in before.moved else 1, now) for part in parts}
    content_since = before.unchanged_since if METADATA.issuperset(parts) else None
    bytes_since = before.same_bytes_since if {*METADATA, "mtime"}.issuperset(parts) else None
    return StableSince(snapshot, now, content_since, {**before.moved, **counts}, bytes_since)


def what_moved(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """Return which parts of two snapshots differ: size, mtime, content (its ends), ctime, inode."""
    pairs = {
        "size": (before.identity.size, after.identity.size),
        "mtime": (before.identity.mtime_ns, after.identity.mtime_ns),
        "content": (before.identity.edges, after.identity.edges),
        "ctime": (before.ctime_ns, after.ctime_ns),
        "inode": (before.inode, after.inode),
    }
    return tuple(part for part, (then, now) in pairs.items() if then != now)


def too_early(rules: CompletenessRules, stable: StableSince, before: StableSince | None, now: float) -> NotYet | None:
    """Return the wait for a file that has changed too recently; None when it has been unchanged for long enough."""
    if stable.content_since is not None and now - stable.content_since >= LONGEST_WAIT_FOR_METADATA * rules.settle:
        return None  # only its metadata moves
    reason = f"it must be unchanged for {rules.settle:g} s{_movements(stable)}"
    if stable is not before:  # ``observe`` has seen it for the first time, or has seen a change
        return NotYet(reason, rules.settle, changed=before is not None)
    if (left := rules.settle - (now - stable.since)) > 0:
        return NotYet(reason, max(left, SHORTEST_WAIT))
    return None


def is_restless(rules: CompletenessRules, stable: StableSince, now: float) -> bool:
    """True when only the mtime of a file has moved for so long that its whole content is compared.

    Something sets it more often than ``settle`` is long. A writer that fills a file of its final size moves it, too, so
    the mtime alone tells nothing.
    """
    longest = max(rules.gate_timeout, LONGEST_WAIT_FOR_METADATA * rules.settle)
    return stable.bytes_since is not None and now - stable.bytes_since >= longest


def _movements(stable: StableSince) -> str:
    """Say which parts have moved so far and how often, the last one first."""
    parts = sorted(stable.moved.items(), key=lambda item: -item[1].last)
    said = ", ".join(f"its {part} {moved.times} time{'s' * (moved.times > 1)}" for part, moved in parts)
    return f"; moved so far: {said}" if said else ""


def check_complete(
    rules: CompletenessRules,
    size: int,
    stable_for: float,
    *,
    marker: str,
    write_state: WriteState,
    path: str = EVERYTHING,
) -> NotYet | Complete:
    """Decide about a file that has been unchanged for *stable_for* seconds.

    *marker*: the missing one, if any. *path*: of the file, for the command that the reason names.
    """
    if marker:
        return held_back(f"it waits for its marker {marker}", rules, stable_for)
    if write_state.writer:
        return held_back("a process on this host still has it open for writing", rules, stable_for, soon=True)
    if write_state.companion:
        return _until_timeout(write_state.companion, rules, stable_for, path=path)
    if size == 0:  # a range of no bytes does not exist (docs/protocol.md, rule 8)
        return Complete(unplayable="the file is empty; it is sent when it has content")
    if not write_state.unfinished:
        return Complete()
    return _until_timeout(write_state.unfinished, rules, stable_for, playable=write_state.playable, path=path)


def _until_timeout(
    unfinished: str, rules: CompletenessRules, stable_for: float, *, playable: bool = False, path: str = EVERYTHING
) -> NotYet | Complete:
    """Hold an unfinished file back; after ``gate_timeout`` it is parked, or sent as it is if ``gate`` says so."""
    sent = playable and rules.gate == "playable"
    if (left := rules.gate_timeout - stable_for) > 0:
        reason = (
            f"{unfinished}; {'sent as it is' if sent else 'parked'} unless it changes within {format_duration(left)}"
        )
        wait = held_back(reason, rules, stable_for)
        return replace(wait, after=max(min(wait.after, left), SHORTEST_WAIT))
    if sent:
        return Complete(not_closed=unfinished)
    such_files = '; gate = "playable" in its [[watch]] sends such files by itself' if playable else ""
    return Complete(
        unplayable=f"{unfinished}{such_files}; it goes on when the file changes, or after: {typed('retry', path)}"
    )


def held_back(reason: str, rules: CompletenessRules, stable_for: float, *, soon: bool = False) -> NotYet:
    """Return the wait for a file that is held back: it grows with the time that the file has been unchanged.

    *soon*: the condition may be met within moments.
    """
    pause = max(rules.settle, HELD_BACK_LOOK_FRACTION * stable_for, SHORTEST_LOOK_INTERVAL)
    return NotYet(
        reason, min(pause, max(rules.longest_look_interval, SHORTEST_LOOK_INTERVAL)), held=True, worth_waiting=soon
    )


def is_marker(done_marker: str, name: str) -> bool:
    """True when a file of this name may be the marker of another one."""
    return bool(done_marker) and _marker_pattern(done_marker).fullmatch(name) is not None


@lru_cache(maxsize=64)
def _marker_pattern(done_marker: str) -> re.Pattern[str]:
    parts = (re.escape(piece.literal) + ("" if piece.name is None else ".*") for piece in pieces(done_marker))
    return re.compile("".join(parts), re.DOTALL)


def marker_of(rules: CompletenessRules, path: str) -> str:
    """Return the marker file that must exist before *path* is sent; empty when none is configured."""
    if not rules.done_marker:
        return ""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{fill_names(rules.done_marker, name)}"

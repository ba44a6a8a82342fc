"""Computes the limits in force at a moment, and the events that describe a change.

Pure: local time, growing folders and disk pressure are arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from uploader.domain.events import BandwidthChanged
from uploader.domain.model import shown
from uploader.domain.units import DAYS, RateStep, format_rate

BY_TIMETABLE: Final = "by the timetable"
BY_CONFIGURATION: Final = "by the configuration"


def rate_now(schedule: Sequence[RateStep], local: datetime) -> float | None:
    """Return the bytes per second at this local time; None is no limit. *schedule*: at least one step, in any order.

    The step in force is the last one that began, today or on an earlier day; the week repeats. Only the local clock
    time counts: a step within the hour that is skipped in spring begins at the end of that hour, and the hour that is
    repeated in autumn has its rates twice.
    """
    minute = local.hour * 60 + local.minute
    for back in range(len(DAYS) + 1):  # the last one: this weekday a week ago
        day = (local.weekday() - back) % len(DAYS)
        begun = [step for step in schedule if day in step.days and (back > 0 or step.minute <= minute)]
        if begun:
            return max(begun, key=lambda step: step.minute).bytes_per_second
    raise ValueError("a timetable without steps")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in force. Rates in bytes per second; None is no limit."""

    scheduled: float | None  # by the timetable, for all uploads together
    slow: float  # for all slowed uploads together
    pressed: bool = False  # the disk is under pressure: all uploads are slowed
    recorded: frozenset[str] = frozenset()  # folders below which a file grows: their uploads are slowed

    @property
    def total(self) -> float | None:
        """The rate for all uploads together."""
        return _lower(self.scheduled, self.slow) if self.pressed else self.scheduled

    def rate_of(self, root: str) -> float | None:
        """Return the rate that applies to the uploads of this folder: the slow one if a file grows there."""
        return _lower(self.total, self.slow) if root in self.recorded else self.total


def changes(before: Limits, after: Limits, cause: str) -> Iterator[BandwidthChanged]:
    """Yield an event for each rate that has changed. *cause*: the reason to name for a change of the scheduled rate."""
    if before.total != after.total:
        reason = cause
        if before.pressed != after.pressed:
            reason = "while the disk is under pressure" if after.pressed else "again: the disk keeps up"
        yield BandwidthChanged(after.total, f"{_words(after.total)} {reason}")
    for root in sorted(before.recorded | after.recorded):
        rate, was_recorded, is_recorded = after.rate_of(root), root in before.recorded, root in after.recorded
        if rate == before.rate_of(root) or (was_recorded and is_recorded and before.slow == after.slow):
            continue  # unchanged, or it has changed with the total, which is reported above
        reason = "while a file grows in" if is_recorded else "again: no file grows any more in"
        yield BandwidthChanged(rate, f"{_words(rate)} {reason} {shown(root)}", root)


def _lower(rate: float | None, other: float) -> float:
    """Return the lower rate; None is no limit."""
    return other if rate is None else min(rate, other)


def _words(rate: float | None) -> str:
    return "unlimited" if rate is None else format_rate(rate)

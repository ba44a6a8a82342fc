"""Detects recording on this machine: files that grow, and a disk that cannot keep up.

Pure. Both states end only after ``CALM_TIME`` seconds without their cause, so that uploads do not change their rate
every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from uploader.domain.selection import relative

CALM_TIME: Final = 5.0  # s without growth, or pressure, until uploads may use their full rate again
# % of the last ten seconds in which some task waited for the disk: from here on uploads are slowed down
PRESSURE_ON: Final = 25.0
PRESSURE_OFF: Final = 10.0  # %: below this the pressure is over; in between the state does not change


class Growth:
    """The files that are growing: each from a change until ``CALM_TIME`` after it has stopped."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # monotonic

    def changed(self, path: str, settle: float, now: float) -> None:
        """Note that the file is new or has changed. The next look at it may be *settle* seconds away."""
        self._until[path] = now + settle + CALM_TIME

    def settled(self, path: str, now: float) -> None:
        """Note that the file has not changed for its settle time."""
        if path in self._until:
            self._until[path] = min(self._until[path], now + CALM_TIME)

    def folders(self, roots: Iterable[str], now: float) -> frozenset[str]:
        """Return those of *roots* below which a file grows."""
        self._until = {path: until for path, until in self._until.items() if until > now}
        return frozenset(root for root in roots if any(relative(root, path) is not None for path in self._until))


class DiskPressure:
    """Whether the disk is under pressure, from readings of the percentage of time in which tasks wait for it."""

    def __init__(self) -> None:
        self._until: float | None = None  # monotonic

    def feel(self, percent: float | None, now: float) -> None:
        """Add a reading, in per cent; None: not known, which counts as no pressure."""
        if percent is not None and percent >= (PRESSURE_OFF if self.pressed(now) else PRESSURE_ON):
            self._until = now + CALM_TIME

    def pressed(self, now: float) -> bool:
        """True while the disk is under pressure, so that uploads should slow down."""
        return self._until is not None and now < self._until

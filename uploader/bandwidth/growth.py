"""Whether somebody is recording here: files that grow, and a disk that cannot keep up.

Pure. Must never touch the disk or read a clock. Both answers are slow to end: what was true counts until ``CALM_TIME``
seconds have passed without it, so that no upload is slowed down and let go again in quick turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from uploader.domain.selection import relative

CALM_TIME: Final = 5.0  # s without growth, or pressure, until uploads may go at their full rate again
# % of the last ten seconds in which some task waited for the disk: uploads get out of the way
PRESSURE_ON: Final = 25.0
PRESSURE_OFF: Final = 10.0  # %: below this the pressure is over; in between it stays what it was


class Growth:
    """The files that were seen to change, each until it has been still for long enough. Forgets the others."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # monotonic

    def changed(self, path: str, settle: float, now: float) -> None:
        """The file is new or not what it was. The next look at it may be *settle* seconds away."""
        self._until[path] = now + settle + CALM_TIME

    def settled(self, path: str, now: float) -> None:
        """The file has stood still for its settle time."""
        if path in self._until:
            self._until[path] = min(self._until[path], now + CALM_TIME)

    def folders(self, roots: Iterable[str], now: float) -> frozenset[str]:
        """Those of *roots* below which a file grows."""
        self._until = {path: until for path, until in self._until.items() if until > now}
        return frozenset(root for root in roots if any(relative(root, path) is not None for path in self._until))


class DiskPressure:
    """Whether the disk is under pressure, from readings of how much of the time tasks wait for it."""

    def __init__(self) -> None:
        self._until: float | None = None  # monotonic

    def feel(self, share: float | None, now: float) -> None:
        """Take in a reading, in per cent; None: there is none, which is no pressure."""
        if share is not None and share >= (PRESSURE_OFF if self.pressed(now) else PRESSURE_ON):
            self._until = now + CALM_TIME

    def pressed(self, now: float) -> bool:
        """True while uploads should leave the disk to others."""
        return self._until is not None and now < self._until

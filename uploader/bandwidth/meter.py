"""When the next bytes may go under one rate: arithmetic on the monotonic clock.

Pure. Must never wait, nor read a clock: every moment is an argument.

Within any ``BURST_WINDOW`` a meter passes at most ``BURST_WINDOW + CATCH_UP_TIME + GRANT_TIME`` seconds' worth of
bytes, 1.6 times its rate; over ten seconds it is exact to 1.2 %.
"""

from __future__ import annotations

from typing import Final

BURST_WINDOW: Final = 0.2  # s: over any such time, no more than twice the rate
GRANT_TIME: Final = 0.02  # s' worth of bytes in one grant: many small ones are smooth, and take turns quickly
CATCH_UP_TIME: Final = 0.1  # s that may be made up for when a timer or a disk was late; what is older is lost
LARGEST_GRANT: Final = 1 << 20  # bytes: beyond this a larger piece saves nothing
TIME_TOLERANCE: Final = 1e-6  # s that do not count: a sum of floats may fall short of the moment it was to reach


class Meter:
    """One rate in bytes per second, or none, and from when on the next byte may go."""

    __slots__ = ("_due", "rate")

    def __init__(self, rate: float | None, now: float) -> None:
        self.rate = rate
        self._due = now

    @property
    def piece(self) -> int:
        """Bytes that make one smooth piece at this rate; at least 1."""
        return LARGEST_GRANT if self.rate is None else min(LARGEST_GRANT, max(1, int(self.rate * GRANT_TIME)))

    def wait(self, now: float) -> float:
        """Seconds until the next piece may go; 0.0 when it may go now."""
        wait = 0.0 if self.rate is None else self._due - now
        return wait if wait > TIME_TOLERANCE else 0.0

    def spend(self, count: int, now: float) -> None:
        """Let *count* bytes go: the next ones wait until these have had their time."""
        if self.rate is not None:
            self._due = max(self._due, now - CATCH_UP_TIME) + count / self.rate

    def give_back(self, count: int) -> None:
        """Take back what was spent for *count* bytes that did not go after all."""
        if self.rate is not None:
            self._due -= count / self.rate

    def change(self, rate: float | None, now: float) -> None:
        """Go on at another rate. Neither a wait nor a credit of the old one grows by it, in seconds or in bytes."""
        if rate == self.rate:
            return
        if rate is None or self.rate is None:
            self._due = now
        else:
            self._due = now + max(self._due - now, -CATCH_UP_TIME) * min(1.0, self.rate / rate)
        self.rate = rate

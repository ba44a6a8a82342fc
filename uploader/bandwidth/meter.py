"""Computes when the next bytes may be sent at one rate, on the monotonic clock.

Pure: it does not wait or read a clock.

Within any ``BURST_WINDOW`` a meter passes at most ``BURST_WINDOW + CATCH_UP_TIME + GRANT_TIME`` seconds' worth of
bytes, 1.6 times its rate; over ten seconds it is exact to 1.2 %.
"""

from __future__ import annotations

from typing import Final

BURST_WINDOW: Final = 0.2  # s: over any such time, no more than twice the rate
GRANT_TIME: Final = 0.02  # s' worth of bytes in one grant: small grants are smooth, and alternate quickly
CATCH_UP_TIME: Final = 0.1  # s of delay by a timer or a disk that may be caught up; older delay is lost
LARGEST_GRANT: Final = 1 << 20  # bytes: beyond this a larger piece saves nothing
TIME_TOLERANCE: Final = 1e-6  # s that are ignored: a sum of floats may fall short of the exact time


class Meter:
    """One rate in bytes per second, or none, and the time from which on the next byte may be sent."""

    __slots__ = ("_due", "rate")

    def __init__(self, rate: float | None, now: float) -> None:
        self.rate = rate
        self._due = now

    @property
    def piece(self) -> int:
        """Bytes of one grant at this rate; at least 1."""
        return LARGEST_GRANT if self.rate is None else min(LARGEST_GRANT, max(1, int(self.rate * GRANT_TIME)))

    def wait(self, now: float) -> float:
        """Return the seconds until the next piece may be sent; 0.0 when it may be sent now."""
        wait = 0.0 if self.rate is None else self._due - now
        return wait if wait > TIME_TOLERANCE else 0.0

    def spend(self, count: int, now: float) -> None:
        """Account for *count* bytes: the next ones wait until these have had their time."""
        if self.rate is not None:
            self._due = max(self._due, now - CATCH_UP_TIME) + count / self.rate

    def give_back(self, count: int) -> None:
        """Undo ``spend`` for *count* bytes that were not sent after all."""
        if self.rate is not None:
            self._due -= count / self.rate

    def change(self, rate: float | None, now: float) -> None:
        """Change the rate. Neither a wait nor a credit from the old rate grows by it, in seconds or in bytes."""
        if rate == self.rate:
            return
        if rate is None or self.rate is None:
            self._due = now
        else:
            self._due = now + max(self._due - now, -CATCH_UP_TIME) * min(1.0, self.rate / rate)
        self.rate = rate

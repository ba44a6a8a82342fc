"""The port for time, sleep and randomness.

Code that waits or needs random numbers is given a ``Clock``, so that a test can simulate a week in a moment. No other
module of the program calls ``time``, ``random`` or ``asyncio.sleep``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Time, sleep and random numbers. All times in seconds."""

    def now(self) -> float:
        """Return the wall clock, Unix seconds: for people and for what is saved. It may jump."""

    def monotonic(self) -> float:
        """Return the monotonic clock: for waits and durations. It never jumps; it is meaningless after a restart."""

    def uniform(self, low: float, high: float) -> float:
        """Return a random number between *low* and *high*."""

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Run *call* on the event loop after *seconds*; return a function that cancels it."""


class SystemClock:
    """The machine's clock, sleep and random numbers."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    def now(self) -> float:
        """Return the wall clock, Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return time.monotonic()

    def uniform(self, low: float, high: float) -> float:
        """Return a random number between *low* and *high*."""
        return self._random.uniform(low, high)

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""
        await asyncio.sleep(seconds)

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Run *call* on the event loop after *seconds*; return a function that cancels it."""
        return asyncio.get_running_loop().call_later(seconds, call).cancel

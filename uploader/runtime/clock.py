"""The only time, sleep and chance in the house.

Everything that waits or rolls dice gets a ``Clock`` handed in, so that a test can play a week in a moment.
Must never be bypassed: no other module of the product calls ``time``, ``random`` or ``asyncio.sleep``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What the house knows of time. Seconds throughout."""

    def now(self) -> float:
        """Wall clock, Unix seconds: for people and for what is saved. It may jump."""

    def monotonic(self) -> float:
        """Our own clock: for every wait and age. It never jumps, and means nothing after a restart."""

    def uniform(self, low: float, high: float) -> float:
        """A random number between *low* and *high*."""

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Do *call* on the event loop after *seconds*, unless the answer is called before."""


class SystemClock:
    """The machine's own clock."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    def now(self) -> float:
        """Wall clock, Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def uniform(self, low: float, high: float) -> float:
        """A random number between *low* and *high*."""
        return self._random.uniform(low, high)

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""
        await asyncio.sleep(seconds)

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Do *call* on the event loop after *seconds*, unless the answer is called before."""
        return asyncio.get_running_loop().call_later(seconds, call).cancel

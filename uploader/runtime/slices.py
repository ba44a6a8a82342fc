"""Long loops in slices, so that one over all uploads holds the event loop for some milliseconds at a time.

Must never be used where the items have to be looked at as they were at one moment: others work between two slices.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

from uploader.runtime.clock import Clock

SLICE_LENGTH: Final = 500  # items; at 10 µs each that is 5 ms

Item = TypeVar("Item")


async def in_slices(items: Iterable[Item], clock: Clock, size: int = SLICE_LENGTH) -> AsyncIterator[Item]:
    """Yield every item there was at the beginning; after each *size* of them the event loop gets its turn."""
    for number, item in enumerate(tuple(items), start=1):
        yield item
        if number % size == 0:
            await clock.sleep(0)

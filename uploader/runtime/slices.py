"""Splits long loops into slices, so that a loop over all uploads blocks the event loop only for milliseconds.

Other tasks run between two slices and may change the items, so the loop does not see one consistent state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

from uploader.runtime.clock import Clock

SLICE_LENGTH: Final = 500  # items; at 10 µs each that is 5 ms

Item = TypeVar("Item")


async def in_slices(items: Iterable[Item], clock: Clock, size: int = SLICE_LENGTH) -> AsyncIterator[Item]:
    """Yield every item that there was at the beginning; let other tasks run after each *size* items."""
    for number, item in enumerate(tuple(items), start=1):
        yield item
        if number % size == 0:
            await clock.sleep(0)

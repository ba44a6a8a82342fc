"""Keeps Python's full garbage collections short, since each one blocks the event loop.

A full collection visits every object: with 100,000 unfinished uploads that took 0.3 s (docs/performance.md). Uploads
are frozen values without reference cycles, which are freed without it. So what has survived a long collection is not
visited by the next ones. A cycle that is left among those objects later stays in memory: a few KiB each time that tens
of thousands of new objects have piled up.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final, Self

LONGEST: Final = 0.02  # s that a full collection may take; after a longer one, what has survived is not visited again
OLDEST: Final = 2  # the generation whose collection is a full one


class ShortCollections:
    """A context manager that watches the full collections of this process; see above."""

    def __init__(self, monotonic: Callable[[], float], longest: float = LONGEST) -> None:
        """*monotonic*: returns seconds; *longest*: seconds that a full collection may take."""
        self._monotonic, self._longest = monotonic, longest
        self._began = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no more. What is no longer visited stays so."""
        gc.callbacks.remove(self._hear)

    def _hear(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != OLDEST:
            return
        if phase == "start":
            self._began = self._monotonic()
        elif self._monotonic() - self._began > self._longest:
            gc.freeze()

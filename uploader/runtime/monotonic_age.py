"""Measures how long ago a saved moment was, although the wall clock may be set in between.

The state holds wall-clock times. People and NTP set that clock, by years where a battery is flat. So the age of a
moment is computed from the wall clock once, when it is first asked for in this process. After that it grows by the
monotonic clock. Callers must ``forget`` a path whose upload is over, else memory grows.
"""

from __future__ import annotations

from uploader.runtime.clock import Clock


class MonotonicAges:
    """Tells the age of one saved moment for each path; a new moment of the same path replaces the old one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, float]] = {}  # by path: the moment, and the same on the monotonic clock

    def of(self, path: str, moment: float) -> float:
        """Return the seconds since *moment* (Unix seconds). For the same path and moment the result never decreases."""
        now = self._clock.monotonic()
        known_moment, began = self._began.get(path, (None, 0.0))
        if known_moment != moment:
            began = now - max(0.0, self._clock.now() - moment)
            self._began[path] = moment, began
        return now - began

    def forget(self, path: str) -> None:
        """Forget the moment of *path*."""
        self._began.pop(path, None)

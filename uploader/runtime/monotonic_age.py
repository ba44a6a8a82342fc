"""How long ago something happened whose wall-clock time is saved, by the clock that nobody sets.

What a state remembers has the time on the wall; people and NTP set that clock, by years where a battery is flat. So a
moment is measured against it once, when its age is first asked for in this process, and grows by our own clock.
Must never be asked about more things than are at work: what is over is to be forgotten.
"""

from __future__ import annotations

from uploader.runtime.clock import Clock


class MonotonicAges:
    """The ages of things that are at work, each by its path."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, float]] = {}  # by path: the saved moment, and that by our own clock

    def of(self, path: str, moment: float) -> float:
        """Seconds since *moment* (Unix seconds), never less than at an earlier asking; another moment begins anew."""
        now = self._clock.monotonic()
        known, began = self._began.get(path, (None, 0.0))
        if known != moment:
            began = now - max(0.0, self._clock.now() - moment)
            self._began[path] = moment, began
        return now - began

    def forget(self, path: str) -> None:
        """Say that nothing at *path* is at work any more."""
        self._began.pop(path, None)

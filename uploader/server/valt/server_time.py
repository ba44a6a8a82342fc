"""The server's clock, as the Date headers of its answers tell it."""

from __future__ import annotations

import contextlib
from email.utils import parsedate_to_datetime
from typing import Final

from uploader.runtime.clock import Clock

PROMPT_ANSWER_TIME: Final = 2.0  # s; the Date of an answer that took longer is not exact enough for the server's clock
CLOCK_JUMP: Final = 1.0  # s between the two local clocks; more is no drift: one was set, or stood still in sleep


class ServerTime:
    """Follows the server's clock with the local monotonic one, so that setting the local time changes nothing."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # the server's Unix time when the local monotonic clock was at zero
        self._apart = 0.0  # s between the two local clocks when ``_ahead`` was learnt; if it changes, one was set
        self._is_exact = False  # True when both are from a prompt answer, so that ``_ahead`` is exact

    def now(self, clock: Clock) -> float:
        """Return the server's Unix seconds, to one second; the local time before any answer."""
        return clock.now() if self._ahead is None else clock.monotonic() + self._ahead

    def skew(self, clock: Clock) -> float:
        """Return the seconds by which the server's clock is ahead of the local one."""
        return 0.0 if self._ahead is None else self.now(clock) - clock.now()

    def is_sure(self, clock: Clock) -> bool:
        """Return False when an answer is needed: the monotonic clock stands still while this machine sleeps."""
        return self._is_exact and abs(clock.now() - clock.monotonic() - self._apart) <= CLOCK_JUMP

    def note(self, date: str | None, clock: Clock, *, took: float) -> None:
        """Learn from a Date header of an answer that *took* so long. A slow one counts while there is none better."""
        prompt = took <= PROMPT_ANSWER_TIME
        if date is not None and (prompt or not self._is_exact):
            with contextlib.suppress(ValueError, OverflowError):
                self._ahead = parsedate_to_datetime(date).timestamp() - clock.monotonic()
                self._apart, self._is_exact = clock.now() - clock.monotonic(), prompt

"""Publishes an outage as one event at its beginning and one at its end, even when calls fail and succeed in turns."""

from __future__ import annotations

from collections.abc import Callable

from uploader.domain import errors, events, retry
from uploader.runtime.clock import Clock


class OutageReport:
    """Reports what the circuit breaker tells it: failures of the server, and its good answers."""

    def __init__(self, clock: Clock, bus: events.Bus) -> None:
        self._clock, self._bus = clock, bus
        self._began: float | None = None  # monotonic time of the outage's first failure; None: there is no outage
        self._published: object = None  # who must act, as the last event has said
        self._answers = 0  # good answers since the last failure
        self._answered_at = 0.0  # monotonic time of the first of them
        self._cancel: Callable[[], None] = lambda: None  # stops the timer that ends the outage

    def failed(self, error: errors.UploaderError, pause: float) -> None:
        """Report a failure. It is an event of its own only if the outage begins, or somebody else must act now."""
        self._cancel()
        self._answers = 0
        if self._began is None:
            self._began, self._published = self._clock.monotonic(), None
        actor = error.action_by, retry.rule_of(error).delay is retry.Delay.FULL
        event = events.OutageContinues if actor == self._published else events.OutageBegan
        self._published = actor
        self._bus.publish(event(str(error), round(pause, 1)))

    def answered(self) -> None:
        """Note a good answer. The outage ends after some of them, or some time after the first of them."""
        if self._began is None:
            return
        self._answers += 1
        if self._answers == 1:
            self._answered_at = self._clock.monotonic()
            self._cancel = self._clock.later(retry.OUTAGE_OVER_AFTER, self._end)
        elif self._answers >= retry.OUTAGE_OVER_ANSWERS:
            self._end()

    def _end(self) -> None:
        self._cancel()
        if self._began is not None:
            self._bus.publish(events.OutageEnded(round(self._answered_at - self._began, 1)))
            self._began = None

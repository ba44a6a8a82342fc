"""Whether the server may be called now: one answer for all workers.

When nobody's file is at fault (no connection, 503, a refused password) every call waits, and the time lost counts
against no file. Must never contact the server itself: the first call after the pause is the probe.
"""

from __future__ import annotations

import asyncio

from uploader import errors, events, retry
from uploader.agenda import either
from uploader.clock import Clock
from uploader.store import Store


class Outage:
    """Knows since when the server has been silent and when it may be asked again."""

    def __init__(self, store: Store, clock: Clock, bus: events.Bus) -> None:
        """Take over what an earlier run had learnt: a refused password is not tried again at each restart."""
        self._store, self._clock, self._bus = store, clock, bus
        self._failures = 0
        self._since: float | None = None
        held = (store.learnt.login_not_before or 0.0) - clock.now()
        self._until = clock.monotonic() + min(held, retry.LOGIN_PAUSES[-1]) if held > 0 else 0.0
        self.reason = ""  # why calls wait, in one sentence; empty when they do not, or when an earlier run knew
        self._asked_for = held > 0  # by a refused password or a Retry-After: no answer to another call ends that
        self._lifted = asyncio.Event()

    @property
    def wait(self) -> float:
        """Seconds until the next call may be made; 0 when it may be made now."""
        return max(0.0, self._until - self._clock.monotonic())

    async def clear(self) -> None:
        """Return when the server may be called."""
        while (wait := self.wait) > 0:
            await either(self._lifted, self._clock, wait)

    def lift(self) -> None:
        """Call again at once: the operator has mended something."""
        self._until = 0.0
        lifted, self._lifted = self._lifted, asyncio.Event()
        lifted.set()

    async def failed(self, error: errors.UploaderError) -> float:
        """Note a failure that is nobody's file's. Answers the pause in seconds."""
        if self.wait > 0:
            return self.wait  # begun before the pause was known: it is the same outage
        pause = self._pause_after(error)
        self.reason = str(error)
        self._since = self._clock.monotonic() if self._since is None else self._since
        self._until = self._clock.monotonic() + pause
        self._asked_for = isinstance(error, errors.PasswordRefused | errors.ServerBusy)
        self._bus.publish(events.ServerDown(str(error), round(pause, 1)))
        if isinstance(error, errors.PasswordRefused):
            refusals = self._store.learnt.login_refusals + 1
            self._store.learn(login_refusals=refusals, login_not_before=self._clock.now() + pause)
            await self._store.commit()
        return pause

    def _pause_after(self, error: errors.UploaderError) -> float:
        if isinstance(error, errors.PasswordRefused):
            return retry.login_pause(self._store.learnt.login_refusals + 1)
        self._failures += 1
        if isinstance(error, errors.ServerBusy):
            return error.retry_after
        return retry.outage_pause(self._failures, self._clock.uniform)

    def answered(self) -> None:
        """Note that the server has answered a call as it should: it is up, and took our password."""
        self._failures = 0
        if self.wait > 0 and self._asked_for:
            return  # a call that was on its way before: four of those would be four more refused log-ins
        self.lift()
        self.reason = ""
        if self._store.learnt.login_refusals:
            self._store.learn(login_refusals=0, login_not_before=None)  # saved with whatever is saved next
        if self._since is not None:
            self._bus.publish(events.ServerBack(round(self._clock.monotonic() - self._since, 1)))
            self._since = None

"""Whether the server may be called now: one answer for all workers.

When nobody's file is at fault (no connection, 503, a refused password), or calls fail too often in a row, every call
waits, and the time lost counts against no file. After the pause one call goes first, then two, then all. Must never
contact the server itself: the first call after the pause is the probe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Final

from uploader import credentials, errors, events, retry
from uploader.agenda import either
from uploader.clock import Clock
from uploader.model import Learnt
from uploader.store import Store

CREDENTIAL_LOOK: Final = 5.0  # s between two looks whether a refused password has been changed

Account = Callable[[], str]


class Outage:
    """Knows since when the server has been silent and when it may be asked again."""

    def __init__(self, store: Store, clock: Clock, bus: events.Bus, account: Account = lambda: "") -> None:
        """Take over what an earlier run had learnt: a refused password is not tried again at each restart.

        *account* reads what we log in with (``credentials.account``); it may raise our errors.
        """
        self._store, self._clock, self._bus = store, clock, bus
        self.account = account
        self._seen = credentials.Watch(account)
        self._failures = 0  # in a row that were the server's
        self._stumbles = 0  # in a row, of any kind
        self._budget = retry.Budget()
        self._since: float | None = None
        held = hold_of(store.learnt, clock.now())
        self._until = clock.monotonic() + held if held > 0 else 0.0
        self.reason = ""  # why calls wait, in one sentence; empty when they do not, or when an earlier run knew
        self._asked_for = held > 0  # by a refused password or a Retry-After: no answer to another call ends that
        self._inside = 0  # calls, or rows of them, under way
        self._most: float = retry.HALF_OPEN[0] if held > 0 else inf  # and how many may be
        self._waiting: deque[object] = deque()
        self._news = asyncio.Event()

    @property
    def wait(self) -> float:
        """Seconds until the next call may be made; 0 when it may be made now."""
        return max(0.0, self._until - self._clock.monotonic())

    @property
    def going_on(self) -> bool:
        """True from the server's first failure until it answers again."""
        return self._since is not None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until the server may be called, and count as a caller for as long as the context lasts."""
        await self.clear()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._wake()

    async def clear(self) -> None:
        """Return when the server may be called: first come, first served."""
        ticket = object()
        self._waiting.append(ticket)
        try:
            while not self._may_go(ticket):
                wait = self.wait or None  # None: until an answer, or the end of somebody's turn
                if self.refused():
                    wait = min(self.wait, CREDENTIAL_LOOK)
                if self.wait > 0 or not self._may_go(ticket):
                    await either(self._news, self._clock, wait)
        finally:
            self._waiting.remove(ticket)
            if self._waiting:  # whoever had looked before and found this one in front
                self._wake()

    def _may_go(self, ticket: object) -> bool:
        return self.wait == 0 and self._inside < self._most and self._waiting[0] is ticket

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def lift(self) -> None:
        """Call again at once: the operator has mended something."""
        self._until, self._most = 0.0, inf
        if self._store.learnt.login_not_before is not None:
            self._store.learn(login_not_before=None)  # saved with whatever is saved next
        self._wake()

    def refused(self) -> bool:
        """True while calls wait because of a refused password; one that has been changed since ends that at once."""
        learnt = self._store.learnt
        held = self.wait > 0 and hold_of(learnt, self._clock.now()) > 0
        if held and learnt.login_refused is not None and self._seen.differs_from(learnt.login_refused):
            self.lift()
        return held and self.wait > 0

    async def stumbled(self, error: errors.UploaderError) -> None:
        """Note a failure that may be one file's alone, and is tried again: too many of them are the server's."""
        self._stumbles += 1
        if self._budget.spend() or self._stumbles >= retry.BREAKER_FAILURES:
            self._failures = max(self._failures, retry.BREAKER_FAILURES - 1)
            await self.failed(errors.ServerDown(f"{error.what}, and too many calls have failed before it"))

    async def failed(self, error: errors.UploaderError) -> float:
        """Note a failure that is nobody's file's. Answers the pause in seconds."""
        if self.wait > 0:
            return self.wait  # begun before the pause was known: it is the same outage
        pause = self._pause_after(error)
        self.reason = str(error)
        self._since = self._clock.monotonic() if self._since is None else self._since
        self._until, self._most = self._clock.monotonic() + pause, retry.HALF_OPEN[0]
        self._asked_for = isinstance(error, errors.PasswordRefused | errors.ServerBusy)
        if isinstance(error, errors.PasswordRefused):
            await self._remember_refusal(pause)
        self._bus.publish(events.ServerDown(str(error), round(pause, 1)))
        return pause

    async def _remember_refusal(self, pause: float) -> None:
        """Keep a refused password from being tried before its time, also by the next process."""
        self._store.learn(
            login_refusals=self._store.learnt.login_refusals + 1,
            login_not_before=self._clock.now() + pause,
            login_refused=self._seen.fingerprint(),
        )
        await self._store.commit()

    def _pause_after(self, error: errors.UploaderError) -> float:
        if isinstance(error, errors.PasswordRefused):
            return retry.login_pause(self._store.learnt.login_refusals + 1)
        self._failures += 1
        if isinstance(error, errors.ServerFull | errors.NoRoom):
            return self._clock.uniform(0.5, 1.0) * retry.OUTAGE_CAP
        pause = retry.outage_pause(self._failures, self._clock.uniform)
        return max(error.retry_after, pause) if isinstance(error, errors.ServerBusy) else pause

    def answered(self) -> None:
        """Note that the server has answered a call as it should: it is up, and took our password."""
        self._failures = self._stumbles = 0
        self._budget.earn()
        if self.wait > 0 and self._asked_for:
            return  # a call that was on its way before: four of those would be four more refused log-ins
        self._most = retry.HALF_OPEN[1] if self._most <= retry.HALF_OPEN[0] else inf
        self._until = 0.0
        self._wake()
        self.reason = ""
        if self._store.learnt.login_refusals:  # saved with whatever is saved next
            self._store.learn(login_refusals=0, login_not_before=None, login_refused=None)
        if self._since is not None:
            self._bus.publish(events.ServerBack(round(self._clock.monotonic() - self._since, 1)))
            self._since = None


def hold_of(learnt: Learnt, now: float) -> float:
    """Seconds that a refused password is not tried again: an hour at most, whatever a clock that was set says."""
    return min(retry.LOGIN_PAUSES[-1], max(0.0, (learnt.login_not_before or 0.0) - now))


def refuse_again(learnt: Learnt, account: str, now: float) -> None:
    """Raise ``PasswordRefused`` when this account was refused before and its time has not come.

    For commands that log in by hand: a script that runs them again and again must not lock the account.
    """
    held = hold_of(learnt, now)
    if held > 0 and (learnt.login_refused is None or credentials.is_of(learnt.login_refused, account)):
        raise errors.PasswordRefused(
            f"this password was refused before, and is not tried again for {max(1, round(held / retry.MINUTE))} min",
            hint="change the password, or let it be tried now: valt-uploader retry",
        )

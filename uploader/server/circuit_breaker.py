"""The circuit breaker between us and the server: whether it may be called now, one answer for all workers.

Closed: every call goes. When a call fails and no file is at fault (no connection, 503, a refused password), or too
many calls fail in a row, it opens: no call is made for a while, and the time lost counts against no file. After the
pause it is half-open: one call may be under way, after its answer two, after the next answer all.

Slots are taken around single calls, by the client. A worker that is about to begin a job waits in ``clear`` first, so
that none opens a recording or holds a file of a share open while the breaker is open. A call that finds it open in the
middle of a job raises ``BreakerOpen``, and the job is put back in the queue. The breaker never calls the server itself:
the first call after the pause is the probe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Final

from uploader.domain import errors, events, retry
from uploader.domain.model import ServerCapabilities
from uploader.runtime.clock import Clock
from uploader.runtime.delay_queue import wait_for
from uploader.server import credentials
from uploader.store import Store

PASSWORD_CHECK_INTERVAL: Final = 5.0  # s between two looks whether a refused password has been changed

Account = Callable[[], str]


class CircuitBreaker:
    """Knows since when the server has been silent and when it may be called again."""

    def __init__(self, store: Store, clock: Clock, bus: events.Bus, account: Account = lambda: "") -> None:
        """Take over what an earlier run had learnt: a refused password is not tried again at each restart.

        *account* reads what we log in with (``credentials.account``); it may raise our errors.
        """
        self._store, self._clock, self._bus = store, clock, bus
        self.account = account
        self._seen = credentials.PasswordWatch(account)
        self._failures = 0  # in a row that were the server's
        self._stumbles = 0  # in a row, of any kind
        self._budget = retry.RetryBudget()
        self._since: float | None = None
        held = hold_of(store.capabilities, clock.now())
        self._until = clock.monotonic() + held if held > 0 else 0.0
        self.reason = ""  # why calls wait, in one sentence; empty when they do not, or when an earlier run knew
        self._asked_for = held > 0  # by a refused password or a Retry-After: no answer to another call ends that
        self._opened = 0  # how often: a slot that was taken before the last time counts no more
        self._inside = 0  # slots taken since then
        self._most: float = retry.HALF_OPEN_CALLS[0] if held > 0 else inf  # and how many may be
        self._kept: deque[float] = deque()  # until when a slot is kept for one who is about to call, or has just failed
        self._jobs: deque[object] = deque()  # who waits to begin a job
        self._calls: deque[object] = deque()  # who waits with a call, in the middle of a job
        self._news = asyncio.Event()

    @property
    def wait(self) -> float:
        """Seconds until the next call may be made; 0 when it may be made now."""
        return max(0.0, self._until - self._clock.monotonic())

    @property
    def going_on(self) -> bool:
        """True from the server's first failure until it answers again."""
        return self._since is not None

    # Closed, open, half-open

    async def clear(self) -> None:
        """Return when a job that calls the server may begin: first come, first served. Nothing is held after that.

        While the breaker is half-open the job's first call finds a slot, if it comes within
        ``retry.HALF_OPEN_SLOT_HELD`` seconds. A job that reads 80 GiB first keeps nobody waiting.
        """
        ticket = object()
        self._jobs.append(ticket)
        try:
            while self.refused() or self.wait > 0 or self._calls or not self._is_next(self._jobs, ticket):
                await wait_for(self._news, self._clock, self._next_look())
        finally:
            self._leave(self._jobs, ticket)
        if self._most < inf:
            self._keep_place()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[CallSlot]:
        """Hold one of the slots for calls while the context lasts. Raises ``BreakerOpen`` instead of waiting for long.

        While the breaker is half-open it waits until a slot is free, or until the call under way has failed.
        """
        await self._wait_for_slot()
        self._inside += 1
        slot = CallSlot(self._give_back, self._opened)
        try:
            yield slot
        except Exception:
            # Whoever made the call judges the failure, and may open the breaker: until then nobody else calls.
            if slot.free() and self._most < inf:
                self._keep_place()
            raise
        finally:
            slot.free()

    async def _wait_for_slot(self) -> None:
        self._check_not_open()
        if self._still_kept():
            self._kept.popleft()
            return
        ticket = object()
        self._calls.append(ticket)
        try:
            while not self._is_next(self._calls, ticket):
                await wait_for(self._news, self._clock, self._next_look())
                self._check_not_open()
        finally:
            self._leave(self._calls, ticket)

    def _check_not_open(self) -> None:
        if self.wait > 0:
            raise errors.BreakerOpen(self.reason or "the server is not called for a while")

    def _is_next(self, row: deque[object], ticket: object) -> bool:
        return self._inside + self._still_kept() < self._most and row[0] is ticket

    def _still_kept(self) -> int:
        """How many slots are kept for somebody."""
        while self._kept and self._kept[0] <= self._clock.monotonic():
            self._kept.popleft()
        return len(self._kept)

    def _keep_place(self) -> None:
        self._kept.append(self._clock.monotonic() + retry.HALF_OPEN_SLOT_HELD)

    def _next_look(self) -> float | None:
        """Seconds after which something may have changed without anybody saying so; None: never."""
        if self.wait > 0:
            return min(self.wait, PASSWORD_CHECK_INTERVAL) if self.refused() else self.wait
        return self._kept[0] - self._clock.monotonic() if self._still_kept() else None

    def _give_back(self, opened: int) -> bool:
        """Take a slot back. False when it has not counted since the breaker opened."""
        counts = opened == self._opened
        if counts:
            self._inside -= 1
            self._wake()
        return counts

    def _leave(self, row: deque[object], ticket: object) -> None:
        row.remove(ticket)
        self._wake()  # whoever had looked before and found this one in front

    def _wake(self) -> None:
        if self._jobs or self._calls:
            news, self._news = self._news, asyncio.Event()
            news.set()

    # What opens and closes it

    def reset(self) -> None:
        """Close: call again at once. The operator has mended something."""
        self._until, self._most = 0.0, inf
        self._kept.clear()
        if self._store.capabilities.login_not_before is not None:
            self._store.learn(login_not_before=None)  # saved with whatever is saved next
        self._wake()

    def refused(self) -> bool:
        """True while calls wait because of a refused password; one that has been changed since ends that at once."""
        learnt = self._store.capabilities
        held = self.wait > 0 and hold_of(learnt, self._clock.now()) > 0
        if held and learnt.login_refused is not None and self._seen.differs_from(learnt.login_refused):
            self.reset()
        return held and self.wait > 0

    async def record_failure(self, error: errors.UploaderError) -> None:
        """Note a failure that may be one file's alone, and is tried again: too many of them are the server's."""
        self._stumbles += 1
        if self._budget.spend() or self._stumbles >= retry.BREAKER_FAILURES:
            self._failures = max(self._failures, retry.BREAKER_FAILURES - 1)
            await self.trip(errors.ServerDown(f"{error.what}, and too many calls have failed before it"))

    async def trip(self, error: errors.UploaderError) -> float:
        """Open: note a failure that is nobody's file's. Returns the pause in seconds."""
        if self.wait > 0 or isinstance(error, errors.BreakerOpen):
            return self.wait  # begun before the pause was known: it is the same outage
        refusals = self._store.capabilities.login_refusals + 1
        if not isinstance(error, errors.PasswordRefused):
            self._failures += 1
        pause = retry.breaker_pause(error, self._failures, refusals, self._clock.uniform)
        self.reason = str(error)
        self._since = self._clock.monotonic() if self._since is None else self._since
        self._until, self._most = self._clock.monotonic() + pause, retry.HALF_OPEN_CALLS[0]
        self._opened, self._inside = self._opened + 1, 0
        self._kept.clear()
        self._asked_for = retry.rule_of(error).delay in retry.ENDED_BY_TIME
        self._wake()
        if isinstance(error, errors.PasswordRefused):
            await self._remember_refusal(refusals, pause)
        self._bus.publish(events.OutageBegan(str(error), round(pause, 1)))
        return pause

    async def _remember_refusal(self, refusals: int, pause: float) -> None:
        """Keep a refused password from being tried before its time, also by the next process."""
        self._store.learn(
            login_refusals=refusals,
            login_not_before=self._clock.now() + pause,
            login_refused=self._seen.fingerprint(),
        )
        await self._store.commit()

    def record_success(self) -> None:
        """Note that the server has answered a call as it should: it is up, and took our password."""
        self._failures = self._stumbles = 0
        self._budget.earn()
        if self.wait > 0 and self._asked_for:
            return  # a call that was on its way before: four of those would be four more refused log-ins
        self._most = retry.HALF_OPEN_CALLS[1] if self._most <= retry.HALF_OPEN_CALLS[0] else inf
        self._until = 0.0
        self._wake()
        self.reason = ""
        if self._store.capabilities.login_refusals:  # saved with whatever is saved next
            self._store.learn(login_refusals=0, login_not_before=None, login_refused=None)
        if self._since is not None:
            self._bus.publish(events.OutageEnded(round(self._clock.monotonic() - self._since, 1)))
            self._since = None


class CallSlot:
    """The right to have one call under way (``valt.breaker.Slot``)."""

    def __init__(self, give_back: Callable[[int], bool], opened: int) -> None:
        self._give_back, self._opened = give_back, opened
        self._held = True

    def free(self) -> bool:
        """Let the next call begin. False when that was so already, or when the slot has not counted any more."""
        held, self._held = self._held, False
        return held and self._give_back(self._opened)


def hold_of(capabilities: ServerCapabilities, now: float) -> float:
    """Seconds that a refused password is not tried again: an hour at most, whatever a clock that was set says."""
    return min(retry.LOGIN_PAUSES[-1], max(0.0, (capabilities.login_not_before or 0.0) - now))


def refuse_again(capabilities: ServerCapabilities, account: str, now: float) -> None:
    """Raise ``PasswordRefused`` when this account was refused before and its time has not come.

    For commands that log in by hand: a script that runs them again and again must not lock the account.
    """
    held = hold_of(capabilities, now)
    if held > 0 and (capabilities.login_refused is None or credentials.is_of(capabilities.login_refused, account)):
        raise errors.PasswordRefused(
            f"this password was refused before, and is not tried again for {max(1, round(held / retry.MINUTE))} min",
            hint="change the password, or let it be tried now: valt-uploader retry",
        )

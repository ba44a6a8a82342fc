"""The circuit breaker: decides for all workers together whether the server may be called now.

Closed: every call is made. It opens when a call fails for a reason that concerns all files (no connection, 503, a
refused password), or when too many calls fail in a row. Open: no call is made for a while, and no file's failures are
counted. Half-open, after the pause: one call may be under way, after its good answer two, after the next one all.

When the server could not be reached at all, ``reachability.watch`` ends the pause once it takes connections again.

The client takes a slot for each call. A worker that is about to begin a job waits in ``clear`` first, so that it holds
no recording open while the breaker is open. A call that finds it open in the middle of a job raises ``BreakerOpen``,
and the job is put back into the queue. The breaker itself makes no calls: the first call after the pause is the test.
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
from uploader.server.outage_report import OutageReport
from uploader.store import Store

PASSWORD_CHECK_INTERVAL: Final = 5.0  # s between two checks whether a refused password has been changed

Account = Callable[[], str]


class CircuitBreaker:
    """Decides whether and how many calls may be made to one server. The module's docstring has the rules."""

    def __init__(self, store: Store, clock: Clock, bus: events.Bus, account: Account = lambda: "") -> None:
        """Start closed; or open, if the state says that a refused password must not be tried again yet.

        *account* reads what a log-in depends on (``credentials.account``); it may raise ``UploaderError``.
        """
        self._store, self._clock = store, clock
        self.account = account
        self._password_watch = credentials.PasswordWatch(account)
        self._failures = 0  # failures in a row that opened the breaker
        self._call_failures = 0  # failures in a row of single calls, which may concern one file only
        self._budget = retry.RetryBudget()
        self._failing = False  # from the server's first failure until it answers
        self._report = OutageReport(clock, bus)
        self.unreachable = asyncio.Event()
        """Set while the reason of the outage is that no connection can be made."""
        self._connect_used = False  # a connect has ended a pause, and neither an answer nor a failed connect came since
        held = hold_of(store.capabilities, clock.now())
        self._open_until = clock.monotonic() + held if held > 0 else 0.0  # monotonic time until which it is open
        self.reason = ""  # why calls wait, in one sentence; empty when they do not, and after a restart
        self._ended_by_time_only = held > 0  # only time ends it: after a refused password or a Retry-After
        self._opened = 0  # how often it has opened: a slot that was taken before the last time does not count
        self._inside = 0  # slots held now, of those that were taken since it last opened
        # how many slots may be held at a time; infinite while it is closed
        self._slot_limit: float = retry.HALF_OPEN_CALLS[0] if held > 0 else inf
        # Slots that are kept, each as the time until when: for a job that is about to make its first call, or after a
        # failed call, until its caller has reported the failure.
        self._kept: deque[float] = deque()
        self._jobs: deque[object] = deque()  # tickets of those that wait to begin a job
        self._calls: deque[object] = deque()  # tickets of calls that wait in the middle of a job
        self._changed = asyncio.Event()

    @property
    def wait(self) -> float:
        """Seconds until the next call may be made; 0 when it may be made now."""
        return max(0.0, self._open_until - self._clock.monotonic())

    @property
    def going_on(self) -> bool:
        """True from the server's first failure until it answers again."""
        return self._failing

    # Closed, open, half-open

    async def clear(self) -> None:
        """Return when a job that calls the server may begin: first come, first served.

        While the breaker is half-open a slot is kept for the job's first call for ``retry.HALF_OPEN_SLOT_HELD``
        seconds, but no longer: a job that reads 80 GiB first does not block the others.
        """
        ticket = object()
        self._jobs.append(ticket)
        try:
            while self.refused() or self.wait > 0 or self._calls or not self._is_next(self._jobs, ticket):
                await wait_for(self._changed, self._clock, self._next_look())
        finally:
            self._leave(self._jobs, ticket)
        if self._slot_limit < inf:
            self._keep_slot()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[CallSlot]:
        """Hold a slot for one call while the context lasts. Raises ``BreakerOpen`` while the breaker is open.

        While it is half-open this waits until a slot is free, or until the call under way has failed.
        """
        await self._wait_for_slot()
        self._inside += 1
        slot = CallSlot(self._give_back, self._opened)
        try:
            yield slot
        except Exception:
            # The caller may open the breaker because of this failure. Until then the slot stays kept.
            if slot.free() and self._slot_limit < inf:
                self._keep_slot()
            raise
        finally:
            slot.free()

    async def _wait_for_slot(self) -> None:
        self._check_not_open()
        if self._still_kept():  # any call may use a kept slot
            self._kept.popleft()
            return
        ticket = object()
        self._calls.append(ticket)
        try:
            while not self._is_next(self._calls, ticket):
                await wait_for(self._changed, self._clock, self._next_look())
                self._check_not_open()
        finally:
            self._leave(self._calls, ticket)

    def _check_not_open(self) -> None:
        if self.wait > 0:
            raise errors.BreakerOpen(self.reason or "the server is not called for a while")

    def _is_next(self, row: deque[object], ticket: object) -> bool:
        """True when a slot is free and this ticket is the first in its row."""
        return self._inside + self._still_kept() < self._slot_limit and row[0] is ticket

    def _still_kept(self) -> int:
        """Return how many slots are kept."""
        while self._kept and self._kept[0] <= self._clock.monotonic():
            self._kept.popleft()
        return len(self._kept)

    def _keep_slot(self) -> None:
        self._kept.append(self._clock.monotonic() + retry.HALF_OPEN_SLOT_HELD)

    def _next_look(self) -> float | None:
        """Return the seconds after which those that wait must look again; None: only when they are woken."""
        if self.wait > 0:
            return min(self.wait, PASSWORD_CHECK_INTERVAL) if self.refused() else self.wait
        return self._kept[0] - self._clock.monotonic() if self._still_kept() else None

    def _give_back(self, opened: int) -> bool:
        """Take a slot back. False when it was taken before the breaker last opened: it does not count then."""
        counts = opened == self._opened
        if counts:
            self._inside -= 1
            self._wake()
        return counts

    def _leave(self, row: deque[object], ticket: object) -> None:
        row.remove(ticket)
        self._wake()  # the next in line was waiting for this one

    def _wake(self) -> None:
        if self._jobs or self._calls:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    # What opens and closes it

    def reset(self) -> None:
        """Close the breaker: the operator wants calls to be made now, or the password was changed."""
        self._open_until, self._slot_limit = 0.0, inf
        self._kept.clear()
        self.unreachable.clear()
        self.reason = ""
        if self._store.capabilities.login_not_before is not None:
            self._store.learn(login_not_before=None)  # saved with whatever is saved next
        self._wake()

    def refused(self) -> bool:
        """True while calls wait because of a refused password. Closes the breaker if the password has been changed."""
        learnt = self._store.capabilities
        held = self.wait > 0 and hold_of(learnt, self._clock.now()) > 0
        if held and learnt.login_refused is not None and self._password_watch.differs_from(learnt.login_refused):
            self.reset()
        return held and self.wait > 0

    def note_connect(self, *, succeeded: bool) -> None:
        """Note whether a bare connection to the server could be made. If so, a call is tried now.

        A server that takes connections and never answers is not called every few seconds: a connect ends a second
        pause only if the server has answered, or could not be reached, since it ended the first one.
        """
        if not succeeded:
            self._connect_used = False
        elif self.unreachable.is_set() and not self._connect_used:
            self._connect_used, self._open_until = True, self._clock.monotonic()
            self._wake()

    def set_aside(self) -> None:
        """Give back the slot of a call that failed for its own file only, so that the next call need not wait."""
        if self._still_kept():
            self._kept.popleft()
            self._wake()

    async def record_failure(self, error: errors.UploaderError) -> None:
        """Note a failure that may concern one file only. Too many of them in a row open the breaker."""
        self._call_failures += 1
        if self._budget.spend() or self._call_failures >= retry.BREAKER_FAILURES:
            self._failures = max(self._failures, retry.BREAKER_FAILURES - 1)
            await self.trip(errors.ServerDown(f"{error.what}, and too many calls have failed before it"))

    async def trip(self, error: errors.UploaderError) -> float:
        """Open the breaker after a failure that concerns all files. Returns the pause in seconds."""
        if self.wait > 0 or isinstance(error, errors.BreakerOpen):
            return self.wait  # the call began before the breaker opened: it is the same outage
        refusals = self._store.capabilities.login_refusals + 1
        if not isinstance(error, errors.PasswordRefused):
            self._failures += 1
        pause = retry.breaker_pause(error, self._failures, refusals, self._clock.uniform)
        self.reason = str(error)
        self._failing = True
        if isinstance(error, errors.Unreachable):
            self.unreachable.set()
        else:
            self.unreachable.clear()
        self._open_until, self._slot_limit = self._clock.monotonic() + pause, retry.HALF_OPEN_CALLS[0]
        self._opened, self._inside = self._opened + 1, 0
        self._kept.clear()
        self._ended_by_time_only = retry.rule_of(error).delay in retry.ENDED_BY_TIME
        self._wake()
        if isinstance(error, errors.PasswordRefused):
            await self._remember_refusal(refusals, pause)
        self._report.failed(error, pause)
        return pause

    async def _remember_refusal(self, refusals: int, pause: float) -> None:
        """Save until when a refused password is not tried again, for the next process, too."""
        self._store.learn(
            login_refusals=refusals,
            login_not_before=self._clock.now() + pause,
            login_refused=self._password_watch.fingerprint(),
        )
        await self._store.commit()

    def record_success(self) -> None:
        """Note a good answer of the server: it is up, and accepts the password."""
        self._failures = self._call_failures = 0
        self._budget.earn()
        if self.wait > 0 and self._ended_by_time_only:
            return  # the call began before the breaker opened; closing now would cause further refused log-ins
        self._slot_limit = retry.HALF_OPEN_CALLS[1] if self._slot_limit <= retry.HALF_OPEN_CALLS[0] else inf
        self._open_until = 0.0
        self._wake()
        self.reason = ""
        if self._store.capabilities.login_refusals:  # saved with whatever is saved next
            self._store.learn(login_refusals=0, login_not_before=None, login_refused=None)
        self._failing = self._connect_used = False
        self.unreachable.clear()
        self._report.answered()


class CallSlot:
    """The right to have one call under way. Implements ``valt.breaker.Slot``."""

    def __init__(self, give_back: Callable[[int], bool], opened: int) -> None:
        self._give_back, self._opened = give_back, opened
        self._held = True

    def free(self) -> bool:
        """Give the slot back. False when that was done already, or when the slot no longer counts."""
        held, self._held = self._held, False
        return held and self._give_back(self._opened)


def hold_of(capabilities: ServerCapabilities, now: float) -> float:
    """Return the seconds for which a refused password is not tried again. Never over an hour: a clock may be set."""
    return min(retry.LOGIN_PAUSES[-1], max(0.0, (capabilities.login_not_before or 0.0) - now))


def refuse_again(capabilities: ServerCapabilities, account: str, now: float) -> None:
    """Raise ``PasswordRefused`` when this account was refused before and must not be tried yet.

    For commands that log in themselves: a script that runs them again and again would lock the account.
    """
    held = hold_of(capabilities, now)
    if held > 0 and (capabilities.login_refused is None or credentials.is_of(capabilities.login_refused, account)):
        raise errors.PasswordRefused(
            f"this password was refused before, and is not tried again for {max(1, round(held / retry.MINUTE))} min",
            hint="change the password, or let it be tried now: valt-uploader retry",
        )

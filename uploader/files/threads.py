"""Threads of one share: what hangs there, hangs alone.

A call into a dead NFS or SMB mount may not return for hours, and nothing can call it back. Each share therefore has
a few threads of its own: they are daemon threads, so that none of them keeps the process from ending, and whoever
calls waits only so long. Must never be used for the state: that has a thread nobody else can block.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

from uploader import errors

MOST: Final = 12  # threads of one share: looks, workers, and a scan, with some to spare for calls that hang
PATIENCE: Final = 30.0  # s for one call; disks that spin up take ten, NFS over a bad link about as long
IDLE: Final = 60.0  # s without a call after which a thread ends: a reload leaves the old ones behind

R = TypeVar("R")


class ShareThreads(Executor):
    """Runs calls on at most ``MOST`` daemon threads, started as they are needed. An ``Executor``, for aiofiles."""

    def __init__(self, name: str, *, most: int = MOST, idle: float = IDLE) -> None:
        self._name, self._most, self._idle_for = name, most, idle
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._news = threading.Condition()
        self._threads = self._idle = 0

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Queue a call; a thread is started for it when all are busy and there may be one more."""
        future: Future[R] = Future()
        with self._news:
            self._calls.append((future, lambda: fn(*args, **kwargs)))
            if len(self._calls) > self._idle and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            self._news.notify()
        return future

    def _serve(self) -> None:
        while (taken := self._next()) is not None:
            future, call = taken
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del taken, future, call  # neither a result nor an exception may live until the next call

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for a call; None when there has been none for so long that this thread may end."""
        with self._news:
            self._idle += 1
            try:
                if not self._news.wait_for(lambda: self._calls, self._idle_for):
                    self._threads -= 1
                    return None
                return self._calls.popleft()
            finally:
                self._idle -= 1

    async def call(
        self, work: Callable[[], R], *, patience: float | None = PATIENCE, late: Callable[[R], None] | None = None
    ) -> R:
        """Do *work* on one of the threads; what it raises passes through.

        Raises ``ShareNotReady`` after *patience* seconds (None: as long as it takes). *late* gets the result that
        comes when nobody waits any more, to close what it holds.
        """
        future = asyncio.get_running_loop().run_in_executor(self, work)
        bound = asyncio.timeout(patience)
        try:
            async with bound:
                return await asyncio.shield(future)
        except TimeoutError:
            if not bound.expired():  # the share's own ETIMEDOUT
                raise
            _abandon(future, late)
            raise errors.ShareNotReady(f"the share has not answered for {patience:g} s") from None
        except asyncio.CancelledError:
            _abandon(future, late)
            raise


def _abandon(future: asyncio.Future[R], late: Callable[[R], None] | None) -> None:
    """Nobody waits for it any more: a queued call is dropped, a running one is tidied up after when it ends."""

    def tidy(done: asyncio.Future[R]) -> None:
        if not done.cancelled() and done.exception() is None and late is not None:
            late(done.result())

    if late is None:
        future.cancel()
    else:
        future.add_done_callback(tidy)

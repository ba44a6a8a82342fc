"""Threads of one share: what hangs there, hangs alone.

A call into a dead NFS or SMB mount may not return for hours, and nothing can call it back. Each share therefore has
a few threads of its own: they are daemon threads, so that none of them keeps the process from ending, and whoever
calls waits only so long. Must never be used for the state: that has a thread nobody else can block.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from uploader import errors

MOST: Final = 12  # threads of one share: looks, workers, and a scan, with some to spare for calls that hang
PATIENCE: Final = 30.0  # s for one call; disks that spin up take ten, NFS over a bad link about as long

R = TypeVar("R")


class ShareThreads(Executor):
    """Runs calls on at most ``MOST`` daemon threads, started as they are needed. An ``Executor``, for aiofiles."""

    def __init__(self, name: str, *, most: int = MOST) -> None:
        self._name, self._most = name, most
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._idle = 0

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Queue a call; a thread is started for it when all are busy and there may be one more."""
        future: Future[R] = Future()
        with self._lock:
            self._calls.put((future, lambda: fn(*args, **kwargs)))
            if self._idle:
                self._idle -= 1  # it is spoken for
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        return future

    def _serve(self) -> None:
        while True:
            with self._lock:
                if self._calls.empty():
                    self._idle += 1
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del future, call  # neither a result nor an exception may live until the next call

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

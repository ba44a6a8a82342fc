"""Threads of one share: what hangs there, hangs alone.

A call into a dead NFS or SMB mount may not return for hours. Each share therefore has a few threads of its own, and
whoever calls waits only so long. Must never be used for the state: what has to be saved is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, TypeVar

from uploader.domain import errors
from uploader.runtime.threads import IDLE_THREAD_TIMEOUT, DaemonThreads

# threads of one share: looks, workers, and a scan, with some to spare for calls that hang
THREADS_PER_SHARE: Final = 12
SHARE_CALL_TIMEOUT: Final = 30.0  # s for one call; disks that spin up take ten, NFS over a bad link about as long

R = TypeVar("R")


class ShareThreads(DaemonThreads):
    """At most ``THREADS_PER_SHARE`` threads, and callers that give up. An ``Executor``, for aiofiles."""

    def __init__(self, name: str, *, most: int = THREADS_PER_SHARE, idle: float = IDLE_THREAD_TIMEOUT) -> None:
        super().__init__(name, most=most, idle=idle)

    async def call(
        self,
        work: Callable[[], R],
        *,
        patience: float | None = SHARE_CALL_TIMEOUT,
        late: Callable[[R], None] | None = None,
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

    async def call_to_its_end(self, work: Callable[[], R], stop: Callable[[], None]) -> R:
        """Do *work* on one of the threads, as long as it takes; what it raises passes through.

        When the caller is cancelled, *stop* is called, and the cancellation passes only when *work* has ended, however
        long a share that hangs makes that. Work that had not begun is dropped at once.
        """
        call = self.submit(work)
        future = asyncio.wrap_future(call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not call.cancel():
                stop()
                await _ended(future)
            raise


async def _ended(future: asyncio.Future[R]) -> None:
    """Wait until *future* is done, also when that is cancelled again; what it says is of no interest."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):  # the caller raises the first one
            await asyncio.wait({future})
    if not future.cancelled():
        future.exception()  # else asyncio complains that nobody has asked


def _abandon(future: asyncio.Future[R], late: Callable[[R], None] | None) -> None:
    """Nobody waits for it any more: a queued call is dropped, a running one is tidied up after when it ends."""

    def tidy(done: asyncio.Future[R]) -> None:
        if not done.cancelled() and done.exception() is None and late is not None:
            late(done.result())

    if late is None:
        future.cancel()
    else:
        future.add_done_callback(tidy)

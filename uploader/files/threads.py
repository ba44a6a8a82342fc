"""Worker threads per share, so that a hung share blocks only its own calls.

A call into a dead NFS or SMB mount may not return for hours. Each share therefore has a few threads of its own, and
callers give up after a timeout. Not for the state: a save must be waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, TypeVar

from uploader.domain import errors
from uploader.runtime.threads import IDLE_THREAD_TIMEOUT, DaemonThreads

# threads of one share: for looks at files, workers and a scan, with some to spare for calls that hang
THREADS_PER_SHARE: Final = 12
SHARE_CALL_TIMEOUT: Final = 30.0  # s for one call; a disk that spins up takes ten, NFS over a bad link about as long

R = TypeVar("R")


class ShareThreads(DaemonThreads):
    """At most ``THREADS_PER_SHARE`` threads, for callers that may give up. An ``Executor``, as aiofiles needs."""

    def __init__(self, name: str, *, most: int = THREADS_PER_SHARE, idle: float = IDLE_THREAD_TIMEOUT) -> None:
        super().__init__(name, most=most, idle=idle)

    async def call(
        self,
        work: Callable[[], R],
        *,
        time_limit: float | None = SHARE_CALL_TIMEOUT,
        late: Callable[[R], None] | None = None,
    ) -> R:
        """Run *work* on one of the threads; what it raises passes through.

        Raises ``ShareNotReady`` after *time_limit* seconds (None: no limit). *late* is called with a result that comes
        after the caller has given up, to close what it holds.
        """
        future = asyncio.get_running_loop().run_in_executor(self, work)
        bound = asyncio.timeout(time_limit)
        try:
            async with bound:
                return await asyncio.shield(future)
        except TimeoutError:
            if not bound.expired():  # the share's own ETIMEDOUT
                raise
            _abandon(future, late)
            raise errors.ShareNotReady(f"the share has not answered for {time_limit:g} s") from None
        except asyncio.CancelledError:
            _abandon(future, late)
            raise

    async def call_to_its_end(self, work: Callable[[], R], stop: Callable[[], None]) -> R:
        """Run *work* on one of the threads, for as long as it takes; what it raises passes through.

        When the caller is cancelled, *stop* is called, and the cancellation passes only when *work* has ended, even if
        the share hangs. Work that has not begun is dropped at once.
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
    """Wait until *future* is done, even when cancelled again; its result is ignored."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):  # the caller raises the first one
            await asyncio.wait({future})
    if not future.cancelled():
        future.exception()  # else asyncio logs that it was never retrieved


def _abandon(future: asyncio.Future[R], late: Callable[[R], None] | None) -> None:
    """Give up a call: a queued one is dropped; the result of a running one goes to *late* when it ends."""

    def tidy(done: asyncio.Future[R]) -> None:
        if not done.cancelled() and done.exception() is None and late is not None:
            late(done.result())

    if late is None:
        future.cancel()
    else:
        future.add_done_callback(tidy)

"""A thread that the system refuses to start is an error of one call, and of no other."""

from __future__ import annotations

import asyncio
import threading

import pytest

from uploader.runtime.threads import DaemonThreads


async def test_a_thread_that_cannot_be_started_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets an error of the system; the next call runs, also where one thread is all there may be."""
    threads = DaemonThreads("scarce", most=1)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BlockingIOError, match="cannot start another thread"):
            threads.submit(lambda: "never run")
    assert await asyncio.wrap_future(threads.submit(lambda: "run")) == "run"
    threads.shutdown()

"""The threads of a share: a call that hangs delays only its own share."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from fakes import until

from uploader.domain import errors
from uploader.files.threads import ShareThreads


@contextmanager
def hanging() -> Iterator[tuple[threading.Event, threading.Event]]:
    """A call that hangs: set when it has begun, and what lets it go."""
    began, gate = threading.Event(), threading.Event()
    try:
        yield began, gate
    finally:
        gate.set()


def named(name: str) -> int:
    """How many threads of this name there are."""
    return sum(thread.name == name for thread in threading.enumerate())


async def test_a_call_returns_the_result_or_raises_the_error() -> None:
    """As in a direct call."""
    pool = ShareThreads("plain")
    assert await pool.call(lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        await pool.call(lambda: Path("/never/there").stat())


async def test_a_call_that_hangs_is_given_up_and_the_others_go_on() -> None:
    """Its caller gets *not ready* after the time-out; the event loop and other calls do not wait."""
    pool = ShareThreads("one hangs")
    with hanging() as (began, gate):

        def hang() -> None:
            began.set()
            gate.wait()

        waiting = asyncio.ensure_future(pool.call(hang, time_limit=0.2))
        await until(began.is_set)
        assert await asyncio.gather(*(pool.call(partial(abs, number)) for number in range(20))) == [*range(20)]
        assert not waiting.done()
        with pytest.raises(errors.ShareNotReady, match=r"has not answered for 0\.2 s"):
            await waiting


async def test_a_hung_share_holds_a_bounded_number_of_threads() -> None:
    """Further calls time out, and are not begun once no caller waits for them."""
    pool = ShareThreads("all hang", most=3)
    late: list[int] = []
    with hanging() as (_, gate):
        calls = [pool.call(gate.wait, time_limit=0.2) for _ in range(10)]
        last = pool.call(partial(late.append, 1), time_limit=0.2)
        answers = await asyncio.gather(*calls, last, return_exceptions=True)
        assert {type(answer) for answer in answers} == {errors.ShareNotReady}
        assert named("all hang") == 3
        gate.set()
        assert await pool.call(lambda: "back") == "back"
    assert late == []


async def test_a_handle_that_a_hung_call_returns_late_is_closed() -> None:
    """No caller waits for it any more."""
    pool = ShareThreads("late")
    closed: list[str] = []
    with hanging() as (began, gate):

        def open_slowly() -> str:
            began.set()
            gate.wait()
            return "handle"

        with pytest.raises(errors.ShareNotReady):
            await pool.call(open_slowly, time_limit=0.05, late=closed.append)
        cancelled = asyncio.ensure_future(pool.call(open_slowly, late=closed.append))
        await until(lambda: pool._threads == 2)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert closed == []
        gate.set()
        await until(lambda: closed == ["handle", "handle"])


async def test_etimedout_of_a_call_is_passed_on() -> None:
    """The kernel has answered, so the call did not hang."""
    pool = ShareThreads("timed out")

    def time_out() -> None:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        await pool.call(time_out)


async def test_threads_without_work_end() -> None:
    """After some time without a call; a new call starts one again."""
    pool = ShareThreads("ends", idle=0.05)
    with hanging() as (_, gate):
        calls = [asyncio.ensure_future(pool.call(gate.wait)) for _ in range(3)]
        await until(lambda: named("ends") == 3)
        gate.set()
        await asyncio.gather(*calls)
    await until(lambda: named("ends") == 0)
    assert await pool.call(lambda: "again") == "again"


async def test_successive_calls_use_one_thread() -> None:
    """A new thread starts only when all are busy."""
    pool = ShareThreads("thrifty")
    for number in range(50):
        assert await pool.call(partial(abs, number)) == number
        await until(lambda: pool._idle == 1)
    assert named("thrifty") == 1


async def test_no_call_is_lost_or_done_twice() -> None:
    """A thousand calls from several threads, while threads start and end."""
    pool = ShareThreads("many", most=4, idle=0.001)
    done: list[int] = []

    def put() -> None:
        for number in range(250):
            pool.submit(done.append, number)

    putting = [threading.Thread(target=put) for _ in range(4)]
    for thread in putting:
        thread.start()
    await until(lambda: len(done) >= 1000)
    for thread in putting:
        thread.join()
    assert sorted(done) == sorted([*range(250)] * 4)


def test_the_process_ends_though_a_share_hangs() -> None:
    """Neither the end of the event loop nor that of the interpreter waits for a stuck thread."""
    code = """
import asyncio, threading
from uploader.domain import errors
from uploader.files.threads import ShareThreads

async def main():
    pool = ShareThreads("stuck")
    try:
        await pool.call(threading.Event().wait, time_limit=0.1)
    except errors.ShareNotReady as error:
        print(error)

asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (run.returncode, run.stdout, run.stderr) == (0, "the share has not answered for 0.1 s\n", "")

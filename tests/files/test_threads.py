"""The threads of a share: what hangs there, hangs alone."""

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


async def test_a_result_and_an_error_come_back() -> None:
    """What the call returns or raises is its caller's."""
    pool = ShareThreads("plain")
    assert await pool.call(lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        await pool.call(lambda: Path("/never/there").stat())


async def test_a_call_that_hangs_is_given_up_and_the_others_go_on() -> None:
    """Its caller hears *not ready* after its patience; the event loop and the other calls wait for nothing."""
    pool = ShareThreads("one hangs")
    with hanging() as (began, gate):

        def hang() -> None:
            began.set()
            gate.wait()

        waiting = asyncio.ensure_future(pool.call(hang, patience=0.2))
        await until(began.is_set)
        assert await asyncio.gather(*(pool.call(partial(abs, number)) for number in range(20))) == [*range(20)]
        assert not waiting.done()
        with pytest.raises(errors.ShareNotReady, match=r"has not answered for 0\.2 s"):
            await waiting


async def test_a_share_that_hangs_altogether_holds_so_many_threads_and_no_more() -> None:
    """Every further call is given up in time, and never begun once nobody waits for it."""
    pool = ShareThreads("all hang", most=3)
    late: list[int] = []
    with hanging() as (_, gate):
        calls = [pool.call(gate.wait, patience=0.2) for _ in range(10)]
        answers = await asyncio.gather(*calls, pool.call(partial(late.append, 1), patience=0.2), return_exceptions=True)
        assert {type(answer) for answer in answers} == {errors.ShareNotReady}
        assert named("all hang") == 3
        gate.set()
        assert await pool.call(lambda: "back") == "back"
    assert late == []


async def test_what_comes_late_is_tidied_up() -> None:
    """A handle that a hung call brings in the end is closed, though nobody waits for it any more."""
    pool = ShareThreads("late")
    closed: list[str] = []
    with hanging() as (began, gate):

        def open_slowly() -> str:
            began.set()
            gate.wait()
            return "handle"

        with pytest.raises(errors.ShareNotReady):
            await pool.call(open_slowly, patience=0.05, late=closed.append)
        cancelled = asyncio.ensure_future(pool.call(open_slowly, late=closed.append))
        await until(lambda: pool._threads == 2)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert closed == []
        gate.set()
        await until(lambda: closed == ["handle", "handle"])


async def test_time_out_of_the_share_itself_is_its_own_error() -> None:
    """ETIMEDOUT from the kernel is an answer: it is passed on, and is no hang of ours."""
    pool = ShareThreads("timed out")

    def time_out() -> None:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        await pool.call(time_out)


async def test_threads_without_work_end() -> None:
    """A reload leaves the old ones behind: after a while without a call they are gone, and a new call starts one."""
    pool = ShareThreads("ends", idle=0.05)
    with hanging() as (_, gate):
        calls = [asyncio.ensure_future(pool.call(gate.wait)) for _ in range(3)]
        await until(lambda: named("ends") == 3)
        gate.set()
        await asyncio.gather(*calls)
    await until(lambda: named("ends") == 0)
    assert await pool.call(lambda: "again") == "again"


async def test_threads_are_shared_before_another_is_started() -> None:
    """One call after the other needs one thread."""
    pool = ShareThreads("thrifty")
    for number in range(50):
        assert await pool.call(partial(abs, number)) == number
        await until(lambda: pool._idle == 1)
    assert named("thrifty") == 1


async def test_no_call_is_lost_or_done_twice() -> None:
    """A thousand calls from several threads at once, with threads that come and go."""
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


def test_process_ends_though_its_share_hangs() -> None:
    """Neither the end of the event loop nor that of the interpreter waits for a thread that is stuck."""
    code = """
import asyncio, threading
from uploader.domain import errors
from uploader.files.threads import ShareThreads

async def main():
    pool = ShareThreads("stuck")
    try:
        await pool.call(threading.Event().wait, patience=0.1)
    except errors.ShareNotReady as error:
        print(error)

asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (run.returncode, run.stdout, run.stderr) == (0, "the share has not answered for 0.1 s\n", "")

"""Whether the server may be called: one answer for all, by a clock that the test holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fakes import MemoryDisk, VirtualClock, idle

from uploader import errors, events, retry
from uploader.outage import Outage
from uploader.retry import HOUR, MINUTE
from uploader.store import Store
from uploader.store.store import STATE

DOWN = errors.ServerDown("cannot be reached")
REFUSED = errors.PasswordRefused("user name or password is wrong")


class Line:
    """The line to a server: its outage, and all that was said about it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.disk = MemoryDisk()
        self.said: list[events.Event] = []
        self.bus = events.Bus()
        self.bus.listen(self.said.append)
        self.store = Store(self.disk, self.clock, self.bus)
        self.outage = Outage(self.store, self.clock, self.bus)

    async def restarted(self) -> None:
        """The same, after a restart of the daemon."""
        await self.store.close()
        self.store = Store(self.disk, self.clock, self.bus)
        self.outage = Outage(self.store, self.clock, self.bus)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    """A server that has not failed yet."""
    line = Line()
    yield line
    await line.store.close()


async def test_a_server_that_has_not_failed_may_be_called(line: Line) -> None:
    """At once, without a turn of the loop."""
    assert line.outage.wait == 0.0
    await line.outage.clear()


async def test_every_call_waits_for_a_server_that_is_down(line: Line) -> None:
    """All workers at once, until the pause is over; the reason can be read meanwhile."""
    pause = await line.outage.failed(DOWN)
    assert (pause, line.outage.wait, line.outage.reason) == (2.0, 2.0, "cannot be reached")
    workers = [asyncio.create_task(line.outage.clear()) for _ in range(3)]
    await line.clock.advance(1.9)
    assert not any(worker.done() for worker in workers)
    await line.clock.advance(0.1)
    assert all(worker.done() for worker in workers)
    assert line.said == [events.ServerDown("cannot be reached", 2.0)]


async def test_workers_that_fail_together_are_one_failure(line: Line) -> None:
    """Calls that were under way when the pause began make it no longer, and are not said again."""
    first = await line.outage.failed(DOWN)
    await line.clock.advance(0.5)
    assert await line.outage.failed(DOWN) == first - 0.5
    await line.clock.advance(1.5)
    assert await line.outage.failed(DOWN) == retry.outage_pause(2, line.clock.uniform)
    assert len(line.said) == 2


async def test_a_dead_server_is_probed_ever_more_rarely(line: Line) -> None:
    """Doubling up to a quarter of an hour; never a hectic loop."""
    pauses = []
    for _ in range(12):
        pauses.append(await line.outage.failed(DOWN))
        await line.clock.advance(pauses[-1])
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 900.0, 900.0, 900.0]


async def test_an_answer_ends_the_outage(line: Line) -> None:
    """It is said once, with how long it took, and the next outage begins anew."""
    for _ in range(3):
        await line.clock.advance(await line.outage.failed(DOWN))
    line.outage.answered()
    line.outage.answered()
    assert line.said[-1] == events.ServerBack(14.0)
    assert sum(isinstance(event, events.ServerBack) for event in line.said) == 1
    assert line.outage.reason == ""
    assert await line.outage.failed(DOWN) == 2.0


async def test_an_answer_to_an_older_call_ends_the_pause_of_a_broken_line(line: Line) -> None:
    """The server lives: whoever waits goes on at once."""
    await line.outage.failed(DOWN)
    worker = asyncio.create_task(line.outage.clear())
    await idle()
    line.outage.answered()
    await idle()
    assert (worker.done(), line.outage.wait, line.clock.sleepers) == (True, 0.0, 0)


@pytest.mark.parametrize("error", [errors.ServerBusy("429", retry_after=600.0), REFUSED])
async def test_what_the_server_asked_for_is_kept_to(line: Line, error: errors.UploaderError) -> None:
    """A Retry-After, or a refused password: a good answer to a call that was on its way does not end that."""
    pause = await line.outage.failed(error)
    await line.clock.advance(1.0)
    line.outage.answered()
    assert line.outage.wait == pause - 1.0 > 200
    assert not any(isinstance(event, events.ServerBack) for event in line.said)
    await line.clock.advance(pause)
    line.outage.answered()
    assert isinstance(line.said[-1], events.ServerBack)


async def test_a_busy_server_is_left_alone_for_as_long_as_it_says(line: Line) -> None:
    """Not a second less."""
    assert await line.outage.failed(errors.ServerBusy("429", retry_after=77.0)) == 77.0
    assert line.outage.wait == 77.0


async def test_a_wrong_password_is_tried_ever_more_rarely(line: Line) -> None:
    """At 5, 15 and 60 minutes, then hourly: accounts get locked by less; and each refusal is saved."""
    pauses = []
    for _ in range(5):
        pauses.append(await line.outage.failed(REFUSED))
        await line.clock.advance(pauses[-1])
    assert pauses == [5 * MINUTE, 15 * MINUTE, HOUR, HOUR, HOUR]
    assert b'"login_refusals": 5' in line.disk.files[STATE]


async def test_a_restart_does_not_try_a_refused_password_again(line: Line) -> None:
    """The pause goes on where it stood, and the next refusal is the second."""
    await line.outage.failed(REFUSED)
    await line.clock.advance(MINUTE)
    await line.restarted()
    assert line.outage.wait == pytest.approx(4 * MINUTE)
    line.outage.answered()
    assert line.outage.wait == pytest.approx(4 * MINUTE)
    await line.clock.advance(4 * MINUTE)
    assert await line.outage.failed(REFUSED) == 15 * MINUTE


async def test_a_clock_that_was_set_back_does_not_hold_us_for_a_year(line: Line) -> None:
    """What an earlier run has saved counts for an hour at most."""
    await line.outage.failed(REFUSED)
    line.clock.jump(-365 * 24 * HOUR)
    await line.restarted()
    assert line.outage.wait == HOUR


async def test_a_password_that_is_taken_clears_the_record(line: Line) -> None:
    """The next refusal, whenever it comes, is the first again."""
    for _ in range(2):
        await line.clock.advance(await line.outage.failed(REFUSED))
    line.outage.answered()
    assert line.store.learnt == replace(line.store.learnt, login_refusals=0, login_not_before=None)
    assert await line.outage.failed(REFUSED) == 5 * MINUTE


async def test_the_operator_ends_every_pause(line: Line) -> None:
    """Whoever has mended something need not wait: the workers that sleep are woken at once."""
    await line.outage.failed(REFUSED)
    workers = [asyncio.create_task(line.outage.clear()) for _ in range(3)]
    await idle()
    assert not any(worker.done() for worker in workers)
    line.outage.lift()
    await idle()
    assert all(worker.done() for worker in workers)
    assert (line.outage.wait, line.clock.sleepers) == (0.0, 0)


async def test_a_pause_that_grew_while_we_waited_is_waited_for(line: Line) -> None:
    """Whoever wakes looks again before calling."""
    await line.outage.failed(DOWN)
    worker = asyncio.create_task(line.outage.clear())
    await idle()
    line.outage.lift()
    await line.outage.failed(errors.ServerBusy("429", retry_after=50.0))
    await idle()
    assert not worker.done()
    await line.clock.advance(50.0)
    assert worker.done()

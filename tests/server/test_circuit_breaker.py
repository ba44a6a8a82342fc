"""Whether the server may be called: one answer for all, by a clock that the test holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fakes import MemoryDisk, VirtualClock, idle

from uploader.domain import errors, events, retry
from uploader.domain.retry import HOUR, MINUTE
from uploader.server.circuit_breaker import CircuitBreaker, refuse_again
from uploader.store import Store
from uploader.store.store import STATE_FILE

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
        self.password: str | None = "wr0ng-pass"
        self.store = Store(self.disk, self.clock, self.bus)
        self.outage = CircuitBreaker(self.store, self.clock, self.bus, self.account)

    def account(self) -> str:
        """What we log in with, as the operator has it lying there."""
        if self.password is None:
            raise errors.PasswordUnusable("no password is configured")
        return f"https://valt\0uploader\0{self.password}"

    async def restarted(self) -> None:
        """The same, after a restart of the daemon."""
        await self.store.close()
        self.store = Store(self.disk, self.clock, self.bus)
        self.outage = CircuitBreaker(self.store, self.clock, self.bus, self.account)

    def callers(self, count: int) -> list[Caller]:
        """So many who want to call, in this order."""
        return [Caller(self.outage) for _ in range(count)]


class Caller:
    """Somebody who wants to call the server, and calls until told to end."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.calls = False
        self._end = asyncio.Event()
        self._task = asyncio.create_task(self._call(breaker))

    async def _call(self, breaker: CircuitBreaker) -> None:
        await breaker.clear()
        async with breaker.slot():
            self.calls = True
            await self._end.wait()
        self.calls = False

    def end(self) -> None:
        """Let its call be over, as soon as it gets to that."""
        self._end.set()

    async def ends(self) -> None:
        """Its call is over, however it went."""
        self.end()
        await idle()

    async def leaves(self) -> None:
        """It waits no longer: what it waited for has ended otherwise."""
        self._task.cancel()
        await idle()
        self.calls = False


def calling(callers: list[Caller]) -> list[bool]:
    """Who is on the line."""
    return [caller.calls for caller in callers]


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
    """All workers at once, until the pause is over and one has gone ahead; the reason can be read meanwhile."""
    pause = await line.outage.trip(DOWN)
    assert (pause, line.outage.wait, line.outage.reason) == (2.0, 2.0, "cannot be reached")
    workers = [asyncio.create_task(line.outage.clear()) for _ in range(3)]
    await line.clock.advance(1.9)
    assert not any(worker.done() for worker in workers)
    await line.clock.advance(0.1)
    assert [worker.done() for worker in workers] == [True, False, False]
    for _ in range(2):
        line.outage.record_success()
        await idle()
    assert all(worker.done() for worker in workers)
    assert line.said[:1] == [events.OutageBegan("cannot be reached", 2.0)]


async def test_workers_that_fail_together_are_one_failure(line: Line) -> None:
    """Calls that were under way when the pause began make it no longer, and are not said again."""
    first = await line.outage.trip(DOWN)
    await line.clock.advance(0.5)
    assert await line.outage.trip(DOWN) == first - 0.5
    await line.clock.advance(1.5)
    assert await line.outage.trip(DOWN) == retry.outage_pause(2, line.clock.uniform)
    assert len(line.said) == 2


async def test_a_dead_server_is_probed_ever_more_rarely(line: Line) -> None:
    """A few short pauses for a restart, then doubling up to a quarter of an hour; never a hectic loop."""
    pauses = []
    for _ in range(12):
        pauses.append(await line.outage.trip(DOWN))
        await line.clock.advance(pauses[-1])
    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0]


async def test_an_answer_ends_the_outage(line: Line) -> None:
    """It is said once, with how long it took, and the next outage begins anew."""
    for _ in range(3):
        await line.clock.advance(await line.outage.trip(DOWN))
    line.outage.record_success()
    line.outage.record_success()
    assert line.said[-1] == events.OutageEnded(14.0)
    assert sum(isinstance(event, events.OutageEnded) for event in line.said) == 1
    assert line.outage.reason == ""
    assert await line.outage.trip(DOWN) == 2.0


async def test_an_answer_to_an_older_call_ends_the_pause_of_a_broken_line(line: Line) -> None:
    """The server lives: whoever waits goes on at once."""
    await line.outage.trip(DOWN)
    worker = asyncio.create_task(line.outage.clear())
    await idle()
    line.outage.record_success()
    await idle()
    assert (worker.done(), line.outage.wait, line.clock.sleepers) == (True, 0.0, 0)


@pytest.mark.parametrize("error", [errors.ServerBusy("429", retry_after=600.0), REFUSED])
async def test_what_the_server_asked_for_is_kept_to(line: Line, error: errors.UploaderError) -> None:
    """A Retry-After, or a refused password: a good answer to a call that was on its way does not end that."""
    pause = await line.outage.trip(error)
    await line.clock.advance(1.0)
    line.outage.record_success()
    assert line.outage.wait == pause - 1.0 > 200
    assert not any(isinstance(event, events.OutageEnded) for event in line.said)
    await line.clock.advance(pause)
    line.outage.record_success()
    assert isinstance(line.said[-1], events.OutageEnded)


async def test_a_busy_server_is_left_alone_for_as_long_as_it_says(line: Line) -> None:
    """Not a second less."""
    assert await line.outage.trip(errors.ServerBusy("429", retry_after=77.0)) == 77.0
    assert line.outage.wait == 77.0


async def test_a_wrong_password_is_tried_ever_more_rarely(line: Line) -> None:
    """At 5, 15 and 60 minutes, then hourly: accounts get locked by less; and each refusal is saved."""
    pauses = []
    for _ in range(5):
        pauses.append(await line.outage.trip(REFUSED))
        await line.clock.advance(pauses[-1])
    assert pauses == [5 * MINUTE, 15 * MINUTE, HOUR, HOUR, HOUR]
    assert b'"login_refusals": 5' in line.disk.files[STATE_FILE]


async def test_a_restart_does_not_try_a_refused_password_again(line: Line) -> None:
    """The pause goes on where it stood, and the next refusal is the second."""
    await line.outage.trip(REFUSED)
    await line.clock.advance(MINUTE)
    await line.restarted()
    assert line.outage.wait == pytest.approx(4 * MINUTE)
    line.outage.record_success()
    assert line.outage.wait == pytest.approx(4 * MINUTE)
    await line.clock.advance(4 * MINUTE)
    assert await line.outage.trip(REFUSED) == 15 * MINUTE


async def test_one_alone_tries_a_password_that_was_refused_before_the_restart(line: Line) -> None:
    """When its time has come: several at once would be several refusals."""
    await line.outage.trip(REFUSED)
    await line.restarted()
    callers = line.callers(4)
    await line.clock.advance(5 * MINUTE)
    assert calling(callers) == [True, False, False, False]
    line.outage.reset()
    await idle()
    for caller in callers:
        await caller.ends()


async def test_a_clock_that_was_set_back_does_not_hold_us_for_a_year(line: Line) -> None:
    """What an earlier run has saved counts for an hour at most."""
    await line.outage.trip(REFUSED)
    line.clock.jump(-365 * 24 * HOUR)
    await line.restarted()
    assert line.outage.wait == HOUR


async def test_a_password_that_is_taken_clears_the_record(line: Line) -> None:
    """The next refusal, whenever it comes, is the first again."""
    for _ in range(2):
        await line.clock.advance(await line.outage.trip(REFUSED))
    line.outage.record_success()
    assert line.store.capabilities == replace(line.store.capabilities, login_refusals=0, login_not_before=None)
    assert await line.outage.trip(REFUSED) == 5 * MINUTE


async def test_the_operator_ends_every_pause(line: Line) -> None:
    """Whoever has mended something need not wait: the workers that sleep are woken at once."""
    await line.outage.trip(REFUSED)
    workers = [asyncio.create_task(line.outage.clear()) for _ in range(3)]
    await idle()
    assert not any(worker.done() for worker in workers)
    line.outage.reset()
    await idle()
    assert all(worker.done() for worker in workers)
    assert (line.outage.wait, line.clock.sleepers) == (0.0, 0)


async def test_a_pause_that_grew_while_we_waited_is_waited_for(line: Line) -> None:
    """Whoever wakes looks again before calling."""
    await line.outage.trip(DOWN)
    worker = asyncio.create_task(line.outage.clear())
    await idle()
    line.outage.reset()
    await line.outage.trip(errors.ServerBusy("429", retry_after=50.0))
    await idle()
    assert not worker.done()
    await line.clock.advance(50.0)
    assert worker.done()


# Half-open: after the pause


async def test_one_calls_first_then_two_then_all(line: Line) -> None:
    """After an outage the server gets one call; when that is answered two; after the next answer all who wait."""
    await line.outage.trip(DOWN)
    callers = line.callers(6)
    await line.clock.advance(2.0)
    assert calling(callers) == [True, False, False, False, False, False]
    line.outage.record_success()
    await idle()
    assert calling(callers) == [True, True, False, False, False, False]
    line.outage.record_success()
    await idle()
    assert calling(callers) == [True] * 6
    for caller in callers:
        await caller.ends()


async def test_an_outage_costs_one_call_per_pause(line: Line) -> None:
    """However many wait: the one whose turn it is fails, and all wait again. Never files times retries."""
    callers = line.callers(9)
    await idle()
    for caller in callers:
        await caller.ends()
    await line.outage.trip(DOWN)
    callers, calls = line.callers(9), 0
    for _ in range(5):
        await line.clock.advance(line.outage.wait)
        (probe,) = [caller for caller in callers if caller.calls]
        calls += 1
        await line.outage.trip(DOWN)
        await probe.ends()
        callers.remove(probe)
    assert (calls, calling(callers)) == (5, [False] * 4)
    for caller in callers:
        await caller.leaves()


async def test_first_come_first_served(line: Line) -> None:
    """One file whose call fails again and again goes to the end of the row each time: it starves nobody."""
    await line.outage.trip(DOWN)
    first, *others = line.callers(3)
    await line.clock.advance(2.0)
    await line.outage.trip(DOWN)
    await first.ends()
    again = line.callers(1)
    await line.clock.advance(line.outage.wait)
    assert calling([*others, *again]) == [True, False, False]
    for caller in [*others, *again]:
        await caller.ends()


async def test_a_turn_that_came_to_no_call_is_handed_on(line: Line) -> None:
    """The file was gone, the worker was stopped: the next in the row is the probe, at once."""
    await line.outage.trip(DOWN)
    waits, first, second, third = line.callers(4)
    await idle()
    await waits.leaves()
    await line.clock.advance(2.0)
    assert calling([first, second, third]) == [True, False, False]
    await first.ends()
    assert calling([first, second, third]) == [False, True, False]
    await second.leaves()
    assert third.calls
    await third.ends()


async def test_a_newcomer_does_not_push_in(line: Line) -> None:
    """Who comes at the very moment at which a turn ends goes behind those who wait."""
    await line.outage.trip(DOWN)
    first, waits = line.callers(2)
    await line.clock.advance(2.0)
    first.end()
    (newcomer,) = line.callers(1)
    await idle()
    assert calling([first, waits, newcomer]) == [False, True, False]
    await waits.ends()
    await newcomer.ends()


@pytest.mark.parametrize("steps", range(12))
async def test_nobody_waits_for_one_who_has_left(line: Line, steps: int) -> None:
    """A waiter that is cancelled while it is its turn, however far it has come, hands it on."""
    await line.outage.trip(DOWN)
    first, leaves, last = line.callers(3)
    await line.clock.advance(2.0)
    first.end()
    for _ in range(steps):
        await asyncio.sleep(0)
    await leaves.leaves()
    await idle()
    assert calling([first, leaves, last]) == [False, False, True]
    await last.ends()


# Too many failures of single files


async def test_five_failures_in_a_row_are_the_server_s(line: Line) -> None:
    """Whatever calls they were; an answer in between begins the count anew. Then it is 30 s, not two."""
    broken = errors.AnswerLost("upload chunk: the connection broke")
    for _ in range(4):
        await line.outage.record_failure(broken)
    line.outage.record_success()
    for _ in range(4):
        await line.outage.record_failure(broken)
    assert (line.outage.wait, line.outage.going_on) == (0.0, False)
    await line.outage.record_failure(broken)
    assert (line.outage.wait, line.outage.going_on) == (30.0, True)
    assert line.outage.reason == "upload chunk: the connection broke, and too many calls have failed before it"


async def test_more_retries_than_answers_are_the_server_s(line: Line) -> None:
    """A server that answers now and then, and fails more: beyond twenty, one retry for every five answers."""
    retries = 0
    while line.outage.wait == 0.0 and retries < 100:
        await line.outage.record_failure(errors.AnswerLost("lost"))
        retries += 1
        if line.outage.wait == 0.0:
            line.outage.record_success()
    assert retries == 24  # twenty, and what the answers in between have earned
    await line.clock.advance(30.0)
    line.outage.record_success()
    assert line.outage.wait == 0.0
    await line.outage.record_failure(errors.AnswerLost("lost"))
    assert line.outage.wait == 30.0


async def test_a_server_without_room_is_asked_rarely(line: Line) -> None:
    """It takes a person there: every quarter of an hour, from the first time on."""
    for error in (errors.ServerFull("507"), errors.NoRoom("500")):
        assert await line.outage.trip(error) == 15 * MINUTE
        await line.clock.advance(15 * MINUTE)


async def test_a_retry_after_of_nothing_is_no_hectic_loop(line: Line) -> None:
    """What a server asks for is the least; our own pauses grow all the same."""
    pauses = []
    for _ in range(6):
        pauses.append(await line.outage.trip(errors.ServerBusy("503", retry_after=0.0)))
        await line.clock.advance(pauses[-1])
    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 60.0]


# A refused password that is changed


@pytest.mark.parametrize("restart", [False, True])
async def test_a_changed_password_is_tried_at_once(line: Line, restart: bool) -> None:
    """Within seconds, by whoever waits; also after a restart. The same one waits its time."""
    await line.outage.trip(REFUSED)
    if restart:
        await line.restarted()
    worker = asyncio.create_task(line.outage.clear())
    await line.clock.advance(4 * MINUTE)
    assert not worker.done()
    line.password = "r1ght-pass"
    await line.clock.advance(5.0)
    assert worker.done()
    assert line.outage.wait == 0.0


async def test_a_password_that_cannot_be_read_is_not_another(line: Line) -> None:
    """While it is being changed its file may be missing: that is no reason to try."""
    await line.outage.trip(REFUSED)
    line.password = None
    assert line.outage.refused()
    await line.restarted()
    assert line.outage.refused()
    line.password = "wr0ng-pass"
    assert line.outage.refused()


async def test_another_password_that_is_refused_waits_longer(line: Line) -> None:
    """A change is tried at once, but it does not begin the count anew: guessing is no way in."""
    pauses = []
    for number in range(4):
        line.password = f"guess-{number}"
        assert not line.outage.refused()
        pauses.append(await line.outage.trip(REFUSED))
    assert pauses == [5 * MINUTE, 15 * MINUTE, HOUR, HOUR]


async def test_only_a_refused_password_is_looked_at(line: Line) -> None:
    """Another outage has nothing to do with it, also when a refusal lies behind us."""
    await line.clock.advance(await line.outage.trip(REFUSED))
    await line.outage.trip(DOWN)
    line.password = "another"
    assert not line.outage.refused()
    assert line.outage.wait > 0


async def test_the_state_knows_the_password_again_and_cannot_tell_it(line: Line) -> None:
    """A salted fingerprint: neither the password nor the same text for the same password twice."""
    await line.outage.trip(REFUSED)
    first = line.store.capabilities.login_refused
    await line.clock.advance(HOUR)
    await line.outage.trip(REFUSED)
    assert first is not None
    assert line.store.capabilities.login_refused not in {None, first}
    assert b"wr0ng-pass" not in b"".join(line.disk.files.values())


async def test_a_command_by_hand_does_not_try_it_either(line: Line) -> None:
    """A timer that runs it every minute would lock the account; another password, or its time, lets it through."""
    await line.outage.trip(REFUSED)
    learnt, now = line.store.capabilities, line.clock.now()
    with pytest.raises(errors.PasswordRefused, match=r"not tried again for 5 min.*valt-uploader retry"):
        refuse_again(learnt, line.account(), now)
    refuse_again(learnt, line.account() + "!", now)
    refuse_again(learnt, line.account(), now + 5 * MINUTE)
    refuse_again(replace(learnt, login_not_before=None), line.account(), now)
    with pytest.raises(errors.PasswordRefused):  # which password it was is not known: an older state
        refuse_again(replace(learnt, login_refused=None), line.account(), now)


# Slots are for calls, not for jobs


async def test_calls_that_began_before_the_outage_take_no_slot(line: Line) -> None:
    """Four bodies that are sent for hours: after the pause the others are let in as if they were not there."""
    bodies = line.callers(4)
    await idle()
    await line.outage.trip(DOWN)
    callers = line.callers(3)
    await line.clock.advance(2.0)
    assert calling(callers) == [True, False, False]
    await bodies[0].ends()  # it gives back what it does not hold
    assert calling(callers) == [True, False, False]
    line.outage.record_success()
    await idle()
    assert calling(callers) == [True, True, False]
    for caller in [*bodies, *callers]:
        await caller.ends()


async def test_a_body_that_the_server_takes_hands_its_slot_on(line: Line) -> None:
    """The first call after the pause may be a body of 50 GB: once it moves the next one goes, and only that one."""
    await line.outage.trip(DOWN)
    await line.clock.advance(2.0)
    async with line.outage.slot() as body:
        callers = line.callers(2)
        await idle()
        assert calling(callers) == [False, False]
        assert body.free()
        await idle()
        assert calling(callers) == [True, False]
        assert not body.free()
    await idle()
    assert calling(callers) == [True, False]
    for caller in callers:
        await caller.ends()


async def test_a_body_that_moves_is_no_answer(line: Line) -> None:
    """A proxy takes a whole body before it says 502: the pauses grow all the same, and the server is not *back*."""
    pauses = []
    for _ in range(3):
        async with line.outage.slot() as body:
            body.free()
        pauses.append(await line.outage.trip(DOWN))
        await line.clock.advance(pauses[-1])
    assert pauses == [2.0, 4.0, 8.0]
    assert not any(isinstance(event, events.OutageEnded) for event in line.said)


async def test_a_job_that_does_not_call_soon_keeps_nobody_waiting(line: Line) -> None:
    """It was let in and reads 80 GiB first: after five seconds the next one goes, and the late one when it can."""
    await line.outage.trip(DOWN)
    await line.clock.advance(2.0)
    await line.outage.clear()  # and reads
    (other,) = line.callers(1)
    await line.clock.advance(retry.HALF_OPEN_SLOT_HELD - 0.1)
    assert calling([other]) == [False]
    await line.clock.advance(0.1)
    assert calling([other]) == [True]
    late = asyncio.create_task(one_call(line.outage))
    await idle()
    assert not late.done()
    await other.ends()
    assert late.done()


async def one_call(breaker: CircuitBreaker) -> None:
    """Call in the middle of a job."""
    async with breaker.slot():
        pass


async def test_a_job_that_was_let_in_finds_its_slot(line: Line) -> None:
    """Between its leave and its first call nobody else takes it, however long the row."""
    await line.outage.trip(DOWN)
    await line.clock.advance(2.0)
    await line.outage.clear()
    waiting = line.callers(3)
    await line.clock.advance(1.0)
    assert not any(calling(waiting))
    async with line.outage.slot():
        await idle()
        assert not any(calling(waiting))
    await idle()
    assert calling(waiting) == [True, False, False]
    for caller in waiting:
        await caller.ends()


async def test_a_call_in_the_middle_of_a_job_does_not_wait_for_an_outage_to_end(line: Line) -> None:
    """Its file would be held open for hours: nothing is called, and that is no further failure of the server."""
    pause = await line.outage.trip(DOWN)
    with pytest.raises(errors.BreakerOpen, match="cannot be reached"):
        await one_call(line.outage)
    await line.clock.advance(pause)
    assert await line.outage.trip(errors.BreakerOpen("told late, when the pause was over")) == 0.0
    assert len(line.said) == 1
    assert await line.outage.trip(DOWN) == 4.0  # the second failure, not the third


async def test_a_call_that_waits_for_the_probe_ends_with_it(line: Line) -> None:
    """Half-open, one is calling; when it fails, whoever waited in the middle of a job does not wait for the next."""
    await line.outage.trip(DOWN)
    (probe,) = line.callers(1)
    await line.clock.advance(2.0)
    assert probe.calls
    job = asyncio.create_task(one_call(line.outage))
    await idle()
    assert not job.done()
    await line.outage.trip(DOWN)
    with pytest.raises(errors.BreakerOpen):
        await job
    await probe.ends()


async def test_a_failure_is_judged_before_the_next_one_calls(line: Line) -> None:
    """Until somebody says what it means its slot is taken; for five seconds at most."""
    await line.outage.trip(DOWN)
    await line.clock.advance(2.0)
    with pytest.raises(errors.AnswerLost):
        async with line.outage.slot():
            raise errors.AnswerLost("the connection broke")
    (other,) = line.callers(1)
    await line.clock.advance(retry.HALF_OPEN_SLOT_HELD - 0.1)
    assert calling([other]) == [False]
    await line.outage.trip(errors.AnswerLost("the connection broke"))
    await line.clock.advance(line.outage.wait)
    assert calling([other]) == [True]
    await other.ends()

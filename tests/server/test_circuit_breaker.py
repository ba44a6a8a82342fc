"""The circuit breaker: whether the server may be called, by a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise

import pytest
from fakes import MemoryDisk, VirtualClock, idle

from uploader.domain import errors, events, retry
from uploader.domain.retry import HOUR, MINUTE
from uploader.server.circuit_breaker import CircuitBreaker, refuse_again
from uploader.store import Store
from uploader.store.opening import STATE_FILE

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
    """At once, without a step of the event loop."""
    assert line.outage.wait == 0.0
    await line.outage.clear()


async def test_every_call_waits_for_a_server_that_is_down(line: Line) -> None:
    """Until the pause is over and one call has gone ahead; the reason can be read meanwhile."""
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


async def test_concurrent_failures_count_as_one(line: Line) -> None:
    """Calls in flight when the pause began neither prolong it nor are reported again."""
    first = await line.outage.trip(DOWN)
    await line.clock.advance(0.5)
    assert await line.outage.trip(DOWN) == first - 0.5
    await line.clock.advance(1.5)
    assert await line.outage.trip(DOWN) == retry.outage_pause(2, line.clock.uniform)
    assert line.said == [events.OutageBegan("cannot be reached", 2.0), events.OutageContinues("cannot be reached", 4.0)]


async def test_a_dead_server_is_tried_less_and_less_often(line: Line) -> None:
    """A few short pauses for a restart, then doubling up to a quarter of an hour."""
    pauses = []
    for _ in range(12):
        pauses.append(await line.outage.trip(DOWN))
        await line.clock.advance(pauses[-1])
    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0]


async def test_an_answer_ends_the_outage(line: Line) -> None:
    """It is reported once, with the length of the outage, and the next outage begins anew."""
    for _ in range(3):
        await line.clock.advance(await line.outage.trip(DOWN))
    for _ in range(2 * retry.OUTAGE_OVER_ANSWERS):
        line.outage.record_success()
    assert line.said[-1] == events.OutageEnded(14.0)
    assert sum(isinstance(event, events.OutageEnded) for event in line.said) == 1
    assert line.outage.reason == ""
    assert await line.outage.trip(DOWN) == 2.0


async def test_an_answer_to_an_older_call_ends_the_pause_after_a_broken_connection(line: Line) -> None:
    """The server works, so waiting calls go on at once."""
    await line.outage.trip(DOWN)
    worker = asyncio.create_task(line.outage.clear())
    await idle()
    line.outage.record_success()
    await idle()
    assert (worker.done(), line.outage.wait, line.clock.sleepers) == (True, 0.0, 0)


@pytest.mark.parametrize("error", [errors.ServerBusy("429", retry_after=600.0), REFUSED])
async def test_a_pause_that_the_server_asked_for_is_kept(line: Line, error: errors.UploaderError) -> None:
    """After a Retry-After or a refused password, an answer to an older call does not end it."""
    pause = await line.outage.trip(error)
    await line.clock.advance(1.0)
    line.outage.record_success()
    assert line.outage.wait == pause - 1.0 > 200
    assert not any(isinstance(event, events.OutageEnded) for event in line.said)
    await line.clock.advance(pause)
    line.outage.record_success()
    await line.clock.advance(retry.OUTAGE_OVER_AFTER)
    assert isinstance(line.said[-1], events.OutageEnded)


async def test_a_busy_server_is_not_called_during_its_retry_after(line: Line) -> None:
    """Not a second less."""
    assert await line.outage.trip(errors.ServerBusy("429", retry_after=77.0)) == 77.0
    assert line.outage.wait == 77.0


async def test_a_wrong_password_is_tried_less_and_less_often(line: Line) -> None:
    """After 5, 15 and 60 minutes, then hourly, as more tries could lock the account; each refusal is saved."""
    pauses = []
    for _ in range(5):
        pauses.append(await line.outage.trip(REFUSED))
        await line.clock.advance(pauses[-1])
    assert pauses == [5 * MINUTE, 15 * MINUTE, HOUR, HOUR, HOUR]
    assert b'"login_refusals": 5' in line.disk.files[STATE_FILE]


async def test_a_restart_does_not_try_a_refused_password_again(line: Line) -> None:
    """The pause continues, and the next refusal counts as the second."""
    await line.outage.trip(REFUSED)
    await line.clock.advance(MINUTE)
    await line.restarted()
    assert line.outage.wait == pytest.approx(4 * MINUTE)
    line.outage.record_success()
    assert line.outage.wait == pytest.approx(4 * MINUTE)
    await line.clock.advance(4 * MINUTE)
    assert await line.outage.trip(REFUSED) == 15 * MINUTE


async def test_only_one_call_tries_a_password_refused_before_the_restart(line: Line) -> None:
    """Several at once would be several refusals."""
    await line.outage.trip(REFUSED)
    await line.restarted()
    callers = line.callers(4)
    await line.clock.advance(5 * MINUTE)
    assert calling(callers) == [True, False, False, False]
    line.outage.reset()
    await idle()
    for caller in callers:
        await caller.ends()


async def test_a_saved_pause_counts_for_an_hour_at_most(line: Line) -> None:
    """The clock may have been set back since."""
    await line.outage.trip(REFUSED)
    line.clock.jump(-365 * 24 * HOUR)
    await line.restarted()
    assert line.outage.wait == HOUR


async def test_an_accepted_password_clears_the_refusals(line: Line) -> None:
    """The next refusal counts as the first again."""
    for _ in range(2):
        await line.clock.advance(await line.outage.trip(REFUSED))
    line.outage.record_success()
    assert line.store.capabilities == replace(line.store.capabilities, login_refusals=0, login_not_before=None)
    assert await line.outage.trip(REFUSED) == 5 * MINUTE


async def test_the_operator_ends_every_pause(line: Line) -> None:
    """After ``retry``, all waiting workers go on at once."""
    await line.outage.trip(REFUSED)
    workers = [asyncio.create_task(line.outage.clear()) for _ in range(3)]
    await idle()
    assert not any(worker.done() for worker in workers)
    line.outage.reset()
    await idle()
    assert all(worker.done() for worker in workers)
    assert (line.outage.wait, line.clock.sleepers) == (0.0, 0)


async def test_a_pause_that_was_prolonged_is_waited_for(line: Line) -> None:
    """A waiting call checks again before it goes on."""
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
    """After an outage one call is let in; after its answer two; after the next answer all."""
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
    """However many wait: when it fails, all wait again."""
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
    """A file whose call fails again and again goes to the end of the queue each time."""
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


async def test_an_unused_slot_goes_to_the_next(line: Line) -> None:
    """The file was gone or the worker stopped: the next in the queue calls at once."""
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


async def test_a_new_call_goes_to_the_end_of_the_queue(line: Line) -> None:
    """Also when it comes at the moment at which a slot becomes free."""
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
async def test_a_cancelled_waiter_passes_its_slot_on(line: Line, steps: int) -> None:
    """However far it has come."""
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


async def test_five_failures_in_a_row_are_an_outage(line: Line) -> None:
    """Of any calls; an answer in between starts the count again. The pause is 30 s, not two."""
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


async def test_too_many_retries_are_an_outage(line: Line) -> None:
    """Beyond twenty, one retry is allowed for every five answers."""
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


async def test_a_server_without_disk_space_is_called_every_quarter_of_an_hour(line: Line) -> None:
    """From the first failure on, as an administrator must act."""
    for error in (errors.ServerFull("507"), errors.NoRoom("500")):
        assert await line.outage.trip(error) == 15 * MINUTE
        await line.clock.advance(15 * MINUTE)


async def test_a_retry_after_of_zero_does_not_shorten_the_pauses(line: Line) -> None:
    """The server's wish is a minimum; the breaker's own pauses grow nevertheless."""
    pauses = []
    for _ in range(6):
        pauses.append(await line.outage.trip(errors.ServerBusy("503", retry_after=0.0)))
        await line.clock.advance(pauses[-1])
    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 60.0]


# A refused password that is changed


@pytest.mark.parametrize("restart", [False, True])
async def test_a_changed_password_is_tried_at_once(line: Line, restart: bool) -> None:
    """Within seconds, by one waiting call, also after a restart. The same password waits for its time."""
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


async def test_an_unreadable_password_is_not_a_changed_one(line: Line) -> None:
    """While it is being changed its file may be missing."""
    await line.outage.trip(REFUSED)
    line.password = None
    assert line.outage.refused()
    await line.restarted()
    assert line.outage.refused()
    line.password = "wr0ng-pass"
    assert line.outage.refused()


async def test_a_changed_password_that_is_refused_prolongs_the_pause(line: Line) -> None:
    """The count of refusals goes on, so that passwords cannot be guessed."""
    pauses = []
    for number in range(4):
        line.password = f"guess-{number}"
        assert not line.outage.refused()
        pauses.append(await line.outage.trip(REFUSED))
    assert pauses == [5 * MINUTE, 15 * MINUTE, HOUR, HOUR]


async def test_the_password_is_watched_only_while_it_is_refused(line: Line) -> None:
    """Not during another outage, also after an earlier refusal."""
    await line.clock.advance(await line.outage.trip(REFUSED))
    await line.outage.trip(DOWN)
    line.password = "another"
    assert not line.outage.refused()
    assert line.outage.wait > 0


async def test_the_state_holds_a_salted_fingerprint_of_the_password(line: Line) -> None:
    """Neither the password itself, nor the same text twice for one password."""
    await line.outage.trip(REFUSED)
    first = line.store.capabilities.login_refused
    await line.clock.advance(HOUR)
    await line.outage.trip(REFUSED)
    assert first is not None
    assert line.store.capabilities.login_refused not in {None, first}
    assert b"wr0ng-pass" not in b"".join(line.disk.files.values())


async def test_a_command_does_not_try_a_refused_password(line: Line) -> None:
    """A timer that runs it every minute would lock the account; another password, or the end of the pause, lets it."""
    await line.outage.trip(REFUSED)
    learnt, now = line.store.capabilities, line.clock.now()
    with pytest.raises(errors.PasswordRefused, match=r"not tried again for 5 min.*valt-uploader retry"):
        refuse_again(learnt, line.account(), now)
    refuse_again(learnt, line.account() + "!", now)
    refuse_again(learnt, line.account(), now + 5 * MINUTE)
    refuse_again(replace(learnt, login_not_before=None), line.account(), now)
    with pytest.raises(errors.PasswordRefused):  # which password it was is not known: an older state
        refuse_again(replace(learnt, login_refused=None), line.account(), now)


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_portal_is_logged_in_to_ever_more_rarely(line: Line, workers: int) -> None:
    """It answers 200 to the log-in, which is no answer of VALT: an hour costs few passwords, a day one each 15 min."""
    portal = errors.ServerDown("the log-in was answered, but not as a VALT server does")
    log_ins: list[float] = []

    async def work() -> None:
        while True:
            await line.outage.clear()
            try:
                async with line.outage.slot():
                    log_ins.append(line.clock.monotonic())
                    raise portal
            except errors.BreakerOpen:
                pass
            except errors.ServerDown as error:
                await line.outage.trip(error)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    began = line.clock.monotonic()
    await line.clock.advance(HOUR)
    first_hour = len(log_ins)
    await line.clock.advance(23 * HOUR)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert first_hour <= workers + 12
    assert len(log_ins) <= first_hour + 23 * 4 + 1
    pauses = [later - earlier for earlier, later in pairwise(log_ins)]
    assert pauses[-10:] == [15 * MINUTE] * 10
    assert log_ins[0] == began
    assert [event.name() for event in line.said if event.level == "error"] == ["outage-began"]


# Slots are for calls, not for jobs


async def test_calls_that_began_before_the_outage_take_no_slot(line: Line) -> None:
    """Bodies that are sent for hours do not keep other calls from going on after the pause."""
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


async def test_a_body_that_moves_passes_its_slot_on(line: Line) -> None:
    """The first call after the pause may be a body of 50 GB: once it moves, the next call goes, and only one."""
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
    """A proxy may take a whole body before it says 502: the pauses grow, and the outage has not ended."""
    pauses = []
    for _ in range(3):
        async with line.outage.slot() as body:
            body.free()
        pauses.append(await line.outage.trip(DOWN))
        await line.clock.advance(pauses[-1])
    assert pauses == [2.0, 4.0, 8.0]
    assert not any(isinstance(event, events.OutageEnded) for event in line.said)


async def test_an_unused_slot_is_passed_on_after_five_seconds(line: Line) -> None:
    """A job may read 80 GiB before its first call; it calls when a slot is free again."""
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


async def test_a_job_keeps_its_slot_until_its_first_call(line: Line) -> None:
    """No other call takes it, however long the queue."""
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
    """Its file would be held open for hours: it raises at once, and no further failure is counted."""
    pause = await line.outage.trip(DOWN)
    with pytest.raises(errors.BreakerOpen, match="cannot be reached"):
        await one_call(line.outage)
    await line.clock.advance(pause)
    assert await line.outage.trip(errors.BreakerOpen("told late, when the pause was over")) == 0.0
    assert len(line.said) == 1
    assert await line.outage.trip(DOWN) == 4.0  # the second failure, not the third


async def test_a_call_within_a_job_does_not_wait_for_the_next_trial(line: Line) -> None:
    """When the trial call of a half-open breaker fails, it raises."""
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


async def test_a_failed_call_keeps_its_slot_until_the_failure_is_classified(line: Line) -> None:
    """For five seconds at most."""
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

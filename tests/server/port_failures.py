"""Scenarios of the server's port: log-in, failures of all kinds, cancellation, and the server's clock."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest
from port_bench import (
    CLOCK_RESOLUTION,
    DATA,
    SPEC,
    WRONG_PASSWORD,
    Bench,
    Marks,
    Mishap,
    Scenarios,
    fails,
    send,
)
from simulation.server import PASSWORD

from uploader.domain import errors
from uploader.testing.simulator import CallName

SCENARIOS: Final = Scenarios()


# Log-in


@SCENARIOS.add()
async def one_log_in_serves_all(bench: Bench) -> None:
    """Calls that begin without a token share one log-in, and so do calls that all find it expired."""
    assert (bench.server.log_ins, bench.requests["login"]) == (0, 0)
    first, second = await asyncio.gather(bench.server.create_record(SPEC), bench.server.create_record(SPEC))
    assert (bench.server.log_ins, bench.requests["login"]) == (1, 1)
    bench.go_wrong("details", Mishap.TOKEN_EXPIRED)
    await asyncio.gather(*(bench.server.details(ids.record) for ids in (first, second, first, second)))
    assert (bench.server.log_ins, bench.requests["login"]) == (2, 2)
    await bench.server.login_if_needed()
    assert bench.requests["login"] == 2


@SCENARIOS.add()
async def a_401_that_comes_late_does_not_end_a_new_token(bench: Bench) -> None:
    """Another call has logged in since: what is repeated goes with that token."""
    ids = await bench.server.create_record(SPEC)
    bench.go_wrong("version", Mishap.TOKEN_EXPIRED)
    bench.go_wrong("details", Mishap.SLOW)
    first = asyncio.create_task(bench.server.version())
    late = asyncio.create_task(bench.server.details(ids.record))
    assert await first == "6.7.2"
    assert bench.server.log_ins == 2
    bench.release()
    assert (await late).record == ids.record
    assert (bench.server.log_ins, bench.requests["login"], bench.requests["details"]) == (2, 2, 2)


@SCENARIOS.add()
async def a_chunk_with_an_expired_token_is_not_taken(bench: Bench) -> None:
    """It raises ``TokenExpired``, for its source was read; sent again it logs in anew, once."""
    for mishap, data in ((Mishap.TOKEN_EXPIRED, DATA), (Mishap.TOKEN_EXPIRED_EARLY, bytes(bench.long))):
        ids, before = await bench.server.create_record(SPEC), bench.server.log_ins
        bench.go_wrong("upload", mishap)
        with fails(errors.TokenExpired):
            await send(bench, ids, data)
        await bench.quiet()
        assert bench.held()[ids.record] == b""
        await send(bench, ids)
        assert (bench.held()[ids.record], bench.server.log_ins) == (DATA, before + 1)


@SCENARIOS.add()
async def a_refused_password_is_not_tried_again(bench: Bench) -> None:
    """Else an account would be locked. It is tried when another one is there, or the operator says so."""
    bench.password = WRONG_PASSWORD
    for _ in range(2):
        with fails(errors.PasswordRefused):
            await bench.server.create_record(SPEC)
    assert bench.requests["login"] == 1
    bench.server.forget_refusal()
    with fails(errors.PasswordRefused):
        await bench.server.login_if_needed()
    assert bench.requests["login"] == 2
    bench.password = PASSWORD
    await bench.server.login_if_needed()
    assert (bench.server.log_ins, bench.requests["login"], bench.held()) == (1, 3, {})


# Failures


@SCENARIOS.add()
async def a_plain_no_does_nothing(bench: Bench) -> None:
    """No record is made and no chunk is taken."""
    bench.go_wrong("create", Mishap.FORBIDDEN)
    with fails(errors.RightMissing) as caught:
        await bench.server.create_record(SPEC)
    assert isinstance(caught.value, errors.ServerRefused)
    assert bench.held() == {}
    ids = await bench.server.create_record(SPEC)
    bench.go_wrong("upload", Mishap.FORBIDDEN)
    with fails(errors.RightMissing):
        await send(bench, ids)
    assert bench.held() == {ids.record: b""}


@SCENARIOS.add()
async def what_something_before_the_server_answers_is_not_the_servers(bench: Bench) -> None:
    """Its no blames nothing, its yes is none, and neither counts as an answer."""
    ids = await bench.server.create_record(SPEC)
    answers = bench.breaker.answers
    calls: tuple[CallName, ...] = ("details", "list", "create", "upload", "delete")
    for mishap, kind in ((Mishap.PROXY_SAYS_404, errors.ProxyAnswered), (Mishap.PROXY_SAYS_200, errors.AnswerLost)):
        for name in calls:
            bench.go_wrong(name, mishap)
        with fails(errors.ProxyAnswered):
            await bench.server.details(ids.record)
        with fails(errors.ProxyAnswered):
            await bench.server.find_records(SPEC.name)
        with fails(kind):
            await bench.server.create_record(SPEC)
        with fails(kind):
            await send(bench, ids)
        with fails(kind):
            await bench.server.delete_record(ids.record)
    assert bench.held() == {ids.record: b""}
    assert bench.breaker.answers == answers


@SCENARIOS.add()
async def a_busy_server_says_how_long(bench: Bench) -> None:
    """Nothing was done; the error says when to come again."""
    bench.go_wrong("create", Mishap.BUSY)
    with fails(errors.ServerBusy) as caught:
        await bench.server.create_record(SPEC)
    assert isinstance(caught.value, errors.ServerBusy)
    assert (caught.value.retry_after, bench.held()) == (7.0, {})


@SCENARIOS.add()
async def a_failure_leaves_only_changes_in_doubt(bench: Bench) -> None:
    """A question that fails has failed; a call that changes something may have been done, and must be asked about."""
    ids = await bench.server.create_record(SPEC)
    for mishap, kind in ((Mishap.FAILED, errors.CallFailed), (Mishap.DONE_THEN_502, errors.ServerDown)):
        bench.go_wrong("details", mishap)
        with fails(kind):
            await bench.server.details(ids.record)
    for mishap, made in ((Mishap.FAILED, 0), (Mishap.DONE_THEN_502, 1), (Mishap.ANSWER_LOST, 1)):
        before = len(bench.held())
        bench.go_wrong("create", mishap)
        with fails(errors.AnswerLost):
            await bench.server.create_record(SPEC)
        assert len(bench.held()) == before + made
    bench.go_wrong("delete", Mishap.ANSWER_LOST)
    with fails(errors.AnswerLost):
        await bench.server.delete_record(ids.record)
    assert ids.record not in bench.held()
    await bench.server.delete_record(ids.record)


@SCENARIOS.add()
async def a_server_that_is_away_has_done_nothing(bench: Bench) -> None:
    """Any call raises ``Unreachable``, chunks included: nothing is in doubt."""
    ids = await bench.server.create_record(SPEC)
    await bench.go_away()
    with fails(errors.Unreachable):  # a question goes first: it finds that the connection of the last call is closed
        await bench.server.details(ids.record)
    with fails(errors.Unreachable):
        await bench.server.create_record(SPEC)
    with fails(errors.Unreachable):
        await send(bench, ids)
    assert bench.held() == {ids.record: b""}


@SCENARIOS.add()
async def cancelling_a_chunk_leaves_nothing_behind(bench: Bench) -> None:
    """The request ends, the server has not seen it, and the chunk can be sent again."""
    ids, mark = await bench.server.create_record(SPEC), Marks()
    sending = asyncio.create_task(send(bench, ids, mark=mark))
    await mark.reached.wait()
    await bench.under_way("upload")
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert bench.breaker.held == 0
    await bench.quiet()
    assert (bench.arrived("upload"), bench.held()) == (0, {ids.record: b""})
    await send(bench, ids)
    assert bench.held() == {ids.record: DATA}


@SCENARIOS.add()
async def cancelling_a_call_leaves_nothing_behind(bench: Bench) -> None:
    """Nobody waits for its answer any more, and the next call is made as ever."""
    ids = await bench.server.create_record(SPEC)
    bench.go_wrong("details", Mishap.SLOW)
    asking = asyncio.create_task(bench.server.details(ids.record))
    await bench.under_way("details")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert bench.breaker.held == 0
    await bench.quiet()
    assert (await bench.server.details(ids.record)).record == ids.record


# Time


@SCENARIOS.add()
async def the_time_is_the_servers(bench: Bench) -> None:
    """Whatever this machine's clock shows; also after the machine has slept, once the two have agreed again."""
    clock, server = bench.clock, bench.server
    assert (abs(server.server_now() - clock.now()) <= 1.0, server.skew) == (True, 0.0)
    await server.agree_on_time()
    assert abs(server.server_now() - clock.true_time()) <= CLOCK_RESOLUTION
    assert abs(server.skew + clock.shift) <= CLOCK_RESOLUTION
    clock.stood += 3600.0
    await server.agree_on_time()
    assert abs(server.server_now() - clock.true_time()) <= CLOCK_RESOLUTION
    clock.shift += 3600.0
    assert abs(server.server_now() - clock.true_time()) <= CLOCK_RESOLUTION
    asked = bench.requests.total()
    await server.agree_on_time()
    await server.agree_on_time()
    assert bench.requests.total() == asked + 1


@SCENARIOS.add()
async def the_version_is_told_or_not(bench: Bench) -> None:
    """A server that does not tell it to this user harms nothing."""
    assert await bench.server.version() == "6.7.2"
    bench.go_wrong("version", Mishap.FORBIDDEN)
    assert await bench.server.version() is None

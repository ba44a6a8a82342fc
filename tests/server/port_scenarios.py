"""What every implementation of ``uploader.server.port`` must do, as scenarios over a ``Bench``.

``test_port_conformance`` plays each of them against the VALT client with the built-in server over the loopback, and
against the client and server of the simulated worlds in virtual time. A scenario uses the port and looks at what the
server holds; it knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

import pytest
from sources import Blocks
from test_client import CountingBreaker

from uploader.domain import errors
from uploader.domain.model import RecordIds, RecordSpec
from uploader.runtime.clock import SystemClock
from uploader.server.port import Server, Throttle
from uploader.testing.simulator import CallName
from uploader.testing.simulator.semantics import Semantics

USER: Final = "uploader"
PASSWORD: Final = "canary-password"
SPEC: Final = RecordSpec("lecture")
DATA: Final = b"some bytes of a recording"
CLOCK_RESOLUTION: Final = 2.0  # s, of a Date header and what was rounded on the way


class Mishap(Enum):
    """What goes wrong with one call."""

    ANSWER_LOST = auto()  # the work is done, then the connection breaks
    DONE_THEN_502 = auto()  # the work is done, and a proxy answers 502
    FAILED = auto()  # 500, and the work is not done
    BUSY = auto()  # 503 with Retry-After: 7
    FORBIDDEN = auto()  # 403
    TOKEN_EXPIRED = auto()  # 401 after the whole request: the server has forgotten every token
    TOKEN_EXPIRED_EARLY = auto()  # 401 in the middle of a chunk
    TOO_LARGE = auto()  # 413 after the whole request
    TOO_LARGE_EARLY = auto()  # 413 in the middle of a chunk
    CUT = auto()  # the connection breaks in the middle of a chunk
    SLOW = auto()  # the answer does not come for a while


class ShiftedClock(SystemClock):
    """A clock that is *shift* seconds ahead of the server's, over any event loop."""

    def __init__(self, true_time: Callable[[], float], shift: float) -> None:
        super().__init__()
        self.true_time, self.shift = true_time, shift
        self.stood = 0.0  # s that the monotonic clock has stood still

    def now(self) -> float:
        """Unix seconds, wrong."""
        return self.true_time() + self.shift

    def monotonic(self) -> float:
        """Seconds of the event loop, less those for which the machine slept."""
        return asyncio.get_running_loop().time() - self.stood


class Bench(Protocol):
    """An implementation of the port, and the server behind it as its owner sees it."""

    server: Server
    clock: ShiftedClock
    breaker: CountingBreaker
    password: str  # what the client logs in with
    requests: Counter[str]  # that have reached the server, by call
    long: int  # bytes of a chunk that cannot be on its way whole before the server has read its beginning

    def go_wrong(self, call: CallName, mishap: Mishap) -> None:
        """Let the next *call* go wrong."""

    async def go_away(self) -> None:
        """Let the server be unreachable from now on."""

    def held(self) -> dict[str, bytes]:
        """By id of each record that exists: the bytes of its video so far."""

    async def under_way(self, call: CallName) -> None:
        """Return when a request of this kind has reached the server and is not answered yet."""

    async def quiet(self) -> None:
        """Return when no request of the client's is under way any more. Fails after a while."""


@dataclass(frozen=True)
class Scenario:
    """A behaviour, and the kind of server that it needs."""

    play: Callable[[Bench], Awaitable[None]]
    semantics: Semantics

    def __str__(self) -> str:
        return self.play.__name__


SCENARIOS: Final[list[Scenario]] = []


def scenario(
    semantics: Semantics = Semantics.OFFSET,
) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    """Add a scenario to the list."""

    def add(play: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        SCENARIOS.append(Scenario(play, semantics))
        return play

    return add


@contextmanager
def fails(kind: type[Exception]) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error of exactly this kind, whose text gives no secret away."""
    with pytest.raises(kind) as caught:
        yield caught
    assert type(caught.value) is kind
    assert not any(secret in str(caught.value) for secret in ("canary", "access_token", "/api/"))


async def nothing() -> None:
    """Save no mark."""


class Marks:
    """A ``before_last_byte`` that a test holds back: ``reached`` is set when it is awaited."""

    def __init__(self) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        """Wait."""
        self.reached.set()
        await self.go_on.wait()


class Slowly(Throttle):
    """At most so many bytes at a time."""

    def __init__(self, most: int) -> None:
        self._most = most

    async def take(self, wanted: int) -> int:
        """Allow a little."""
        return min(wanted, self._most)


async def send(
    bench: Bench,
    ids: RecordIds,
    data: bytes = DATA,
    *,
    start: int = 0,
    total: int | None = None,
    mark: Callable[[], Awaitable[None]] = nothing,
    then: Exception | None = None,
) -> int | None:
    """Send *data* as the range from *start* of a file of *total* bytes; the source fails with *then* at its end."""
    span = start, start + len(data), len(data) if total is None else total
    return await bench.server.send_chunk(
        ids, "/rec/a.mp4", span, Blocks(data, then=then), before_last_byte=mark, on_progress=lambda _: None
    )


async def what_was_sent_has_arrived(bench: Bench) -> None:
    """Wait until the server must have read what was sent before: it has answered what was asked after it."""
    for _ in range(3):
        await bench.server.version()


# Records


@scenario()
async def a_record_is_made_looked_at_listed_and_deleted(bench: Bench) -> None:
    """What was asked for is what is there; an empty record shows no video."""
    began = bench.clock.true_time()
    ids = await bench.server.create_record(SPEC)
    assert bench.held() == {ids.record: b""}
    details = await bench.server.details(ids.record)
    assert (details.record, details.name, details.author, details.videos) == (ids.record, SPEC.name, USER, None)
    (row,) = await bench.server.find_records(SPEC.name)
    assert (row.record, row.name, row.author, row.created) == (ids.record, SPEC.name, USER, details.created)
    assert abs(row.created - began) <= CLOCK_RESOLUTION
    await bench.server.delete_record(ids.record)
    assert (bench.held(), await bench.server.find_records(SPEC.name)) == ({}, ())


@scenario()
async def a_name_belongs_to_any_number_of_records(bench: Bench) -> None:
    """Each call makes another record, and exactly those of a name are listed."""
    same = {(await bench.server.create_record(SPEC)).record for _ in range(3)}
    await bench.server.create_record(RecordSpec(f"{SPEC.name} 2"))
    assert len(same) == 3
    assert {row.record for row in await bench.server.find_records(SPEC.name)} == same


@scenario()
async def a_record_that_is_gone_is_named_so(bench: Bench) -> None:
    """A question about it and a chunk for it raise ``RecordGone``; deleting it again is fine."""
    ids = await bench.server.create_record(SPEC)
    await bench.server.delete_record(ids.record)
    with fails(errors.RecordGone):
        await bench.server.details(ids.record)
    with fails(errors.RecordGone):
        await send(bench, ids)
    await bench.server.delete_record(ids.record)
    assert bench.held() == {}


# Chunks


@scenario()
async def chunks_in_order_become_a_video(bench: Bench) -> None:
    """Each is acknowledged, the video is there after the last one and only then; this server does not say ``Range``."""
    ids = await bench.server.create_record(SPEC)
    assert await send(bench, ids, DATA[:10], total=len(DATA)) is None
    assert (await bench.server.details(ids.record)).videos is None
    assert await send(bench, ids, DATA[10:], start=10, total=len(DATA)) is None
    assert bench.held() == {ids.record: DATA}
    assert (await bench.server.details(ids.record)).status_of(ids.video) == "ready"


@scenario(Semantics.BLUEIMP)
async def a_server_that_says_what_it_holds_is_quoted(bench: Bench) -> None:
    """A ``Range`` in the answer is the number of bytes held, also when that contradicts what was sent."""
    ids = await bench.server.create_record(SPEC)
    assert await send(bench, ids, DATA[:10], total=len(DATA)) == 10
    assert await send(bench, ids, DATA[:10], total=len(DATA)) != 20
    assert await send(bench, ids, DATA[10:], start=10, total=len(DATA)) == len(DATA)


@scenario(Semantics.WHOLE)
async def a_range_that_is_not_taken_is_refused(bench: Bench) -> None:
    """A server of whole files refuses a part, and takes the whole file into the same record."""
    ids = await bench.server.create_record(SPEC)
    with fails(errors.ChunkRefused):
        await send(bench, ids, DATA[:10], total=len(DATA))
    await send(bench, ids)
    assert bench.held() == {ids.record: DATA}


@scenario()
async def progress_and_throttle_go_by_bytes(bench: Bench) -> None:
    """No piece is larger than the throttle allows, and all pieces together are the chunk."""
    ids, told = await bench.server.create_record(SPEC), list[int]()
    await bench.server.send_chunk(
        ids,
        "/rec/a.mp4",
        (0, len(DATA), len(DATA)),
        Blocks(DATA),
        before_last_byte=nothing,
        on_progress=told.append,
        lane=Slowly(7),
    )
    assert (sum(told), max(told)) == (len(DATA), 7)
    assert bench.held() == {ids.record: DATA}


@scenario()
async def the_last_byte_waits_for_its_mark(bench: Bench) -> None:
    """Until ``before_last_byte`` has returned the server has not seen the chunk; then it has, after one request."""
    ids, mark = await bench.server.create_record(SPEC), Marks()
    sending = asyncio.create_task(send(bench, ids, mark=mark))
    await mark.reached.wait()
    await what_was_sent_has_arrived(bench)
    assert bench.held() == {ids.record: b""}
    mark.go_on.set()
    await sending
    assert (bench.held(), bench.requests["upload"]) == ({ids.record: DATA}, 1)


@scenario()
async def what_the_mark_raises_cuts_the_chunk(bench: Bench) -> None:
    """It is raised as it is, an ``OSError`` as ``ChunkCut``; the server has seen nothing, and takes the chunk again."""

    async def changed() -> None:
        raise errors.FileChanged("it grew")

    async def no_disk() -> None:
        raise OSError(5, "Input/output error")

    ids = await bench.server.create_record(SPEC)
    with fails(errors.FileChanged):
        await send(bench, ids, mark=changed)
    with fails(errors.ChunkCut):
        await send(bench, ids, mark=no_disk)
    await bench.quiet()
    assert bench.held() == {ids.record: b""}
    await send(bench, ids)
    assert bench.held() == {ids.record: DATA}


@scenario()
async def what_the_source_raises_cuts_the_chunk(bench: Bench) -> None:
    """It is raised as it is; the mark is not awaited, and the server has seen nothing."""
    ids, mark = await bench.server.create_record(SPEC), Marks()
    with fails(errors.FileChanged):
        await send(bench, ids, mark=mark, then=errors.FileChanged("it shrank"))
    await bench.quiet()
    assert (mark.reached.is_set(), bench.held()) == (False, {ids.record: b""})


@scenario()
async def a_chunk_that_ends_before_its_last_byte_is_cut(bench: Bench) -> None:
    """The server has not seen it (rule 3)."""
    ids, mark = await bench.server.create_record(SPEC), Marks()
    bench.go_wrong("upload", Mishap.CUT)
    with fails(errors.ChunkCut):
        await send(bench, ids, bytes(bench.long), mark=mark)
    await bench.quiet()
    assert (mark.reached.is_set(), bench.held()) == (False, {ids.record: b""})


@scenario()
async def a_chunk_that_ends_after_its_last_byte_is_in_doubt(bench: Bench) -> None:
    """The server may have taken it (rule 4): here it has, once without an answer and once behind a proxy's 502."""
    for mishap in (Mishap.ANSWER_LOST, Mishap.DONE_THEN_502):
        ids = await bench.server.create_record(SPEC)
        bench.go_wrong("upload", mishap)
        with fails(errors.AnswerLost):
            await send(bench, ids)
        assert bench.held()[ids.record] == DATA
        assert (await bench.server.details(ids.record)).status_of(ids.video) == "ready"


@scenario()
async def a_chunk_that_is_too_large_is_named_so(bench: Bench) -> None:
    """Whether a 413 comes after the chunk or in the middle of it: it was not taken."""
    ids = await bench.server.create_record(SPEC)
    for mishap, size in ((Mishap.TOO_LARGE, 10), (Mishap.TOO_LARGE_EARLY, bench.long)):
        bench.go_wrong("upload", mishap)
        with fails(errors.ChunkTooLarge):
            await send(bench, ids, bytes(size))
    await bench.quiet()
    assert bench.held() == {ids.record: b""}


# Log-in


@scenario()
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


@scenario()
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


@scenario()
async def a_refused_password_is_not_tried_again(bench: Bench) -> None:
    """Else an account would be locked. It is tried when another one is there, or the operator says so."""
    bench.password = "canary-wrong"
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


@scenario()
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


@scenario()
async def a_busy_server_says_how_long(bench: Bench) -> None:
    """Nothing was done; the error says when to come again."""
    bench.go_wrong("create", Mishap.BUSY)
    with fails(errors.ServerBusy) as caught:
        await bench.server.create_record(SPEC)
    assert isinstance(caught.value, errors.ServerBusy)
    assert (caught.value.retry_after, bench.held()) == (7.0, {})


@scenario()
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


@scenario()
async def a_server_that_is_away_has_done_nothing(bench: Bench) -> None:
    """Any call raises ``ServerDown``, chunks included: nothing is in doubt."""
    ids = await bench.server.create_record(SPEC)
    await bench.go_away()
    with fails(errors.ServerDown):  # a question goes first: it finds that the connection of the last call is closed
        await bench.server.details(ids.record)
    with fails(errors.ServerDown):
        await bench.server.create_record(SPEC)
    with fails(errors.ServerDown):
        await send(bench, ids)
    assert bench.held() == {ids.record: b""}


@scenario()
async def cancelling_a_chunk_leaves_nothing_behind(bench: Bench) -> None:
    """The request ends, the server has not seen it, and the chunk can be sent again."""
    ids, mark = await bench.server.create_record(SPEC), Marks()
    sending = asyncio.create_task(send(bench, ids, mark=mark))
    await mark.reached.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert bench.breaker.held == 0
    await bench.quiet()
    assert bench.held() == {ids.record: b""}
    await send(bench, ids)
    assert bench.held() == {ids.record: DATA}


@scenario()
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


@scenario()
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


@scenario()
async def the_version_is_told_or_not(bench: Bench) -> None:
    """A server that does not tell it to this user harms nothing."""
    assert await bench.server.version() == "6.7.2"
    bench.go_wrong("version", Mishap.FORBIDDEN)
    assert await bench.server.version() is None

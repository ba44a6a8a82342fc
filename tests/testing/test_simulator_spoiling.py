"""The four receivers that spoil files sent in chunks, and say that all is well: as pure functions and over HTTP."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_simulator import at_work
from test_simulator_uploads import BAD_RANGE, DATA, only, send_all

from uploader.testing.simulator import FAITHFUL, SPOILING, ContentRange, Held, Semantics, receive, write_into

CHUNKS = st.lists(st.binary(min_size=1, max_size=20), min_size=2, max_size=8)


def held_after(semantics: Semantics, chunks: list[bytes], order: list[int] | None = None) -> tuple[Held, bytes]:
    """Send *chunks* of one file, in *order*; return what the receiver says, and the bytes that it holds."""
    starts = [sum(map(len, chunks[:number])) for number in range(len(chunks))]
    total, held, file = sum(map(len, chunks)), Held(), bytearray()
    for number in order if order is not None else range(len(chunks)):
        body, start = chunks[number], starts[number]
        taken = receive(semantics, held, ContentRange(start, start + len(body) - 1, total))
        assert taken is not None
        assert taken.file == 0
        write_into(file, taken, body)
        held = taken.held
    return held, bytes(file)


def test_each_receiver_is_either_faithful_or_spoiling() -> None:
    """No receiver is forgotten, and none is both."""
    assert sorted([*FAITHFUL, *SPOILING]) == sorted(Semantics)


@given(CHUNKS)
def test_last_holds_the_last_chunk_alone(chunks: list[bytes]) -> None:
    """And it is complete after each chunk."""
    for count in range(1, len(chunks) + 1):
        held, file = held_after(Semantics.LAST, chunks, list(range(count)))
        assert (file, held.complete, held.sizes) == (chunks[count - 1], True, (len(file),))


@given(CHUNKS)
def test_first_holds_the_first_chunk_alone(chunks: list[bytes]) -> None:
    """And it is complete from then on; later chunks change nothing."""
    for count in range(1, len(chunks) + 1):
        held, file = held_after(Semantics.FIRST, chunks, list(range(count)))
        assert (file, held) == (chunks[0], Held((len(chunks[0]),), complete=True))


@given(CHUNKS, st.data())
def test_short_loses_the_end_of_the_last_chunk(chunks: list[bytes], data: st.DataObject) -> None:
    """A quarter of it, at least one byte. All else is in its place, in whatever order chunks come and come again."""
    order = data.draw(st.permutations([*range(len(chunks)), data.draw(st.integers(0, len(chunks) - 1))]))
    held, file = held_after(Semantics.SHORT, chunks, list(order))
    whole = b"".join(chunks)
    assert file == whole[: len(whole) - max(1, len(chunks[-1]) // 4)]
    assert (held.complete, held.sizes) == (True, (len(file),))


@given(CHUNKS, st.data())
def test_short_is_not_complete_while_a_chunk_is_missing(chunks: list[bytes], data: st.DataObject) -> None:
    """Whichever it is. What it holds are parts of at least one byte."""
    missing = data.draw(st.integers(0, len(chunks) - 1))
    held, _ = held_after(Semantics.SHORT, chunks, [number for number in range(len(chunks)) if number != missing])
    assert not held.complete
    assert all(low < high for low, high in held.spans)


def test_short_refuses_another_total() -> None:
    """As the offset writer does."""
    taken = receive(Semantics.SHORT, Held(), ContentRange(0, 9, 30))
    assert taken is not None
    assert receive(Semantics.SHORT, taken.held, ContentRange(10, 19, 40)) is None


@given(CHUNKS)
def test_double_holds_every_second_chunk_twice(chunks: list[bytes]) -> None:
    """The first is stored once, the second twice, and so on; it is complete with the last one."""
    held, file = held_after(Semantics.DOUBLE, chunks)
    assert file == b"".join(chunk * (2 if number % 2 else 1) for number, chunk in enumerate(chunks))
    assert (held.complete, held.sizes) == (True, (len(file),))
    assert not held_after(Semantics.DOUBLE, chunks, list(range(len(chunks) - 1)))[0].complete


@pytest.mark.parametrize("semantics", list(Semantics))
@given(st.binary(min_size=1, max_size=50))
def test_a_file_in_one_request_is_stored_as_it_is(semantics: Semantics, content: bytes) -> None:
    """By every receiver, so that files can be sent to the spoiling ones, too."""
    held, file = held_after(semantics, [content])
    assert (file, held.complete, held.sizes) == (content, True, (len(content),))


@pytest.mark.parametrize("semantics", SPOILING)
@given(CHUNKS)
def test_a_spoiling_receiver_never_holds_what_was_sent_in_chunks(semantics: Semantics, chunks: list[bytes]) -> None:
    """The size alone tells."""
    _, file = held_after(semantics, chunks)
    assert len(file) != sum(map(len, chunks))


@given(st.binary(max_size=20), st.integers(0, 30), st.binary(min_size=1, max_size=10))
def test_bytes_are_written_at_their_place(before: bytes, at: int, body: bytes) -> None:
    """A gap is filled with zeros, and what lies behind stays."""
    taken = receive(Semantics.OFFSET, Held(), ContentRange(at, at + len(body) - 1, 100))
    assert taken is not None
    file = bytearray(before)
    write_into(file, taken, body)
    assert file == before[:at].ljust(at, b"\0") + body + before[at + len(body) :]


# DATA is sent as three chunks of 1024 bytes.
HELD = {
    Semantics.LAST: DATA[2048:],
    Semantics.FIRST: DATA[:1024],
    Semantics.SHORT: DATA[:-256],
    Semantics.DOUBLE: DATA[:2048] + DATA[1024:],
}


@pytest.mark.parametrize("semantics", SPOILING)
async def test_chunks_are_answered_201_and_the_spoilt_video_becomes_ready(tmp_path: Path, semantics: Semantics) -> None:
    """The digest is that of the bytes held, not of those sent."""
    async with at_work(tmp_path, semantics=semantics, processing=0) as (simulator, client):
        record, video = ids = await client.create()
        assert await send_all(client, ids) == [201, 201, 201]
        assert await client.videos(record) == [{"id": video, "status": {"type": "ready"}}]
        seen = only(simulator)
        assert seen.path.read_bytes() == HELD[semantics]
        assert (seen.size, seen.sha256) == (len(HELD[semantics]), hashlib.sha256(HELD[semantics]).hexdigest())
        assert (seen.requests, len(seen.ranges), seen.strays) == (3, 3, ())


@pytest.mark.parametrize("semantics", SPOILING)
async def test_video_is_shown_after_the_first_chunk_only_where_that_is_the_file(
    tmp_path: Path, semantics: Semantics
) -> None:
    """Record details tell the receivers that ignore ranges from those that put chunks together."""
    async with at_work(tmp_path, semantics=semantics) as (_, client):
        ids = await client.create()
        await send_all(client, ids, "0")
        shown = await client.videos(ids[0]) is not None
        assert shown == (semantics in {Semantics.LAST, Semantics.FIRST})


async def test_a_shorter_last_chunk_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    """The last-wins receiver replaces the file; it does not write over its beginning."""
    async with at_work(tmp_path, semantics=Semantics.LAST) as (simulator, client):
        ids = await client.create()
        await client.send(ids, b"abcdef", 0, 8)
        await client.send(ids, b"gh", 6, 8)
        assert (only(simulator).path.read_bytes(), only(simulator).size) == (b"gh", 2)


async def test_short_answers_400_to_another_total(tmp_path: Path) -> None:
    """Nothing is stored."""
    async with at_work(tmp_path, semantics=Semantics.SHORT) as (simulator, client):
        ids = await client.create()
        await send_all(client, ids, "0")
        assert (await client.send(ids, b"x", 1024, 5000)).pair == BAD_RANGE
        assert only(simulator).size == 1024


@pytest.mark.parametrize("semantics", SPOILING)
@pytest.mark.parametrize("before", ["", "0", "01", "012"])
async def test_a_restart_changes_nothing_for_a_spoiling_receiver(
    tmp_path: Path, semantics: Semantics, before: str
) -> None:
    """What it held is read from the log of its requests; the chunks after the restart have the same effect."""
    async with at_work(tmp_path, semantics=semantics) as (simulator, client):
        ids = await client.create()
        await send_all(client, ids, before)
        seen = only(simulator)
    async with at_work(tmp_path, semantics=semantics) as (simulator, client):
        assert only(simulator) == seen
        await send_all(client, ids, "012"[len(before) :])
        assert only(simulator).path.read_bytes() == HELD[semantics]
        assert only(simulator).sha256 == hashlib.sha256(HELD[semantics]).hexdigest()


async def test_restart_finds_the_size_of_a_video_whose_last_log_line_is_missing(tmp_path: Path) -> None:
    """Killed between bytes and line, the last-wins receiver holds the newer bytes, and says so."""
    async with at_work(tmp_path, semantics=Semantics.LAST) as (simulator, client):
        ids = await client.create()
        await client.send(ids, b"abc", 0, 10)
        await client.send(ids, b"defghij", 3, 10)
        log = only(simulator).path.with_name("requests.log")
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    async with at_work(tmp_path, semantics=Semantics.LAST) as (simulator, _):
        assert (only(simulator).size, only(simulator).path.read_bytes()) == (7, b"defghij")

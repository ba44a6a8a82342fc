"""The faithful receivers as pure functions: the rows of the protocol's table, one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.testing.simulator import FAITHFUL, ContentRange, Held, Semantics, Taken, parse_content_range, receive
from uploader.testing.simulator.semantics import add_span

FIRST, SECOND, THIRD = (ContentRange(start, start + 9, 30) for start in (0, 10, 20))
WHOLE = ContentRange(0, 29, 30)
EVERY = list(Semantics)
IN_CHUNKS = [semantics for semantics in FAITHFUL if semantics is not Semantics.WHOLE]


def played(semantics: Semantics, *chunks: ContentRange) -> list[Taken | None]:
    """What becomes of these chunks, one after another."""
    held, fates = Held(), []
    for chunk in chunks:
        taken = receive(semantics, held, chunk)
        held = taken.held if taken else held
        fates.append(taken)
    return fates


def last(semantics: Semantics, *chunks: ContentRange) -> Taken:
    """What became of the last of these chunks, which was taken."""
    taken = played(semantics, *chunks)[-1]
    assert taken is not None
    return taken


@pytest.mark.parametrize("semantics", IN_CHUNKS)
def test_chunks_in_order_complete_the_file(semantics: Semantics) -> None:
    """For every receiver of chunks: with the last one and not before, each byte in its place."""
    fates = played(semantics, FIRST, SECOND, THIRD)
    assert [fate and (fate.file, fate.at, fate.held.complete) for fate in fates] == [
        (0, 0, False),
        (0, 10, False),
        (0, 20, True),
    ]
    assert last(semantics, FIRST, SECOND, THIRD).held.sizes == (30,)


@pytest.mark.parametrize("semantics", EVERY)
def test_every_receiver_takes_a_whole_file_as_one_range(semantics: Semantics) -> None:
    """One range completes the file under every row of the table."""
    taken = last(semantics, WHOLE)
    assert (taken.file, taken.at, taken.held.complete, taken.held.sizes) == (0, 0, True, (30,))


def test_offset_takes_chunks_in_any_order() -> None:
    """The offset writer is complete once all ranges are there, whichever came last."""
    fates = played(Semantics.OFFSET, THIRD, FIRST, SECOND)
    assert [fate and (fate.at, fate.held.complete) for fate in fates] == [(20, False), (0, False), (10, True)]


def test_offset_takes_the_same_chunk_again() -> None:
    """The same range again is written over itself and changes nothing."""
    once, again = played(Semantics.OFFSET, FIRST, FIRST)
    assert once == again


def test_offset_never_completes_with_a_gap() -> None:
    """The last range does not complete a file whose middle is missing."""
    assert not last(Semantics.OFFSET, FIRST, THIRD).held.complete


def test_offset_refuses_another_total() -> None:
    """A range of another file size is refused."""
    assert played(Semantics.OFFSET, FIRST, ContentRange(10, 19, 40))[1] is None


def test_offset_overwrites_a_finished_file() -> None:
    """A repeated range is accepted, and the file stays finished."""
    taken = last(Semantics.OFFSET, WHOLE, SECOND)
    assert (taken.at, taken.held.complete) == (10, True)


@pytest.mark.parametrize(
    "chunks",
    [(SECOND,), (FIRST, FIRST), (FIRST, THIRD), (FIRST, ContentRange(10, 19, 40)), (WHOLE, THIRD), (WHOLE, WHOLE)],
)
def test_strict_refuses_all_but_the_next_range(chunks: tuple[ContentRange, ...]) -> None:
    """Out of order, repeated, of another total, or after the end: refused."""
    assert played(Semantics.STRICT, *chunks)[-1] is None


def test_strict_goes_on_after_a_refusal() -> None:
    """A refused range changes nothing: the next one still fits."""
    assert [fate is not None for fate in played(Semantics.STRICT, FIRST, THIRD, SECOND, THIRD)] == [
        True,
        False,
        True,
        True,
    ]


def test_blueimp_acknowledges_what_it_holds() -> None:
    """Each answer names the bytes held so far."""
    fates = played(Semantics.BLUEIMP, FIRST, SECOND, THIRD)
    assert [fate and fate.acknowledged for fate in fates] == [10, 20, 30]


def test_blueimp_writes_a_repeated_chunk_to_a_stray_file() -> None:
    """The answer has the size of the stray file; the video goes on unharmed."""
    astray = last(Semantics.BLUEIMP, FIRST, SECOND, SECOND)
    assert (astray.file, astray.at, astray.acknowledged) == (1, 0, 10)
    done = last(Semantics.BLUEIMP, FIRST, SECOND, SECOND, THIRD)
    assert (done.file, done.at, done.held.complete, done.held.sizes) == (0, 20, True, (30, 10))


def test_blueimp_continues_a_stray_that_fits() -> None:
    """A range repeated twice finds the stray that holds just the bytes before it, and goes on there."""
    assert last(Semantics.BLUEIMP, FIRST, SECOND, SECOND, SECOND).held.sizes == (20, 20)


@pytest.mark.parametrize("chunks", [(THIRD,), (FIRST, THIRD), (FIRST, FIRST)])
def test_blueimp_writes_out_of_order_chunks_to_a_stray_file(chunks: tuple[ContentRange, ...]) -> None:
    """After a gap, or from the beginning again."""
    taken = last(Semantics.BLUEIMP, *chunks)
    assert (taken.file, taken.held.complete) == (1, False)


def test_blueimp_keeps_strays_out_of_a_finished_file() -> None:
    """Any chunk after the end goes to a stray file."""
    taken = last(Semantics.BLUEIMP, WHOLE, ContentRange(30, 39, 40))
    assert (taken.file, taken.held.sizes, taken.held.complete) == (1, (30, 10), True)


def test_append_duplicates_a_repeated_chunk() -> None:
    """It is appended again, and answered as a success."""
    taken = last(Semantics.APPEND, FIRST, FIRST)
    assert (taken.at, taken.held.sizes, taken.held.complete) == (10, (20,), False)


def test_append_ends_with_the_last_range_whatever_is_missing() -> None:
    """END + 1 = TOTAL ends the file, although a third of it never came."""
    taken = last(Semantics.APPEND, FIRST, THIRD)
    assert (taken.held.sizes, taken.held.complete) == ((20,), True)


def test_append_spoils_a_finished_file() -> None:
    """The last range again is appended to the finished file."""
    assert last(Semantics.APPEND, FIRST, SECOND, THIRD, THIRD).held == Held((40,), complete=True)


@pytest.mark.parametrize("chunks", [(FIRST,), (SECOND,), (THIRD,), (WHOLE, WHOLE)])
def test_whole_refuses_parts_and_repeats(chunks: tuple[ContentRange, ...]) -> None:
    """Anything but one range, once, is refused."""
    assert played(Semantics.WHOLE, *chunks)[-1] is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes 0-9/30", FIRST),
        (" bytes 0-9/30 ", FIRST),
        ("bytes 5-5/6", ContentRange(5, 5, 6)),
        ("bytes 0--1/0", None),
        ("bytes 9-0/30", None),
        ("bytes 0-30/30", None),
        ("bytes 0-9/*", None),
        ("bytes=0-9/30", None),
        ("bytes ٠-٩/30", None),
        ("", None),
    ],
)
def test_content_range_is_read_exactly(header: str, expected: ContentRange | None) -> None:
    """Only ``bytes START-END/TOTAL`` with START ≤ END < TOTAL is a range."""
    assert parse_content_range(header) == expected


@given(st.integers(0, 10**12), st.integers(0, 10**9), st.integers(0, 10**9))
def test_content_range_survives_a_round_trip(start: int, more: int, rest: int) -> None:
    """What ``str`` writes, the parser reads."""
    chunk = ContentRange(start, start + more, start + more + 1 + rest)
    assert parse_content_range(str(chunk)) == chunk


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12))
def test_spans_cover_what_was_added(pieces: list[tuple[int, int]]) -> None:
    """However spans overlap, the melted ones cover the same bytes, in order and apart."""
    spans: tuple[tuple[int, int], ...] = ()
    for start, size in pieces:
        spans = add_span(spans, start, start + size)
    assert {byte for low, high in spans for byte in range(low, high)} == {
        byte for start, size in pieces for byte in range(start, start + size)
    }
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))

"""MXF: closed by its header or by its footer, and there up to its end."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_container_files import Reader, judged, left_open, pieces, recording, silence

from uploader.container import ContainerState, duration, inspect

CLOSED = ContainerState("mxf", "")
OPEN = "its header partition is open, and no footer closes it: the recorder did not close this file"
HEADER, BODY, FOOTER = 2, 3, 4
OPEN_INCOMPLETE, CLOSED_INCOMPLETE, OPEN_COMPLETE, CLOSED_COMPLETE = 1, 2, 3, 4
STRUCTURE = bytes.fromhex("060e2b34020501010d010201")
ESSENCE = bytes.fromhex("060e2b34010201010d01030115010500")
PRIMER = STRUCTURE + bytes.fromhex("01050100")
MEDIA = bytes(1 + number * number % 251 for number in range(60_000))
GIB = 1 << 30


def klv(key: bytes, value: bytes, *, width: int = 3, length: int | None = None) -> bytes:
    """A packet. *width*: bytes of its length, 0 for the short form; *length* when that is not the truth."""
    size = len(value) if length is None else length
    return key + (bytes([size]) if width == 0 else bytes([0x80 | width]) + size.to_bytes(width, "big")) + value


def partition(kind: int, status: int, at: int, footer: int = 0, *, metadata: int = 0, index: int = 0) -> bytes:
    """A partition's pack."""
    fixed = struct.pack(">HHIQQQQQIQI", 1, 3, 1, at, 0, footer, metadata, index, 0, 0, 1)
    return klv(STRUCTURE + bytes([1, kind, status, 0]), fixed + bytes(16) + struct.pack(">II", 0, 16))


def rip(*starts: int) -> bytes:
    """A Random Index Pack."""
    entries = b"".join(struct.pack(">IQ", number, start) for number, start in enumerate(starts))
    return klv(STRUCTURE + b"\1\x11\1\0", entries + struct.pack(">I", len(entries) + 24))


METADATA = klv(PRIMER, bytes(range(1, 201)))
PACK = len(partition(HEADER, 1, 0))


def mxf(
    header: int = CLOSED_COMPLETE,
    footer: int | None = CLOSED_COMPLETE,
    *,
    named: bool = True,
    bodies: int = 2,
    indexed: bool = True,
    behind: bytes = METADATA,
) -> bytes:
    """A file of a header, bodies with essence, a footer with metadata, and a RIP. *named*: by the header."""
    data, starts = b"", [0]
    for number in range(bodies):
        starts.append(PACK + len(METADATA) + len(data))
        data += partition(BODY, CLOSED_COMPLETE, starts[-1]) + klv(ESSENCE, MEDIA[: 40_000 + number])
    end = PACK + len(METADATA) + len(data)
    begin = partition(HEADER, header, 0, end if named else 0, metadata=len(METADATA)) + METADATA
    if footer is None:
        return begin + data
    last = partition(FOOTER, footer, end, end, metadata=len(behind)) + behind
    return begin + data + last + (rip(*starts, end) if indexed else b"")


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("header", "footer"),
    [
        (CLOSED_COMPLETE, CLOSED_COMPLETE),
        (CLOSED_INCOMPLETE, CLOSED_INCOMPLETE),
        (OPEN_INCOMPLETE, CLOSED_COMPLETE),
        (OPEN_COMPLETE, CLOSED_INCOMPLETE),
        (CLOSED_COMPLETE, OPEN_INCOMPLETE),
    ],
)
def test_a_header_or_a_footer_closes_a_file(header: int, footer: int, named: bool, indexed: bool) -> None:
    """With a RIP or without one."""
    assert judged(mxf(header, footer, named=named, indexed=indexed), ".mxf") == CLOSED
    assert judged(mxf(header, footer, named=named, indexed=indexed, behind=b"")) == CLOSED


@pytest.mark.parametrize("status", [OPEN_INCOMPLETE, OPEN_COMPLETE])
@pytest.mark.parametrize("bodies", [1, 5])
def test_an_open_header_without_a_footer_is_a_recorder_at_work(status: int, bodies: int) -> None:
    """So is one that died. What is there plays."""
    whole = mxf(status, None, named=False, bodies=bodies)
    assert judged(whole) == ContainerState("mxf", f"{OPEN}; it plays up to byte {len(whole)}", playable=True)
    assert judged(whole[:-777]).playable
    assert judged(mxf(status, status, named=False)).unfinished.startswith(OPEN)
    assert judged(mxf(status, status)).unfinished.startswith(OPEN)
    assert judged(mxf(status, status, indexed=False)).unfinished.startswith(OPEN)


def test_an_open_file_without_essence_does_not_play() -> None:
    """It has just begun."""
    assert judged(mxf(OPEN_INCOMPLETE, None, bodies=0, named=False)) == ContainerState("mxf", OPEN)
    stalled = judged(mxf(OPEN_INCOMPLETE, None, named=False) + bytes(9000))
    assert stalled.unfinished.startswith("only zeros from byte")
    assert not stalled.playable


@pytest.mark.parametrize("header", [OPEN_INCOMPLETE, CLOSED_COMPLETE])
@pytest.mark.parametrize("named", [True, False])
@given(st.data())
def test_a_cut_file_is_held(header: int, named: bool, data: st.DataObject) -> None:
    """Wherever the cut is, but for the one place right before the RIP, which is optional."""
    whole = mxf(header, named=named)
    end = data.draw(st.integers(32, len(whole) - 1) | st.integers(len(whole) - 600, len(whole) - 1))
    if named or header == OPEN_INCOMPLETE:
        assert bool(judged(whole[:end]).unfinished) is (end != len(mxf(header, named=named, indexed=False)))
    elif judged(whole[:end]) == CLOSED:  # closed, and it names no footer: it may end behind any packet
        assert whole[end:][:4] == b"\x06\x0e\x2b\x34"


@pytest.mark.parametrize("header", [OPEN_INCOMPLETE, CLOSED_COMPLETE])
@given(st.data())
def test_zeros_in_the_place_of_the_end_are_no_end(header: int, data: st.DataObject) -> None:
    """A copy has announced its size and stalled."""
    whole = mxf(header)
    end = data.draw(st.integers(32, len(whole) - 100) | st.integers(len(whole) - 600, len(whole) - 100))
    assert judged(whole[:end] + bytes(len(whole) - end)).unfinished


def test_the_reason_names_what_is_missing() -> None:
    """And the probable cause."""
    whole = mxf()
    footer = len(mxf(footer=None))
    assert judged(whole[:-1]).unfinished == (
        "its last packet ends 1 byte past the end of the file: the copy is not complete"
    )
    assert judged(whole[: footer - 100]).unfinished == (
        "its footer partition, by its header, ends 116 bytes past the end of the file: the copy is not complete"
    )
    assert judged(whole[: footer + 50]).unfinished.startswith("its footer partition ends 58 bytes past")
    assert judged(whole[:90]).unfinished == "it ends inside its header partition: the copy is not complete"
    assert judged(whole[:footer] + bytes(700)).unfinished == (
        f"only zeros at byte {footer}, where its header names its footer: the copy is not complete"
    )


@pytest.mark.parametrize("run_in", [0, 512])
def test_a_rip_may_not_name_zeros(run_in: int) -> None:
    """It was written, and the partition was not. Offsets count from the header."""
    whole = b"\x11" * run_in + mxf(bodies=3)
    start = whole.index(STRUCTURE + bytes([1, BODY]), 50_000)
    holed = whole[:start] + bytes(5000) + whole[start + 5000 :]
    reason = f"only zeros at byte {start}, where its Random Index Pack names a partition: the copy is not complete"
    assert judged(holed, ".mxf") == ContainerState("mxf", reason)


@pytest.mark.parametrize("rest", [bytes(512), b"\1\2\3 trailer" * 9])
@pytest.mark.parametrize("header", [OPEN_INCOMPLETE, CLOSED_COMPLETE])
def test_anything_may_follow_the_rip(header: int, rest: bytes) -> None:
    """Sectors are filled up, an archive adds a trailer."""
    assert judged(mxf(header) + rest) == CLOSED
    assert judged(mxf(header, named=False) + rest) == CLOSED


def test_zeros_too_few_for_a_rip_may_follow_a_file_without_one() -> None:
    """More of them are in its place."""
    whole = mxf(indexed=False)
    assert judged(whole + bytes(4)) == judged(whole + bytes(32)) == CLOSED
    assert judged(whole + bytes(33)).unfinished.startswith("no whole packet at byte")
    assert judged(whole + rip()[:1] + bytes(4)).unfinished


@pytest.mark.parametrize("run_in", [1, 512, 16_370, 40_000, 65_535])
@pytest.mark.parametrize("header", [OPEN_INCOMPLETE, CLOSED_COMPLETE])
def test_a_run_in_may_stand_before_the_header(run_in: int, header: int) -> None:
    """Offsets count from the header. The name must say that it is MXF: other files may contain one."""
    data = b"\x11" * run_in + mxf(header)
    assert judged(data, ".MXF") == CLOSED
    assert judged(data, ".tar") == ContainerState("", "")
    assert judged(data[:-300], ".mxf").unfinished
    assert judged(b"\x11" * run_in + mxf(OPEN_INCOMPLETE, None), ".mxf").unfinished
    if header == CLOSED_COMPLETE:
        cut = judged((data + rip())[: run_in + len(mxf(header, None)) - 9], ".mxf").unfinished
        assert cut.startswith("its footer partition, by its header, ends 25 bytes past the end of the file")


@pytest.mark.parametrize("width", range(9))
def test_lengths_have_one_to_nine_bytes(width: int) -> None:
    """Short and long form."""
    packet = klv(ESSENCE, MEDIA[: 100 if width < 2 else 250], width=width)
    begin = partition(HEADER, CLOSED_COMPLETE, 0, PACK + 3 * len(packet)) + 3 * packet
    whole = begin + partition(FOOTER, CLOSED_COMPLETE, len(begin), len(begin)) + packet
    assert judged(whole) == CLOSED
    assert judged(whole[:-1]).unfinished
    assert judged(partition(HEADER, CLOSED_COMPLETE, 0) + 3 * packet) == CLOSED
    assert judged(partition(HEADER, CLOSED_COMPLETE, 0) + (3 * packet)[:-1]).unfinished


def test_a_large_file_costs_a_few_reads() -> None:
    """200 GiB, with a RIP of a thousand partitions, without one, and open."""
    end = 200 * GIB
    begin = partition(HEADER, CLOSED_COMPLETE, 0, end)
    last = partition(FOOTER, CLOSED_COMPLETE, end, end, metadata=len(METADATA)) + METADATA
    bodies = [(number * GIB // 6, partition(BODY, 4, number * GIB // 6)) for number in range(1, 1000)]
    index = rip(0, *(start for start, _ in bodies), end)

    def check(*parts: tuple[int, bytes], cut: int = 0) -> tuple[ContainerState, Reader]:
        size = max(start + len(part) for start, part in parts) - cut
        file = pieces(*parts, size=size)
        return inspect(file, size, ".mxf"), file

    state, file = check((0, begin), *bodies, (end, last + index))
    assert (state, file.reads <= 8) == (CLOSED, True)
    state, file = check((0, begin), (end, last))
    assert (state, file.reads <= 8) == (CLOSED, True)
    assert check((0, begin), *bodies, (end, last + index), cut=30)[0].unfinished
    state, file = check((0, partition(HEADER, OPEN_INCOMPLETE, 0)), (end, b"\1"))
    assert state.unfinished.startswith(OPEN)
    assert file.taken < 24 << 20


def test_a_closed_header_that_names_no_footer_is_checked_by_its_last_packet() -> None:
    """Which may be one of thousands."""
    begin = partition(HEADER, CLOSED_COMPLETE, 0)
    frames = [klv(ESSENCE, MEDIA[:3000]) for _ in range(100)]
    whole = begin + b"".join(frames)
    assert judged(whole) == CLOSED
    assert judged(whole[:-1]).unfinished.startswith("its last packet ends 1 byte past the end of the file")
    assert judged(whole + ESSENCE[:9]).unfinished.startswith("it ends inside the head of its last packet")
    assert judged(whole + bytes(100)).unfinished.startswith("only zeros from byte")


@pytest.mark.parametrize("name", ["mxf", "mxf, piped"])
@given(st.data())
def test_a_real_recording_is_held_without_its_end(name: str, data: st.DataObject) -> None:
    """Cut, or with zeros in place of its end."""
    whole = recording(name)
    footer, last = whole.rindex(STRUCTURE + bytes([1, FOOTER])), whole.rindex(STRUCTURE + b"\1\x11")
    end = data.draw(st.integers(32, len(whole) - 1) | st.integers(footer - 99, len(whole) - 1))
    assert bool(judged(whole[:end]).unfinished) is (end != last)
    end = min(end, len(whole) - 20)
    assert judged(whole[:end] + bytes(len(whole) - end)).unfinished
    assert judged(left_open(name)).playable


def test_a_real_op_atom_file_is_checked_like_the_others() -> None:
    """One track in a file; here it is sound."""
    whole = silence("mxf_opatom", "mono")
    assert judged(whole, ".mxf") == CLOSED
    assert duration(Reader(lambda at, count: whole[at : at + count], len(whole)), len(whole)) == 3
    for cut in (1, 40, 100, 700, len(whole) // 2):
        assert judged(whole[:-cut]).unfinished
        assert judged(whole[:-cut] + bytes(cut)).unfinished or cut == 1


def test_metadata_of_an_open_header_state_no_duration() -> None:
    """They are those of the beginning."""
    whole = recording("mxf")
    opened = whole[:14] + bytes([OPEN_COMPLETE]) + whole[15:]
    assert judged(opened) == CLOSED  # by its footer, which has no metadata
    assert duration(Reader(lambda at, count: opened[at : at + count], len(opened)), len(opened)) is None

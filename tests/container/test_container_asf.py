"""ASF and WMV: an index behind the media closes a file; without one, the fields that are filled in at closing must."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_container_files import judged, left_open, recording

from uploader.container import ContainerState

ASF = ContainerState("asf", "")
PAST = "past the end of the file: the copy is not complete"
OPEN = "the recorder did not close this file"
TIB = (1 << 40).to_bytes(8, "little")
FILE_SIZE, FLAGS, SMALLEST = 30 + 40, 30 + 88, 30 + 92
INDEX = bytes.fromhex("90080033b1e5cf1189f400a0c90349cb")
END_OF_STREAM = bytes.fromhex("244508000000000000000800")


def begin(whole: bytes) -> int:
    """Where the header ends; the muxer's name in it varies."""
    return int.from_bytes(whole[16:24], "little")


def unindexed() -> bytes:
    """A recording of which only the header says that it is finished."""
    whole = recording("wmv")
    end = whole.rindex(INDEX)
    return whole[:FILE_SIZE] + end.to_bytes(8, "little") + whole[FILE_SIZE + 8 : end]


DATA = begin(unindexed())
BEYOND = (1 << 40) - len(unindexed())
SIZES = [(FILE_SIZE, bytes(8)), (FLAGS, b"\3"), (FILE_SIZE, TIB), (DATA + 16, bytes(8)), (DATA + 16, TIB)]


def changed(whole: bytes, offset: int, value: bytes) -> bytes:
    """The same with other bytes at *offset*."""
    return whole[:offset] + value + whole[offset + len(value) :]


@pytest.mark.parametrize(
    ("offset", "value", "reason", "playable"),
    [
        (FILE_SIZE, bytes(8), f"its header has no file size yet: {OPEN}", True),
        (FLAGS, b"\3", f"its header says that it is still being created (broadcast flag): {OPEN}", True),
        (FILE_SIZE, TIB, f"its content, by its header, ends {BEYOND} bytes {PAST}", False),
        (16, TIB, f"its header object ends {BEYOND} bytes {PAST}", False),
        (DATA + 16, bytes(8), f"its Data object has no size yet: {OPEN}", True),
        (DATA + 16, TIB, f"its Data object ends {DATA + BEYOND} bytes {PAST}", False),
        (DATA, b"\1" * 16, "", False),  # something else than a Data object
        (30, b"\1" * 16, "", False),  # no file properties
        (46, bytes(8), "", False),  # objects without a size
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else None,
)
def test_an_asf_without_an_index_must_have_its_closing_fields(
    offset: int, value: bytes, reason: str, playable: bool
) -> None:
    """Sizes and the broadcast flag are filled in at closing; without them, what is there plays."""
    whole = unindexed()
    assert judged(whole) == ASF
    state = judged(changed(whole, offset, value))
    assert (state.unfinished.partition("; ")[0], state.playable) == (reason, playable)
    assert not playable or state.unfinished.endswith(f"; it plays up to 00:00:02 (byte {len(whole)})")


@pytest.mark.parametrize(("offset", "value"), SIZES)
@given(st.integers(1, 99))
def test_wrong_fields_do_not_matter_where_the_index_is_whole(offset: int, value: bytes, cut: int) -> None:
    """It is written at closing, behind the media."""
    whole = changed(recording("wmv"), offset, value)
    assert judged(whole) == ASF
    assert judged(whole + END_OF_STREAM) == ASF
    assert judged(whole[:-cut]).unfinished


def test_the_end_of_a_stream_closes_what_was_written_to_a_pipe() -> None:
    """Whoever writes it has sent everything."""
    piped = changed(unindexed(), FLAGS, b"\3")
    assert judged(piped).playable
    assert judged(piped + END_OF_STREAM) == ASF
    assert judged((piped + END_OF_STREAM)[:-1]).unfinished


@given(st.data())
def test_a_cut_asf_is_held(data: st.DataObject) -> None:
    """Wherever the cut is."""
    whole = recording("wmv")
    end = data.draw(st.integers(32, len(whole) - 1) | st.integers(len(whole) - 120, len(whole) - 1))
    state = judged(whole[:end])
    assert state.unfinished
    assert not state.playable


@given(st.data())
def test_zeros_in_the_place_of_the_last_packet_are_found(data: st.DataObject) -> None:
    """Every packet has a head; the header says where the last one begins."""
    whole = unindexed()
    packet = struct.unpack_from("<I", whole, SMALLEST)[0]
    last = len(whole) - packet
    end = data.draw(st.integers(32, last))
    assert judged(whole[:end] + bytes(len(whole) - end)).unfinished
    stalled = judged(changed(whole, last, bytes(packet)))
    assert stalled.unfinished.startswith(f"only zeros from byte {last} on")


@pytest.mark.parametrize("left", [1, 15, 16, 23, 24, 60])
def test_an_index_that_the_file_size_does_not_count_must_be_whole(left: int) -> None:
    """Some muxers state a size without it."""
    whole = recording("wmv")
    counted = unindexed() + whole[len(unindexed()) :]
    assert judged(counted) == ASF
    assert judged(counted[: len(unindexed()) + left]).unfinished.startswith("its index ends")


def test_zeros_at_the_end_of_an_open_asf_are_no_recording() -> None:
    """Space was reserved for more."""
    whole = changed(unindexed(), FILE_SIZE, bytes(8)) + bytes(5000)
    assert judged(whole).unfinished.startswith("only zeros from byte")
    assert not judged(whole).playable


def test_a_killed_recording_plays() -> None:
    """If there is a packet."""
    assert judged(left_open("wmv")).playable
    assert judged(left_open("wmv")[: DATA + 100]).unfinished
    assert not judged(left_open("wmv")[: DATA + 100]).playable


def test_anything_may_follow_an_asf() -> None:
    """The header states the length; reserved space after it was not needed."""
    assert judged(recording("wmv") + bytes(100_000)) == ASF
    assert judged(unindexed() + bytes(100_000)) == ASF

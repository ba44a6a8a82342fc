"""FLV: complete where a tag ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_container_files import judged, left_open, recording

from uploader.container import ContainerState

FLV = ContainerState("flv", "")
HEADER = b"FLV\x01\x05" + (9).to_bytes(4, "big") + bytes(4)


def tag(content: bytes, kind: int = 9, size: int | None = None) -> bytes:
    """A tag and its *size*, or what the writer says it is."""
    head = bytes([kind]) + len(content).to_bytes(3, "big") + bytes(7)
    return head + content + (11 + len(content) if size is None else size).to_bytes(4, "big")


TAGS = [tag(b"\x65" * (100 + number), kind) for number, kind in enumerate([18, 9, 8, 9, 8, 9, 8])]


@pytest.mark.parametrize("count", range(1, len(TAGS) + 1))
def test_an_flv_is_complete_where_a_tag_ends(count: int) -> None:
    """Nothing is written at closing."""
    assert judged(HEADER + b"".join(TAGS[:count])) == FLV


@given(st.data())
def test_an_flv_that_ends_inside_a_tag_plays_up_to_there(data: st.DataObject) -> None:
    """Its recorder died, or it is a part of a copy."""
    whole = HEADER + b"".join(TAGS)
    ends = {len(HEADER) + sum(map(len, TAGS[:count])) for count in range(1, len(TAGS) + 1)}
    end = data.draw(st.integers(9, len(whole)))
    state = judged(whole[:end])
    assert bool(state.unfinished) is (end not in ends)
    assert state.playable is (end not in ends and end > min(ends))


def test_zeros_at_the_end_are_no_tags() -> None:
    """A copy has stalled."""
    stalled = judged(HEADER + b"".join(TAGS) + bytes(9000))
    assert stalled.unfinished.startswith("only zeros from byte")
    assert not stalled.playable
    assert judged(HEADER + bytes(9000)).unfinished


@pytest.mark.parametrize("size", [100, 245, 65_525])  # with its head, the last two end in zeros
@pytest.mark.parametrize("zeros", [1, 4, 500, 4000])
def test_a_few_zeros_behind_the_last_tag_are_padding(size: int, zeros: int) -> None:
    """A device fills up a sector."""
    whole = HEADER + b"".join(TAGS) + tag(b"\x65" * size)
    assert judged(whole + bytes(zeros)) == FLV
    assert judged(whole[:-6] + bytes(zeros)).unfinished


def test_sizes_behind_tags_are_not_judged_where_the_writer_has_others() -> None:
    """Some leave them 0, some do not count the head."""
    for size in (0, 100):
        data = HEADER + tag(b"\x65" * 100, size=size) * 9
        assert judged(data) == FLV
        assert judged(data[:-30]) == FLV
    assert judged(HEADER + b"\xff" * 99) == FLV


@given(st.data())
def test_a_real_recording_that_ends_inside_a_tag_is_held(data: st.DataObject) -> None:
    """Killed or cut."""
    whole = recording("flv")
    assert judged(left_open("flv")) == FLV
    end = data.draw(st.integers(32, len(whole) - 1))
    assert judged(whole[:end]).unfinished or whole[end] in (8, 9, 18)

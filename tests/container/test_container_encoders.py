"""Recordings of real encoders, whole, cut anywhere, and killed after any write: each is held, or plays as a whole."""

from __future__ import annotations

import io
from pathlib import PurePath

import av
import av.logging
import pytest
from encoders import OUTPUTS, announced, encoded, packets, plays_whole, written
from hypothesis import given, settings
from hypothesis import strategies as st
from test_container_files import judged

from uploader.container import ContainerState, duration

pytestmark = pytest.mark.slow  # they share recordings that a process makes
EXAMPLES = settings(max_examples=30)
FINE = ContainerState("mp4", "")
MUXED = ["", "frag_keyframe+empty_moov", "frag_keyframe", "cmaf", "frag_every_frame+empty_moov"]
SHORTEST = 32  # bytes: by then it is known which container a file is


@pytest.fixture(autouse=True)
def _silence() -> None:
    """Demuxers say much of damaged files."""
    av.logging.set_level(av.logging.PANIC)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_whole_recording_passes(name: str) -> None:
    """The demuxer finds each sample that it announces, and the duration that it plays."""
    whole = encoded()[name]
    assert judged(whole, PurePath(name).suffix) == FINE
    assert len(packets(whole)) == announced(whole) or "pcm" in OUTPUTS[name]
    with av.open(io.BytesIO(whole), "r") as source:
        assert source.duration
        stated = duration(lambda offset, length: whole[offset : offset + length], len(whole))
        assert stated is None or stated == pytest.approx(source.duration / av.time_base, abs=0.05)
        assert stated or name == "smooth.ismv"  # its fragments state no times that others know


@pytest.mark.parametrize("name", OUTPUTS)
@EXAMPLES
@given(data=st.data())
def test_a_recording_cut_anywhere_is_held_or_plays_as_a_whole(name: str, data: st.DataObject) -> None:
    """Also by a byte, or in its index."""
    whole = encoded()[name]
    end = data.draw(st.integers(SHORTEST, len(whole) - 1) | st.integers(len(whole) - 300, len(whole) - 1))
    part = whole[:end]
    assert judged(part, PurePath(name).suffix).unfinished or plays_whole(part, whole)


@pytest.mark.parametrize("name", OUTPUTS)
@EXAMPLES
@given(data=st.data())
def test_a_recording_of_full_size_whose_rest_is_zeros_is_held(name: str, data: st.DataObject) -> None:
    """A copy that was broken off where the whole size was set first, whatever the codecs."""
    whole = encoded()[name]
    end = data.draw(st.integers(len(whole) // 20, len(whole) * 17 // 20))
    part = whole[:end] + bytes(len(whole) - end)
    assert judged(part, PurePath(name).suffix).unfinished or plays_whole(part, whole)


@pytest.mark.parametrize("name", [name for name in OUTPUTS if name != "every-frame.mp4"])
def test_a_recording_with_a_hole_in_its_middle_is_held(name: str) -> None:
    """Where some pictures should be there are zeros."""
    whole = encoded()[name]
    for start in (25, 40, 50):
        low, high = len(whole) * start // 100, len(whole) * (start + 25) // 100
        assert judged(whole[:low] + bytes(high - low) + whole[high:], PurePath(name).suffix).unfinished


@pytest.mark.parametrize("flags", MUXED)
def test_a_recorder_killed_after_any_write_leaves_a_file_that_is_held_or_plays_as_a_whole(flags: str) -> None:
    """What is on the disk then is what was written so far."""
    file = written(flags)
    whole = file.after(len(file.writes))
    assert judged(whole, ".mp4") == FINE
    for count in range(1, len(file.writes)):
        part = file.after(count)
        if len(part) > SHORTEST and part != whole:
            assert judged(part, ".mp4").unfinished or plays_whole(part, whole), count


@pytest.mark.parametrize("muxer", ["mp4", "mov"])
def test_a_hybrid_recording_is_held_after_each_write_but_the_last(muxer: str) -> None:
    """Its recorder writes fragments, and joins them when it closes the file."""
    file = written("hybrid_fragmented", muxer)
    states = [file.after(count) for count in range(1, len(file.writes) + 1)]
    assert judged(states[-1], ".mp4") == FINE
    verdicts = [judged(part, ".mp4") for part in states if len(part) > SHORTEST and part != states[-1]]
    assert all(verdict.unfinished for verdict in verdicts)
    assert any(verdict.playable and "it plays up to fragment 3" in verdict.unfinished for verdict in verdicts)

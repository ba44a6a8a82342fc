"""Durations of container and server: rounding and re-encoding are no difference, a cut or doubled video is one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain.duration_match import durations_agree

HOUR = 3600.0
LENGTHS = st.floats(0.04, 10 * 86400.0)


@pytest.mark.parametrize("nothing", [None, 0.0, -3.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("other", [None, 0.0, 0.5, 60.0, 10 * HOUR, math.nan, math.inf])
def test_a_missing_duration_is_no_evidence(nothing: float | None, other: float | None) -> None:
    """Neither for nor against, on either side; so is an impossible one."""
    assert durations_agree(nothing, other) is None
    assert durations_agree(other, nothing) is None


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        (1.0, 0.96),  # a frame less
        (1.0, 1.04),
        (1.0, 1.2),  # sound that goes on
        (3.0, 2.48),
        (60.04, 60),
        (60.96, 60),  # rounded down
        (60.04, 61),  # rounded up
        (60.0, 58.1),  # without the frames before the first key frame
        (60.0, 61.9),
        (60.9, 58),  # the same, rounded down
        (10 * HOUR, 10 * HOUR - 3.6),  # clocks that differ by 100 parts per million
        (10 * HOUR, 10 * HOUR * 30_000 / 1001 / 29.97),
        (10 * HOUR + 0.5, 10 * HOUR - 5),
    ],
)
def test_rounding_and_re_encoding_are_no_difference(recorded: float, shown: float) -> None:
    """Frames, tracks, key frames, clocks and whole seconds stay within the tolerance."""
    assert durations_agree(recorded, shown) is True


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        (1.0, 0.5),  # half
        (1.0, 2.02),  # twice
        (1.0, 3),
        (2.0, 4),
        (2.0, 1.2),
        (3.0, 6),
        (60.0, 57.1),
        (60.0, 120),
        (60.0, 56),
        (HOUR, HOUR - 17.0),  # a chunk of 16 MiB at 8 Mbit/s is missing
        (HOUR, HOUR + 17),  # or is there twice
        (10 * HOUR, 10 * HOUR - 17),
        (10 * HOUR, 10 * HOUR + 17.5),
        (60.0, 0.04),
        (0.04, 60.0),
    ],
)
def test_a_cut_or_doubled_video_is_a_difference(recorded: float, shown: float) -> None:
    """Also in very short and very long recordings."""
    assert durations_agree(recorded, shown) is False


@pytest.mark.parametrize("recorded", [0.2, 1.0, 1.9, 2.5, 3.9])
def test_whole_seconds_say_nothing_of_a_very_short_recording(recorded: float) -> None:
    """Half of it or twice it would be rounded to nearly the same."""
    assert durations_agree(recorded, max(1.0, math.floor(recorded))) is None
    assert durations_agree(recorded, math.ceil(recorded)) is None
    assert durations_agree(recorded, recorded * 1.01) is True


def test_whole_seconds_tell_of_recordings_from_about_four_seconds_on() -> None:
    """From there on the tolerance is less than half of the recording."""
    assert durations_agree(4.1, 4) is True
    assert durations_agree(4.1, 2) is False
    assert durations_agree(4.1, 8) is False


@given(LENGTHS)
def test_a_duration_agrees_with_itself_and_never_with_half_or_twice(seconds: float) -> None:
    """Whatever the length; with the whole seconds around it, there is no contradiction."""
    assert durations_agree(seconds, seconds) is not False
    assert durations_agree(seconds, seconds / 2) is not True
    assert durations_agree(seconds, seconds * 2) is not True
    for whole in (math.floor(seconds), round(seconds), math.ceil(seconds)):
        assert durations_agree(seconds, whole) is not False


@given(st.floats(0.04, 10 * HOUR), st.floats(7, 20 * HOUR))
def test_a_difference_of_seven_seconds_is_always_seen(recorded: float, difference: float) -> None:
    """Up to ten hours, rounded or not, in both directions."""
    for shown in (recorded + difference, recorded - difference):
        assert durations_agree(recorded, shown) is (False if shown > 0 else None)
    assert durations_agree(recorded, math.ceil(recorded + difference)) is False


@given(st.none() | st.floats(), st.none() | st.floats())
def test_any_two_numbers_can_be_compared(recorded: float | None, shown: float | None) -> None:
    """Nothing raises, whatever a container or a server states."""
    assert durations_agree(recorded, shown) in (True, False, None)

"""Units in the configuration: what is understood, what is refused, and how values are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain.units import (
    EVERY_DAY,
    UNLIMITED,
    RateStep,
    format_bytes,
    format_duration,
    format_rate,
    parse_chunk_size,
    parse_duration,
    parse_rate,
    parse_schedule,
    parse_size,
    schedule_steps,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("2d", 172_800),
        ("5m", 300),
        ("5 min", 300),
        (" 3 s ", 3),
        ("7", 7),
        (7, 7),
        (0.25, 0.25),
        (1e-7, 1e-7),
        (0, 0),
    ],
)
def test_durations_become_seconds(text: object, seconds: float) -> None:
    """Each unit counts as it should, and a bare number is seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ten",
        "10 weeks",
        "-1s",
        "1h30m",
        "1e9s",
        "٣s",
        "s",
        -1,
        10**400,
        math.inf,
        math.nan,
        True,
        None,
        [],
        "9" * 400,
    ],
)
def test_an_invalid_duration_is_refused_with_an_example(text: object) -> None:
    """Nothing is guessed, and the error shows how to write it."""
    with pytest.raises(ValueError, match=re.escape('expected a duration like "10s"')):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("16 MiB", 16 << 20), ("1 GB", 10**9), ("64KiB", 65_536), ("1.5 kib", 1536), ("12", 12), (12, 12), (0, 0)],
)
def test_sizes_become_bytes(text: object, count: int) -> None:
    """KiB counts in 1024, kB in 1000, and a bare number is bytes."""
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["16 MBB", "", "MiB", "16 MiB and more", "-1 MB", -1, 1.5, True, None, {}, "1_000", "16 MiB\n1"]
)
def test_an_invalid_size_is_refused_with_an_example(text: object) -> None:
    """Also a text that only begins like a size."""
    with pytest.raises(ValueError, match=re.escape('expected a size like "16 MiB"')):
        parse_size(text)


@pytest.mark.parametrize(("text", "count"), [("whole", 0), ("64 KiB", 65_536), (65_536, 65_536), ("1 GB", 10**9)])
def test_chunk_sizes_are_sizes_or_the_whole_file(text: object, count: int) -> None:
    """The whole file as one range is 0."""
    assert parse_chunk_size(text) == count


@pytest.mark.parametrize("text", ["63 KiB", 0, "0", 65_535])
def test_a_chunk_below_64_kib_is_refused(text: object) -> None:
    """Smaller requests cost more than they carry."""
    with pytest.raises(ValueError, match="at least"):
        parse_chunk_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("20 Mbit/s", 2.5e6), ("2.5 MB/s", 2.5e6), ("1Gbit/s", 1.25e8), ("8 kbit/s", 1000), ("1 MiB/s", 1 << 20)],
)
def test_rates_become_bytes_per_second(text: str, rate: float) -> None:
    """Bits are an eighth of a byte; networks count in thousands."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["20 Mb/s", "20 Mbit", "20", 20, "fast", "0 Mbit/s", "7 bit/s", "unlimited", None, True]
)
def test_an_ambiguous_rate_is_refused(text: object) -> None:
    """``Mb`` may mean bits or bytes; so may a bare number."""
    with pytest.raises(ValueError, match=re.escape('expected a rate like "20 Mbit/s"')):
        parse_rate(text)


def test_one_rate_applies_all_day() -> None:
    """A single rate, or none, is a day of one step."""
    assert parse_schedule("unlimited") == UNLIMITED == (RateStep(0, None),)
    assert parse_schedule("20 Mbit/s") == (RateStep(0, 2.5e6),)


def test_the_last_step_of_a_day_applies_until_the_first_of_the_next() -> None:
    """Steps may be given in any order."""
    steps = parse_schedule([["18:00", "unlimited"], ["8:05", "20 Mbit/s"]])
    assert steps == (RateStep(0, None), RateStep(485, 2.5e6), RateStep(1080, None))


def test_a_day_that_has_a_step_at_midnight_is_taken_as_it_is() -> None:
    """No step is added before it."""
    assert parse_schedule([["00:00", "8 kbit/s"]]) == (RateStep(0, 1000),)


@pytest.mark.parametrize(
    ("time", "days", "minute"),
    [
        ("mon 08:00", {0}, 480),
        ("mon-fri 8:05", {0, 1, 2, 3, 4}, 485),
        ("sat,sun 00:00", {5, 6}, 0),
        ("SAT, Sun  00:00", {5, 6}, 0),
        ("fri-mon 22:00", {4, 5, 6, 0}, 1320),
        ("mon-wed,fri,sat-sat 23:59", {0, 1, 2, 4, 5}, 1439),
        ("mon,mon 12:00", {0}, 720),
    ],
)
def test_a_step_may_be_for_some_days_alone(time: str, days: set[int], minute: int) -> None:
    """Days by their first three letters, alone, listed or from one to another, also over the end of the week."""
    assert parse_schedule([[time, "8 kbit/s"]]) == (RateStep(minute, 1000, frozenset(days)),)


def test_a_step_for_all_seven_days_is_one_for_every_day() -> None:
    """However it is written, two timetables that mean the same are equal."""
    assert parse_schedule([["mon-sun 08:00", "1 MB/s"]]) == parse_schedule([["08:00", "1 MB/s"]])
    assert parse_schedule([["tue-mon 08:00", "1 MB/s"]])[0].days == EVERY_DAY


def test_days_that_differ_get_no_step_at_midnight() -> None:
    """What holds at midnight depends on the day before; steps are in the order of the day."""
    steps = parse_schedule([["sat,sun 18:00", "unlimited"], ["mon-fri 08:00", "1 MB/s"]])
    assert [(step.minute, step.bytes_per_second) for step in steps] == [(480, 1e6), (1080, None)]


def test_the_same_time_on_other_days_is_another_time() -> None:
    """Only a day that has two steps at one time is a fault, and it is named."""
    assert len(parse_schedule([["mon-fri 08:00", "1 MB/s"], ["sat 8:00", "2 MB/s"]])) == 2
    with pytest.raises(ValueError, match=re.escape("08:00 is given twice on thu, fri")):
        parse_schedule([["mon-fri 08:00", "1 MB/s"], ["thu-sat 8:00", "2 MB/s"]])
    with pytest.raises(ValueError, match=r"^08:05 is given twice$"):
        parse_schedule([["08:05", "1 MB/s"], ["mon-sun 8:05", "2 MB/s"]])


def test_every_step_of_a_timetable_is_checked() -> None:
    """A fault in one step does not hide a fault in another."""
    found = schedule_steps(
        [["08:00", "slow"], ["mon 8:00", "1 MB/s"], ["funday 09:00", "1 MB/s"], ["mon 8:00", "1 MB/s"]]
    )
    assert [isinstance(step, ValueError) for step in found] == [True, False, True, True]


@pytest.mark.parametrize(
    "value",
    [
        [],
        [["mon-fri", "20 Mbit/s"]],
        [["mon-fri08:00", "20 Mbit/s"]],
        [["monday 08:00", "20 Mbit/s"]],
        [["mon- 08:00", "20 Mbit/s"]],
        [["mon-wed-fri 08:00", "20 Mbit/s"]],
        [["mon,,tue 08:00", "20 Mbit/s"]],
        [["mon tue 08:00", "20 Mbit/s"]],
        [["08:00 mon", "20 Mbit/s"]],
        [["8", "20 Mbit/s"]],
        [["24:00", "20 Mbit/s"]],
        [["08:00"]],
        [["08:00", "slow"]],
        ["08:00", "20 Mbit/s"],
        [["08:00", "1 MB/s"], ["8:00", "2 MB/s"]],
        [[8, "20 Mbit/s"]],
        20,
        "slow",
        None,
    ],
)
def test_an_invalid_timetable_is_refused(value: object) -> None:
    """Wrong times, wrong rates, wrong shapes, and the same time twice."""
    with pytest.raises(ValueError, match=r"expected|twice"):
        parse_schedule(value)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (16 << 20, "16 MiB"), ((1 << 30) - 1, "1 GiB")],
)
def test_bytes_are_written_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    """What would round up to 1024 of a unit is 1 of the next."""
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(2.5e6, "20 Mbit/s"), (0, "0 bit/s"), (1.25e8, "1 Gbit/s"), (1_234_567, "9.88 Mbit/s")]
)
def test_rates_are_written_in_bits(rate: float, text: str) -> None:
    """As on the label of a network."""
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (0.0001, "1 ms"),
        (0.5, "500 ms"),
        (0.9999, "1 s"),
        (1.5, "1.5 s"),
        (9.96, "10 s"),
        (59.7, "1 min"),
        (90, "1 min 30 s"),
        (3600, "1 h"),
        (3599.9, "1 h"),
        (5400, "1 h 30 min"),
        (183_600, "2 d 3 h"),
        (86_460, "1 d"),
    ],
)
def test_durations_are_written_in_their_two_largest_units(seconds: float, text: str) -> None:
    """Without units that are zero."""
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=10**15))
def test_a_written_size_reads_back_as_nearly_the_same(count: int) -> None:
    """Three digits lose at most half a percent."""
    assert parse_size(format_bytes(count)) == pytest.approx(count, rel=0.006, abs=1)


@given(st.floats(min_value=1, max_value=1e12))
def test_a_written_rate_reads_back_as_nearly_the_same(rate: float) -> None:
    """The log and the configuration speak the same units."""
    assert parse_rate(format_rate(rate)) == pytest.approx(rate, rel=0.006, abs=1)


@given(st.floats(min_value=0, max_value=1e9))
def test_a_written_duration_is_as_long_as_what_was_given(seconds: float) -> None:
    """Its parts add up to it, short by less than the smallest part that is written."""
    parts = re.findall(r"[0-9.]+ [a-z]+", format_duration(seconds))
    written = sum(parse_duration(part) for part in parts)
    assert written == pytest.approx(seconds, rel=0.05, abs=0.001)


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_rate, parse_chunk_size])
@given(value=st.text() | st.integers() | st.floats() | st.none() | st.lists(st.text(), max_size=3))
def test_any_text_is_read_or_refused_with_a_one_line_error(parse: Callable[[object], float], value: object) -> None:
    """The parsers raise only ValueError, and every number is finite and not negative."""
    try:
        outcome: float | str = parse(value)
    except ValueError as refusal:
        outcome = str(refusal)
    if isinstance(outcome, str):
        assert outcome.startswith("expected ")
        assert len(outcome.splitlines()) == 1
    else:
        assert 0 <= outcome < math.inf

"""Which limit applies at a moment: the timetable by local time, growing files, and pressure on the disk."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.bandwidth.growth import CALM_TIME, PRESSURE_OFF, PRESSURE_ON, DiskPressure, Growth
from uploader.bandwidth.io_pressure import io_pressure, some_avg10
from uploader.bandwidth.limits import Limits, changes, rate_now
from uploader.domain.units import RateStep, parse_schedule

OFFICE = parse_schedule([["mon-fri 08:00", "8 Mbit/s"], ["mon-fri 18:00", "80 Mbit/s"], ["sat 00:00", "unlimited"]])
MONDAY = datetime(2027, 1, 18, tzinfo=UTC)


def rate_at(day: int, hour: int, minute: int = 0) -> float | None:
    """What ``OFFICE`` says on this day (0: Monday) at this time."""
    return rate_now(OFFICE, MONDAY + timedelta(days=day, hours=hour, minutes=minute))


@pytest.mark.parametrize(
    ("day", "hour", "minute", "rate"),
    [
        (0, 8, 0, 1e6),  # Monday morning
        (0, 17, 59, 1e6),
        (0, 18, 0, 1e7),
        (0, 23, 59, 1e7),
        (1, 0, 0, 1e7),  # over midnight
        (1, 7, 59, 1e7),
        (1, 8, 0, 1e6),
        (4, 23, 59, 1e7),  # Friday night
        (5, 0, 0, None),  # Saturday
        (6, 12, 0, None),  # Sunday has no step of its own
        (7, 7, 59, None),  # over the end of the week
        (7, 8, 0, 1e6),
    ],
)
def test_the_step_in_force_is_the_latest_that_began(day: int, hour: int, minute: int, rate: float | None) -> None:
    """Today, yesterday, or days ago."""
    assert rate_at(day, hour, minute) == rate


def test_one_step_a_week_holds_all_week() -> None:
    """Also on its own day before its time, as it began a week ago."""
    weekly = (RateStep(720, 1000.0, frozenset({2})),)
    assert {rate_now(weekly, MONDAY + timedelta(hours=hour)) for hour in range(24 * 7)} == {1000.0}


def test_a_step_begins_with_its_minute() -> None:
    """Not a second earlier."""
    assert rate_now(OFFICE, MONDAY + timedelta(hours=7, minutes=59, seconds=59.999)) is None


STEPS = st.lists(
    st.builds(RateStep, st.integers(0, 1439), st.floats(1, 1e9), st.frozensets(st.integers(0, 6), min_size=1)),
    min_size=1,
    max_size=6,
    unique_by=lambda step: step.minute,
)


@given(steps=STEPS, minute=st.integers(0, 7 * 1440 - 1))
def test_looking_back_minute_by_minute_finds_the_same_step(steps: list[RateStep], minute: int) -> None:
    """The rule as a person would apply it: go back until a step begins."""
    begins = {day * 1440 + step.minute: step.bytes_per_second for step in steps for day in step.days}
    expected = next(begins[at % 10080] for at in range(minute, minute - 10080, -1) if at % 10080 in begins)
    assert rate_now(steps, MONDAY + timedelta(minutes=minute)) == expected


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[datetime], datetime]]:
    """The machine's time is that of Central Europe: clocks go forward and back on Sundays."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield lambda moment: moment.astimezone()
    monkeypatch.undo()
    time.tzset()


NIGHT = parse_schedule([["00:00", "1 MB/s"], ["02:30", "2 MB/s"], ["03:30", "3 MB/s"]])


def test_a_step_in_the_hour_that_is_skipped_begins_after_it(local: Callable[[datetime], datetime]) -> None:
    """28 March 2027: 01:59 is followed by 03:00, and the step of 02:30 is in force."""
    before = datetime(2027, 3, 28, 0, 59, tzinfo=UTC)
    told = [(local(before + timedelta(minutes=step))) for step in (0, 1, 31)]
    assert [f"{moment:%H:%M}" for moment in told] == ["01:59", "03:00", "03:30"]
    assert [rate_now(NIGHT, moment) for moment in told] == [1e6, 2e6, 3e6]


def test_the_repeated_hour_has_its_rates_twice(local: Callable[[datetime], datetime]) -> None:
    """31 October 2027: 02:59 is followed by 02:00; the local time says which rate applies."""
    moments = [local(datetime(2027, 10, 31, tzinfo=UTC) + timedelta(minutes=after)) for after in (15, 45, 75, 105, 150)]
    assert [f"{moment:%H:%M}" for moment in moments] == ["02:15", "02:45", "02:15", "02:45", "03:30"]
    assert [rate_now(NIGHT, moment) for moment in moments] == [1e6, 2e6, 1e6, 2e6, 3e6]


def test_a_timetable_without_steps_raises() -> None:
    """The configuration never makes one."""
    with pytest.raises(ValueError, match="without steps"):
        rate_now((), MONDAY)


@pytest.mark.parametrize(
    ("limits", "total", "here", "there"),
    [
        (Limits(None, 100.0), None, None, None),
        (Limits(500.0, 100.0), 500.0, 500.0, 500.0),
        (Limits(500.0, 100.0, recorded=frozenset({"/here"})), 500.0, 100.0, 500.0),
        (Limits(None, 100.0, recorded=frozenset({"/here"})), None, 100.0, None),
        (Limits(50.0, 100.0, pressed=True, recorded=frozenset({"/here"})), 50.0, 50.0, 50.0),
        (Limits(None, 100.0, pressed=True), 100.0, 100.0, 100.0),
    ],
)
def test_the_lowest_applicable_limit_counts(
    limits: Limits, total: float | None, here: float | None, there: float | None
) -> None:
    """A growing file slows its own folder, pressure slows all, and neither makes anything faster."""
    assert (limits.total, limits.rate_of("/here"), limits.rate_of("/there")) == (total, here, there)


FAST, SLOWED = Limits(None, 1.25e6), Limits(None, 1.25e6, recorded=frozenset({"/rec"}))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (FAST, FAST, []),
        (FAST, SLOWED, ["10 Mbit/s while a file grows in /rec"]),
        (SLOWED, FAST, ["unlimited again: no file grows any more in /rec"]),
        (FAST, Limits(2.5e6, 1.25e6), ["20 Mbit/s by the timetable"]),
        (Limits(2.5e6, 1.25e6), FAST, ["unlimited by the timetable"]),
        (FAST, Limits(None, 1.25e6, pressed=True), ["10 Mbit/s while the disk is under pressure"]),
        (Limits(2.5e6, 1.25e6, pressed=True), Limits(2.5e6, 1.25e6), ["20 Mbit/s again: the disk keeps up"]),
        # A change that changes no rate is not announced.
        (Limits(1e6, 1.25e6), Limits(1e6, 1.25e6, recorded=frozenset({"/rec"})), []),
        (Limits(1e6, 1.25e6), Limits(1e6, 1.25e6, pressed=True), []),
        # A folder that is slowed down already follows the others, which is announced once.
        (
            Limits(2.5e6, 1.25e6, recorded=frozenset({"/rec"})),
            Limits(1e6, 1.25e6, recorded=frozenset({"/rec"})),
            ["8 Mbit/s by the timetable"],
        ),
        (SLOWED, Limits(None, 2.5e6, recorded=frozenset({"/rec"})), ["20 Mbit/s while a file grows in /rec"]),
    ],
)
def test_each_change_of_a_rate_is_announced_once(before: Limits, after: Limits, said: list[str]) -> None:
    """With the rate that applies from now on, and why."""
    assert [event.reason for event in changes(before, after, "by the timetable")] == said


def test_a_file_counts_as_growing_until_it_has_settled() -> None:
    """Until its next look is overdue, or a little after it has settled; only below its own folders."""
    growth, roots = Growth(), ("/rec", "/rec/a", "/rec/ab", "/other")
    growth.changed("/rec/a/x.mp4", 10.0, now=0.0)
    assert growth.folders(roots, 0.0) == growth.folders(roots, 10.0 + CALM_TIME - 0.1) == {"/rec", "/rec/a"}
    growth.changed("/rec/a/x.mp4", 10.0, now=12.0)
    growth.settled("/rec/a/x.mp4", now=22.0)
    assert growth.folders(roots, 22.0 + CALM_TIME - 0.1) == {"/rec", "/rec/a"}
    assert growth.folders(roots, 22.0 + CALM_TIME) == set()
    growth.settled("/never/seen.mp4", now=23.0)
    assert growth._until == {}


def test_settling_late_does_not_prolong_the_growth() -> None:
    """A file that settles after its time was over was not growing all the while."""
    growth = Growth()
    growth.changed("/rec/x.mp4", 0.0, now=0.0)
    growth.settled("/rec/x.mp4", now=CALM_TIME - 1)
    assert growth.folders(("/rec",), CALM_TIME) == set()


def test_pressure_begins_high_and_ends_low() -> None:
    """Between the two thresholds it stays as it was; and it ends only after a time of calm."""
    strain = DiskPressure()
    strain.feel(PRESSURE_ON - 0.1, 0.0)
    assert not strain.pressed(0.0)
    strain.feel(PRESSURE_ON, 1.0)
    strain.feel(PRESSURE_OFF, 2.0)
    strain.feel(PRESSURE_OFF - 0.1, 3.0)
    assert strain.pressed(2.0 + CALM_TIME - 0.1)
    assert not strain.pressed(2.0 + CALM_TIME)
    strain.feel(PRESSURE_OFF, 2.0 + CALM_TIME)
    assert not strain.pressed(2.0 + CALM_TIME)


@given(st.lists(st.none() | st.floats(0, 100), max_size=60))
def test_pressure_does_not_flap(readings: list[float | None]) -> None:
    """Whatever is read each second, uploads are not slowed down twice within the time of calm."""
    strain, begun, was = DiskPressure(), list[int](), False
    for second, share in enumerate(readings):
        strain.feel(share, float(second))
        if strain.pressed(second) and not was:
            begun.append(second)
        was = strain.pressed(second)
    assert all(later - earlier > CALM_TIME for earlier, later in itertools.pairwise(begun))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("some avg10=12.34 avg60=0.11 avg300=0.13 total=2937321\nfull avg10=99.00 avg60=0 avg300=0 total=1\n", 12.34),
        ("full avg10=99.00 avg60=0.02 avg300=0.04 total=1\nsome avg10=0.00 avg60=0.11 avg300=0.13 total=2\n", 0.0),
        ("some avg10=100.00 avg60=1 avg300=1 total=1", 100.0),
        ("some avg10=100.01 avg60=1 avg300=1 total=1", None),
        ("full avg10=99.00 avg60=0.02 avg300=0.04 total=1\n", None),
        ("awesome avg10=99.00 avg60=0.02", None),
        ("some avg10=-1.00 avg60=0", None),
        ("some avg10=nan avg60=0", None),
        ("some avg10=٣.00 avg60=0", None),
        ("some avg10= avg60=0", None),
        ("some avg60=99.00 avg10=99.00 ", None),
        ("", None),
    ],
)
def test_pressure_is_the_avg10_of_the_some_line(text: str, share: float | None) -> None:
    """Any other content is no reading."""
    assert some_avg10(text) == share


@given(st.text() | st.text("some avg10=.0129 \n"))
def test_any_content_of_the_pressure_file_gives_a_share_or_none(text: str) -> None:
    """It raises nothing and gives no invalid number."""
    share = some_avg10(text)
    assert share is None or 0 <= share <= 100


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"some avg10=5", b"x" * 10**6])
def test_without_a_reading_there_is_no_pressure(tmp_path: Path, content: bytes | None) -> None:
    """The file may be missing, a folder, or have any content."""
    file = tmp_path / "io"
    if content is not None:
        file.write_bytes(content)
    assert io_pressure(file) is None
    assert io_pressure(tmp_path) is None


def test_the_pressure_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """In the kernel's format."""
    file = tmp_path / "io"
    for share in (1.5, 70.0):
        file.write_text(f"some avg10={share:.2f} avg60=0.00 avg300=0.00 total=0\n")
        assert io_pressure(file) == share

"""The bandwidth limit of a running application: it follows timetable, configuration, growing files and the disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import VirtualClock, idle
from throttles import MUCH, ROOT, configured, limited, site

from uploader.bandwidth.growth import CALM_TIME, PRESSURE_ON
from uploader.domain import events

EIGHT = 1_800_000_000.0 - 1_800_000_000.0 % 86400 + 8 * 3600  # 08:00 of a day
AWARE: dict[str, Any] = {"recording_aware": True, "recording_bandwidth": "8 kbit/s"}


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's clock is that of Greenwich."""
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def found(path: str = f"{ROOT}/new.mp4") -> events.Event:
    """A file that was not known before."""
    return events.FileFound(path, 1)


async def test_a_timetable_step_applies_to_a_chunk_in_flight() -> None:
    """To the second, announced once; the chunk goes on at the new rate."""
    steps = [["00:00", "8 kbit/s"], ["08:00", "800 kbit/s"], ["08:01", "80 kbit/s"]]
    async with site(configured(bandwidth=steps), VirtualClock(EIGHT - 10.25)) as here:
        here.workers(4)
        start = here.clock.monotonic()
        turn, back = start + 10.25, start + 70.25
        await here.clock.advance(90)
        assert here.traffic.between(start, turn) == pytest.approx(10_250, rel=0.03)
        assert here.traffic.between(turn, back) == pytest.approx(6_000_000, rel=0.005)
        assert here.traffic.between(back, start + 90) == pytest.approx(197_500, rel=0.03)
        assert here.said == ["800 kbit/s by the timetable", "80 kbit/s by the timetable"]


async def test_a_throttle_that_waits_is_released_when_the_limit_ends() -> None:
    """Even when it would have waited a second for each byte."""
    steps = [["00:00", "8 bit/s"], ["08:00", "unlimited"]]
    async with site(configured(bandwidth=steps), VirtualClock(EIGHT - 0.5)) as here:
        throttles = [here.bandwidth.throttle(ROOT) for _ in range(3)]
        assert await throttles[0].take(MUCH) == 1
        waits = [asyncio.ensure_future(throttle.take(MUCH)) for throttle in throttles]
        await here.clock.advance(0.4)
        assert not any(wait.done() for wait in waits)
        await here.clock.advance(0.1)
        assert [wait.result() for wait in waits] == [MUCH] * 3


async def test_steps_for_weekdays_change_at_midnight() -> None:
    """1 January 2027 is a Friday; the weekend begins at midnight."""
    steps = [["mon-fri 00:00", "8 kbit/s"], ["sat,sun 00:00", "unlimited"]]
    friday = 1_798_761_600.0
    async with site(configured(bandwidth=steps), VirtualClock(friday + 86400 - 0.1)) as here:
        throttle = here.bandwidth.throttle(ROOT)
        assert limited(throttle) == [True]
        await here.clock.advance(0.2)
        assert limited(throttle) == [False]
        assert here.said == ["unlimited by the timetable"]


async def test_the_timetable_uses_the_machine_s_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock is an hour ahead, so is the timetable."""
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    steps = [["00:00", "8 kbit/s"], ["08:30", "unlimited"]]
    async with site(configured(bandwidth=steps), VirtualClock(EIGHT)) as here:
        assert limited(here.bandwidth.throttle(ROOT)) == [False]


async def test_a_wall_clock_that_jumps_is_followed() -> None:
    """Within a second of the jump the rate is that of the new time."""
    steps = [["00:00", "8 kbit/s"], ["08:00", "unlimited"]]
    async with site(configured(bandwidth=steps), VirtualClock(EIGHT - 7200)) as here:
        throttle = here.bandwidth.throttle(ROOT)
        await here.clock.advance(0.5)
        here.clock.jump(7200)
        await here.clock.advance(1.0)
        assert limited(throttle) == [False]


async def test_a_reload_is_in_force_at_once() -> None:
    """A waiting throttle gets the new limit; it is announced once, and an unchanged limit is not announced."""
    async with site(configured(bandwidth="8 bit/s")) as here:
        throttle = here.bandwidth.throttle(ROOT)
        await throttle.take(MUCH)
        wait = asyncio.ensure_future(throttle.take(MUCH))
        await here.clock.advance(0.5)
        here.bandwidth.apply(configured(bandwidth="8 Mbit/s"))
        here.bandwidth.apply(configured(bandwidth="8 Mbit/s"))
        await here.clock.advance(0.01)
        assert wait.result() == 20_000
        here.bandwidth.apply(configured())
        assert await throttle.take(MUCH) == MUCH
        assert here.said == ["8 Mbit/s by the configuration", "unlimited by the configuration"]
        assert [event.rate for event in here.of(events.BandwidthChanged)] == [1e6, None]


async def test_a_limit_set_by_reload_applies_to_throttles_in_use() -> None:
    """A throttle without a limit is limited from now on, also by a new timetable."""
    async with site(configured(), VirtualClock(EIGHT - 30)) as here:
        here.workers(2)
        await here.clock.advance(1)
        here.bandwidth.apply(configured(bandwidth=[["00:00", "8 kbit/s"], ["08:00", "80 kbit/s"]]))
        start = here.clock.monotonic()
        await here.clock.advance(49)
        assert here.traffic.between(start + 0.01, start + 29) == pytest.approx(29_000, rel=0.03)
        assert here.traffic.between(start + 29, start + 49) == pytest.approx(200_000, rel=0.03)


async def test_a_growing_file_slows_its_own_folder() -> None:
    """All uploads of that folder together; those of other folders go on as before."""
    async with site(
        configured(ROOT, "/mnt/share", bandwidth="800 kbit/s", recording_aware=True, recording_bandwidth="160 kbit/s")
    ) as here:
        for number in range(4):
            root = ROOT if number < 2 else "/mnt/share"
            here.send(here.bandwidth.throttle(root), number, lambda _: MUCH)
        await here.clock.advance(1)
        here.bus.publish(found())
        start = here.clock.monotonic()
        await here.clock.advance(10)
        slowed = [here.traffic.between(start, start + 10, number) for number in range(4)]
        assert sum(slowed[:2]) == pytest.approx(200_000, rel=0.03)
        assert sum(slowed) == pytest.approx(1_000_000, rel=0.03)
        assert slowed == pytest.approx([1e5, 1e5, 4e5, 4e5], rel=0.05)
        assert here.said == [f"160 kbit/s while a file grows in {ROOT}"]
        assert [event.folder for event in here.of(events.BandwidthChanged)] == [ROOT]


async def test_recording_bandwidth_applies_without_any_other_limit() -> None:
    """Full speed is back some seconds after the file has settled."""
    async with site(configured(**AWARE)) as here:
        throttle, other = here.bandwidth.throttle(ROOT), here.bandwidth.throttle("/elsewhere")
        here.bus.publish(found())
        await idle()
        assert (throttle.limited, throttle.piece, other.limited) == (True, 20, False)
        await here.clock.advance(3)
        here.bus.publish(events.FileSettled(f"{ROOT}/new.mp4", 1))
        await here.clock.advance(CALM_TIME - 0.5)
        assert limited(throttle) == [True]
        await here.clock.advance(1.5)
        assert limited(throttle) == [False]
        assert here.said == [
            f"8 kbit/s while a file grows in {ROOT}",
            f"unlimited again: no file grows any more in {ROOT}",
        ]


async def test_the_limit_does_not_flap_between_two_looks_at_a_growing_file() -> None:
    """Looks are a settle time apart, and the limit holds in between."""
    async with site(configured(settle="2m", **AWARE)) as here:
        here.bus.publish(found(f"{ROOT}/a/long.mp4"))
        for _ in range(20):
            await here.clock.advance(120)
            here.bus.publish(events.FileStillChanging(f"{ROOT}/a/long.mp4", 1))
        assert len(here.said) == 1
        await here.clock.advance(120 + CALM_TIME + 1)
        assert len(here.said) == 2


async def test_many_short_recordings_do_not_make_the_limit_flap() -> None:
    """A file each second that settles at once: slowed down once, as long as they come."""
    async with site(configured(settle="0s", **AWARE)) as here:
        for number in range(60):
            path = f"{ROOT}/{number}.mp4"
            here.bus.publish(found(path))
            await here.clock.advance(0.5)
            here.bus.publish(events.FileSettled(path, 1))
            await here.clock.advance(0.5)
        assert len(here.said) == 1


async def test_a_file_of_no_watched_folder_slows_only_its_own_folder() -> None:
    """A file named on the command line is sent from the folder that it lies in."""
    async with site(configured(**AWARE)) as here:
        throttle, watched = here.bandwidth.throttle("/home/me"), here.bandwidth.throttle(ROOT)
        here.bus.publish(found("/home/me/b.mp4"))
        await idle()
        assert (throttle.limited, watched.limited) == (True, False)


async def test_without_recording_aware_nothing_is_slowed() -> None:
    """The disk's pressure is not read, and nothing wakes up each second."""
    async with site(configured(recording_aware=False)) as here:
        here.share = 100.0
        here.bus.publish(found())
        await here.clock.advance(60)
        assert (here.said, here.readings, here.clock.sleepers) == ([], 0, 0)
        assert here.bandwidth._growth._until == {}
        assert limited(here.bandwidth.throttle(ROOT)) == [False]


async def test_awareness_can_be_switched_on_and_off_by_reload() -> None:
    """Switched off, it releases at once what was slowed down."""
    async with site(configured()) as here:
        here.share = 90.0
        throttle = here.bandwidth.throttle(ROOT)
        here.bandwidth.apply(configured(**AWARE))
        assert limited(throttle) == [True]
        here.bandwidth.apply(configured())
        assert limited(throttle) == [False]
        assert here.said == ["8 kbit/s while the disk is under pressure", "unlimited again: the disk keeps up"]


async def test_pressure_on_the_disk_slows_all_folders() -> None:
    """Together, until it is over; each change is announced once."""
    async with site(configured(ROOT, "/mnt/share", **AWARE)) as here:
        throttles = [here.bandwidth.throttle(root) for root in (ROOT, "/mnt/share")]
        here.share = PRESSURE_ON + 1
        await here.clock.advance(1.0)
        assert limited(*throttles) == [True, True]
        for number, throttle in enumerate(throttles):
            here.send(throttle, number, lambda _: MUCH)
        start = here.clock.monotonic()
        await here.clock.advance(10)
        assert here.traffic.between(start, start + 10) == pytest.approx(10_000, rel=0.03)
        here.share = 0.0
        await here.clock.advance(CALM_TIME + 1)
        assert limited(*throttles) == [False, False]
        assert here.said == ["8 kbit/s while the disk is under pressure", "unlimited again: the disk keeps up"]


async def test_a_kernel_without_pressure_figures_slows_nothing() -> None:
    """They may be missing, switched off or hidden."""
    async with site(configured(**AWARE)) as here:
        await here.clock.advance(60)
        assert here.said == []
        assert limited(here.bandwidth.throttle(ROOT)) == [False]


async def test_pressure_is_read_at_most_once_a_second() -> None:
    """Whatever happens in between: new files, reloads, the next minute."""
    async with site(configured(**AWARE), VirtualClock(EIGHT - 5.5)) as here:
        for number in range(100):
            here.bus.publish(found(f"/{number}/x.mp4"))
            here.bandwidth.apply(configured(f"/{number}", **AWARE))
            await here.clock.advance(0.1)
        assert here.readings <= 11


async def test_an_application_that_has_ended_no_longer_listens() -> None:
    """The bus lives longer than an application."""
    async with site(configured(**AWARE)) as here:
        pass
    here.bus.publish(found())
    assert here.bandwidth._growth._until == {}


async def test_growing_files_are_forgotten_again() -> None:
    """Memory does not grow with the number of files that ever came."""
    async with site(configured(settle="1s", **AWARE)) as here:
        for number in range(500):
            here.bus.publish(found(f"{ROOT}/{number}.mp4"))
            await here.clock.advance(0.1)
        assert len(here.bandwidth._growth._until) <= 10 * (1 + CALM_TIME + 1) + 1
        await here.clock.advance(10)
        assert here.bandwidth._growth._until == {}

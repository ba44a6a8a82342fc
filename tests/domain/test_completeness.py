"""When a file is complete; and a file that never will be is parked with its reason, which all commands show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from harness import Rig
from parts import at, sha256
from process import at_work
from test_container_files import left_open, recording

from uploader.diagnostics.video import Video
from uploader.domain import events
from uploader.domain.completeness import (
    Complete,
    CompletenessRules,
    NotYet,
    StableSince,
    check_complete,
    marker_of,
    observe,
    too_early,
)
from uploader.domain.model import ActionBy, Identity, Snapshot, State, WriteState
from uploader.store import codec
from uploader.store.disk import StateFolder
from uploader.store.opening import read_state

RULES: Final = CompletenessRules(settle=10.0, gate=True, gate_timeout=600.0, longest_look_interval=60.0)
CLOSED: Final = WriteState()
LACKS: Final = WriteState(unfinished="it has no moov box")
SNAPSHOT: Final = Snapshot(Identity(100, 5, "e"), 7, (1, 2))


def verdict(size: int = 100, stable_for: float = 10.0, *, marker: str = "", write_state: WriteState = CLOSED) -> object:
    """Decide about a file."""
    return check_complete(RULES, size, stable_for, marker=marker, write_state=write_state)


def wait(size: int = 100, stable_for: float = 10.0, *, marker: str = "", write_state: WriteState = CLOSED) -> NotYet:
    """Decide about a file that has to wait."""
    answer = verdict(size, stable_for, marker=marker, write_state=write_state)
    assert isinstance(answer, NotYet)
    return answer


# Standing still


@pytest.mark.parametrize(
    "change",
    [
        replace(SNAPSHOT, identity=replace(SNAPSHOT.identity, size=101)),
        replace(SNAPSHOT, identity=replace(SNAPSHOT.identity, mtime_ns=6)),
        replace(SNAPSHOT, identity=replace(SNAPSHOT.identity, edges="f")),
        replace(SNAPSHOT, ctime_ns=8),
        replace(SNAPSHOT, inode=(1, 3)),
    ],
)
def test_any_change_starts_the_settle_time_again(change: Snapshot) -> None:
    """Size, time, ends, ctime or inode: it counts from the look that saw the last change."""
    before = StableSince(SNAPSHOT, 100.0)
    assert observe(before, SNAPSHOT, 105.0) is before
    after = observe(before, change, 105.0)
    assert after == StableSince(change, 105.0)
    early = too_early(RULES, after, before, 105.0)
    assert early is not None
    assert early.changed
    assert early.after == RULES.settle


@pytest.mark.parametrize("part", ["ctime", "inode"])
def test_metadata_that_moves_alone_holds_nothing_back_for_ever(part: str) -> None:
    """A backup that makes hard links, or a tool that sets rights: the wait is extended to three times ``settle``."""
    stable, before, looks = StableSince(SNAPSHOT, 100.0), None, 0
    for looks in range(1, 100):
        now = 100.0 + 10.0 * looks
        changes = {"ctime_ns": 7 + looks} if part == "ctime" else {"inode": (1, 3 + looks)}
        before, stable = stable, observe(stable, replace(SNAPSHOT, **changes), now)
        if (wait := too_early(RULES, stable, before, now)) is None:
            break
        assert f"its {part} {looks} time" in wait.reason
    assert looks == 3
    assert (stable.unchanged_since, stable.moved[part].times, stable.moved[part].last) == (100.0, 3, 130.0)


@pytest.mark.parametrize(
    "change",
    [
        replace(SNAPSHOT, identity=replace(SNAPSHOT.identity, size=101), ctime_ns=9),
        replace(SNAPSHOT, identity=replace(SNAPSHOT.identity, mtime_ns=6), ctime_ns=9),
        replace(SNAPSHOT, identity=replace(SNAPSHOT.identity, edges="f"), ctime_ns=9),
    ],
)
def test_a_write_among_moving_metadata_starts_the_wait_again(change: Snapshot) -> None:
    """Size, mtime and content count as before, whatever the ctime did until then."""
    stable = StableSince(SNAPSHOT, 100.0)
    for look in (1, 2):
        stable = observe(stable, replace(SNAPSHOT, ctime_ns=7 + look), 100.0 + 10 * look)
    written = observe(stable, change, 130.0)
    assert written.unchanged_since == 130.0
    early = too_early(RULES, written, stable, 130.0)
    assert early is not None
    assert early.after == RULES.settle
    still = observe(written, change, 139.0)
    assert too_early(RULES, still, written, 139.0) is not None
    assert too_early(RULES, still, written, 140.0) is None


def test_a_file_waits_for_its_whole_settle_time() -> None:
    """Measured by the monotonic clock, with no more looks than needed."""
    still = StableSince(SNAPSHOT, 100.0)
    first = too_early(RULES, still, None, 100.0)
    assert first is not None
    assert (first.after, first.changed) == (10.0, False)
    later = too_early(RULES, still, still, 109.0)
    assert later is not None
    assert later.after == 1.0
    assert too_early(RULES, still, still, 110.0) is None


# What speaks against it


def test_a_still_closed_file_with_content_is_complete() -> None:
    """It goes on to be sent."""
    assert verdict() == Complete()


def test_the_first_unmet_condition_is_the_reason() -> None:
    """In this order: the marker, the writer, the content."""
    both = WriteState(writer=True, unfinished="it has no moov box")
    assert "marker" in wait(0, marker="/w/a.done", write_state=both).reason
    assert "open for writing" in wait(0, write_state=both).reason
    assert "moov" in wait(write_state=LACKS).reason
    empty = verdict(0, write_state=LACKS)
    assert isinstance(empty, Complete)
    assert "empty" in empty.unplayable


def test_writer_is_waited_for_however_long_it_takes() -> None:
    """An open handle never times out: a paused recording may last a day."""
    assert wait(stable_for=1e6, write_state=WriteState(writer=True)).held


def test_an_unfinished_container_is_given_up_after_gate_timeout() -> None:
    """Before that the reason says how long it still waits; afterwards, what helps."""
    assert "parked unless it changes within 1 min" in wait(stable_for=540.0, write_state=LACKS).reason
    assert wait(stable_for=599.0, write_state=LACKS).after == 1.0
    given_up = verdict(stable_for=600.0, write_state=LACKS)
    assert isinstance(given_up, Complete)
    assert given_up.unplayable == (
        "it has no moov box; it goes on when the file changes, or after: valt-uploader retry"
    )


PLAYS: Final = WriteState(unfinished="it was never closed; it plays up to byte 9", playable=True)


def test_the_reason_of_a_parked_file_names_the_command_and_the_key() -> None:
    """The command for this file; the key only if it would help."""
    parked = check_complete(RULES, 100, 600.0, marker="", write_state=LACKS, path="/w/my talk.mp4")
    expected = "it has no moov box; it goes on when the file changes, or after: valt-uploader retry '/w/my talk.mp4'"
    assert parked == Complete(unplayable=expected)
    parked = check_complete(RULES, 100, 600.0, marker="", write_state=PLAYS, path="/w/a.mkv")
    assert parked == Complete(
        unplayable='it was never closed; it plays up to byte 9; gate = "playable" in its [[watch]] sends such files by '
        "itself; it goes on when the file changes, or after: valt-uploader retry /w/a.mkv"
    )


def test_what_plays_is_sent_after_gate_timeout_where_the_gate_says_so() -> None:
    """What is cut or reserved is still parked; a file that is complete is not delayed."""
    rules = replace(RULES, gate="playable")

    def decide(stable_for: float, write_state: WriteState) -> NotYet | Complete:
        return check_complete(rules, 100, stable_for, marker="", write_state=write_state)

    early = decide(540.0, PLAYS)
    assert isinstance(early, NotYet)
    assert early.held
    assert early.reason.endswith("it plays up to byte 9; sent as it is unless it changes within 1 min")
    assert decide(600.0, PLAYS) == Complete(not_closed=PLAYS.unfinished)
    assert decide(600.0, LACKS) == verdict(stable_for=600.0, write_state=LACKS)
    assert decide(540.0, LACKS) == wait(stable_for=540.0, write_state=LACKS)
    assert decide(10.0, CLOSED) == Complete()


def test_a_file_that_is_held_back_is_looked_at_less_and_less_often() -> None:
    """After a quarter of its wait, between ``settle`` and ``rescan``; an application that ends does not wait for it."""
    pauses = [wait(stable_for=age, write_state=LACKS).after for age in (10.0, 100.0, 200.0, 300.0)]
    assert pauses == [10.0, 25.0, 50.0, 60.0]
    assert not wait(write_state=LACKS).worth_waiting
    assert wait(write_state=WriteState(writer=True)).worth_waiting
    hasty = check_complete(
        replace(RULES, settle=0.0, longest_look_interval=0.0), 1, 0.0, marker="/w/m", write_state=CLOSED
    )
    assert isinstance(hasty, NotYet)
    assert hasty.after >= 0.5


@pytest.mark.parametrize(
    ("pattern", "path", "marker"),
    [
        ("", "/w/a.mp4", ""),
        ("{name}.done", "/w/a.mp4", "/w/a.mp4.done"),
        ("{stem}.ok", "/w/sub/a.b.mp4", "/w/sub/a.b.ok"),
        ("{stem}.ok", "/w/noext", "/w/noext.ok"),
        ("READY", "/w/{name}.mp4", "/w/READY"),
    ],
)
def test_the_marker_lies_beside_its_file(pattern: str, path: str, marker: str) -> None:
    """It is named after the whole name, after the stem, or for the whole folder."""
    assert marker_of(replace(RULES, done_marker=pattern), path) == marker


# With all the rest

VIDEO: Final = b"".join(Video(frames=4, width=96, height=64).pieces())
CUT: Final = {
    "no index": ("a.mp4", VIDEO[: VIDEO.rindex(b"moov") - 4], VIDEO, "moov"),
    "cut short": ("a.mp4", VIDEO[: len(VIDEO) // 2], VIDEO, "ends"),
}


def mkv() -> tuple[str, bytes, bytes, str]:
    """A Matroska file as a recorder that was killed leaves it."""
    whole = recording("mkv")
    return "a.mkv", whole[: len(whole) * 2 // 3], whole, "ends"


@pytest.mark.parametrize("kind", ["no index", "cut short", "mkv"])
async def test_unfinished_recording_is_parked_and_released_when_it_is_completed(tmp_path: Path, kind: str) -> None:
    """After ``gate_timeout``, without a record, also over a restart; completed, it is sent once."""
    name, cut, whole, word = mkv() if kind == "mkv" else CUT[kind]
    async with Rig(tmp_path, watch={"gate_timeout": "2s"}) as rig:
        await rig.start()
        path = await rig.drop(name, cut)
        held = await rig.event(events.FileHeldBack, path=path)
        assert word in held.reason
        parked = await rig.event(events.UploadParked, path=path)
        assert (parked.action_by, word in parked.reason) == (ActionBy.FILE, True)
        assert rig.on_disk(path).state is State.PARKED
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("other.mp4", VIDEO))
        assert len(rig.records) == len(rig.seen(events.UploadParked)) == 1
        at(path).write_bytes(whole)
        await rig.scan()
        await rig.finished(path)
        assert rig.records[-1].sha256 == sha256(whole)
        assert len(rig.records) == 2


async def test_unfinished_recording_that_is_completed_in_time_is_never_parked(tmp_path: Path) -> None:
    """Its recorder was slow, not dead."""
    name, cut, whole, _ = CUT["no index"]
    async with Rig(tmp_path, watch={"gate_timeout": "1h"}) as rig:
        await rig.start()
        path = await rig.drop(name, cut)
        await rig.event(events.FileHeldBack, path=path)
        at(path).write_bytes(whole)
        await rig.scan()
        await rig.finished(path)
        assert rig.seen(events.UploadParked) == []
        assert rig.record.sha256 == sha256(whole)


async def test_retry_sends_an_unfinished_recording_as_it_is(tmp_path: Path) -> None:
    """The operator may know that half of a recording is all there is."""
    name, cut, _, _ = CUT["no index"]
    async with Rig(tmp_path, watch={"gate_timeout": "0s"}) as rig:
        await rig.start()
        path = await rig.drop(name, cut)
        await rig.event(events.UploadParked, path=path)
        assert await rig.retry(path)
        await rig.finished(path)
        assert rig.record.sha256 == sha256(cut)
        await rig.scan()
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("b.mp4", VIDEO))
        assert len(rig.records) == 2


async def test_a_killed_recording_that_plays_is_sent_where_the_gate_says_so(tmp_path: Path) -> None:
    """After ``gate_timeout``, and the log says so; a cut copy is parked."""
    killed, whole = left_open("mkv"), recording("mkv")
    async with Rig(tmp_path, watch={"gate": "playable", "gate_timeout": "1s"}) as rig:
        await rig.start()
        path = await rig.drop("killed.mkv", killed)
        held = await rig.event(events.FileHeldBack, path=path)
        assert "it plays up to 00:00:0" in held.reason
        assert "sent as it is unless it changes" in held.reason
        await rig.finished(path)
        assert rig.record.sha256 == sha256(killed)
        (event,) = rig.seen(events.FileNotClosed)
        assert (event.path, "the recorder did not close this file" in event.reason) == (path, True)
        cut = await rig.drop("cut.mkv", whole[: len(whole) // 2])
        parked = await rig.event(events.UploadParked, path=cut)
        assert parked.reason.endswith(f"or after: valt-uploader retry {cut}")
        assert len(rig.records) == 1


async def test_without_the_gate_every_still_file_is_sent(tmp_path: Path) -> None:
    """``gate = false``."""
    name, cut, _, _ = CUT["cut short"]
    async with Rig(tmp_path, watch={"gate": False}) as rig:
        await rig.start()
        await rig.finished(await rig.drop(name, cut))
        assert rig.record.sha256 == sha256(cut)


async def test_commands_report_an_unfinished_recording(tmp_path: Path) -> None:
    """``once`` names it and exits with 1; ``status`` and ``explain`` say why, and ``retry`` what it did."""
    name, cut, _, _ = CUT["no index"]
    async with at_work(tmp_path, watch='gate_timeout = "100ms"') as site:
        path = site.recordings / name
        path.write_bytes(cut)
        once = await site.run("once")
        assert once.code == 1
        assert "0 uploaded now, 1 not ready" in once.out
        assert any(line.startswith(f"{path}: ") and "moov" in line for line in once.lines)
        assert site.simulator.records() == []
        assert "moov" in (await site.run("status")).out
        explained = await site.run("explain", path)
        assert "moov" in explained.out
        assert explained.lines[-1].startswith("result   not finished: ")
        assert (await site.run("retry", path)).code == 0
        again = await site.run("once")
        assert again.code == 0, again.out
        assert len(site.simulator.records()) == 1


async def test_once_fails_when_a_folder_is_on_another_file_system(tmp_path: Path) -> None:
    """The folder is named, and the exit code is 1."""
    async with at_work(tmp_path) as site:
        (site.recordings / "a.mp4").write_bytes(VIDEO)
        assert (await site.run("once")).code == 0
        disk = StateFolder(site.state)
        saved = read_state(disk)
        elsewhere = tuple(replace(home, inner="/elsewhere") for home in saved.mount_identities)
        disk.replace("state.json", codec.encode_state(replace(saved, mount_identities=elsewhere), now=0.0))
        disk.close()
        once = await site.run("once")
        assert once.code == 1
        assert "0 uploaded now, 0 not ready" in once.out
        assert f"{site.recordings}: not scanned, or only in part" in once.out
        status = (await site.run("status")).out
        assert "offline; uploads wait" in status
        assert (await site.run("retry", site.recordings)).code == 0
        assert (await site.run("once")).code == 0

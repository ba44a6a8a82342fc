"""Pause and resume: nothing new begins for a paused file, a chunk in flight ends, and resume lets it go on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from harness import Rig
from parts import CHUNK, at, content_of, sha256
from process import at_work

from uploader.domain import events
from uploader.domain.model import EVERYTHING, State, covers
from uploader.testing.simulator import Settings

DATA = content_of(3 * CHUNK)


@pytest.mark.parametrize(
    ("paused", "path", "covered"),
    [
        (["/rec/a.mp4"], "/rec/a.mp4", True),
        (["/rec/a.mp4"], "/rec/a.mp4.mp4", False),
        (["/rec"], "/rec/a.mp4", True),
        (["/rec"], "/recordings/a.mp4", False),
        ([EVERYTHING], "/rec/a.mp4", True),
        ([], "/rec/a.mp4", False),
    ],
)
def test_a_paused_folder_covers_everything_below_it(paused: list[str], path: str, covered: bool) -> None:
    """The folder itself and all below it, but no other name that only begins like it."""
    assert covers(paused, path) is covered


@pytest.mark.parametrize("scope", ["everything", "folder", "file"])
async def test_nothing_begins_for_a_paused_file(tmp_path: Path, scope: str) -> None:
    """No record is made until it is resumed; other files are sent."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        held = str(rig.watch / "ward" / "a.mp4")
        name = {"everything": EVERYTHING, "folder": str(rig.watch / "ward"), "file": held}[scope]
        assert await rig.operator.pause(name)
        assert not await rig.operator.pause(name)
        await rig.drop("ward/a.mp4", DATA)
        free = await rig.drop("b.mp4", DATA)
        if scope != "everything":
            await rig.finished(free)
        await rig.event(events.FileQueued, path=held)
        await rig.until(lambda: rig.application.queues.jobs.empty() and not rig.application.transfer.active)
        assert rig.state_of(held) is State.QUEUED
        assert len(rig.calls("create")) == (0 if scope == "everything" else 1)
        assert await rig.operator.resume(name)
        assert not await rig.operator.resume(name)
        await rig.finished(held, free)


async def test_a_pause_lets_the_chunk_in_flight_end(tmp_path: Path) -> None:
    """The next chunk does not begin, also after a restart; resumed, the upload goes on in the same record."""
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        async with asyncio.timeout(10):
            await stall.standing.wait()
        await rig.operator.pause(path)
        stall.release()
        await rig.event(events.ChunkAcknowledged, path=path, offset=CHUNK)
        await rig.until(lambda: not rig.application.transfer.active)
        assert (rig.state_of(path), len(rig.calls("upload"))) == (State.SENDING, 1)
        await rig.restart()
        await rig.until(lambda: len(rig.application.queues.again) == 0 and rig.application.queues.jobs.empty())
        await rig.until(lambda: not rig.application.transfer.active)
        assert (rig.state_of(path), len(rig.calls("upload"))) == (State.SENDING, 1)
        assert rig.saved().paused == (path,)
        await rig.operator.resume(path)
        await rig.finished(path)
        assert len(rig.calls("create")) == 1
        assert rig.record.sha256 == sha256(DATA)


async def test_a_local_file_is_not_touched_while_paused(tmp_path: Path) -> None:
    """It is sent, but neither asked about nor deleted; both happen after resume."""
    async with Rig(tmp_path, Settings(processing=3600.0), watch={"after_upload": "delete"}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadSent, path=path)
        await rig.operator.pause(EVERYTHING)
        await rig.until(
            lambda: len(rig.application.queues.sent) == 0 and rig.application.breaker._inside == 0, "the end of asking"
        )
        rig.become(Settings(processing=0.0))
        assert rig.state_of(path) is State.VERIFYING
        assert at(path).exists()
        await rig.operator.resume(EVERYTHING)
        await rig.finished(path)
        assert not at(path).exists()


async def test_resume_does_not_shorten_a_retry_wait(tmp_path: Path) -> None:
    """Resume ends a pause, but not the time that a failed upload has to wait."""
    async with Rig(tmp_path) as rig:
        rig.fault("create", "status", status=403, times=None)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadParked, path=path)
        await rig.operator.pause(EVERYTHING)
        await rig.operator.resume(EVERYTHING)
        assert rig.state_of(path) is State.PARKED
        assert len(rig.calls("create")) == 1


async def test_pause_and_resume_work_with_the_daemon_running_or_stopped(tmp_path: Path) -> None:
    """For everything or one path: the command reports it, status shows it, and resume ends it."""
    async with at_work(tmp_path) as site:
        ended = await site.run("pause")  # before the first start
        assert (ended.code, ended.lines) == (0, ["everything: paused by operator; to continue: valt-uploader resume"])
        path = site.record("ward/a.mp4")
        once = await site.run("once")
        assert once.code == 1
        assert once.lines[1] == f"{path}: queued: paused by operator; continues after: valt-uploader resume"
        daemon = await site.start("run")
        await daemon.event("file-queued")
        then = f"paused by operator; to continue: valt-uploader resume {path.parent}"
        assert (await site.run("pause", path.parent)).lines == [f"{path.parent}: {then}"]
        assert (await site.run("pause", path.parent)).lines == [f"{path.parent}: was already {then}"]
        shown = (await site.run("status")).lines
        assert "paused   everything: paused by operator; to continue: valt-uploader resume" in shown
        assert "  why:  paused by operator" in shown
        assert "  next: continues after: valt-uploader resume" in shown
        document = json.loads((await site.run("status", "--json")).out)
        assert document["paused"] == ["/", str(path.parent)]
        assert document["uploads"][0]["turn"] == "operator"
        assert "reason   paused by operator" in (await site.run("explain", path)).lines
        ended = await site.run("resume", path.parent)
        still = f"{path.parent}: still paused, because everything is; to continue: valt-uploader resume"
        assert (ended.code, ended.lines) == (1, [still])
        assert not daemon.events("record-created")
        ended = await site.run("resume")
        assert (ended.code, ended.lines) == (0, ["everything: continues"])
        await daemon.event("upload-finished")
        ended = await site.run("resume")
        assert (ended.code, ended.lines) == (1, ["everything: was not paused"])
        assert (await daemon.stop()).code == 0

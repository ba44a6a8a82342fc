"""Operator commands and a reload reach an upload at any point of its life, and stages do not undo them."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import an_upload
from harness import Rig
from parts import CHUNK, MortalDisk, content_of, sha256
from shares import identify

from uploader.app.application import Application
from uploader.domain import events
from uploader.domain.model import ActionBy, LastError, MountIdentity, RecordIds, State
from uploader.files import MountedShare
from uploader.files.walk import WalkBatch, WalkFilter
from uploader.server.valt import Valt
from uploader.testing.simulator import CallName, Settings

LARGE = content_of(6 * CHUNK)
at = Path


async def reload(rig: Rig, **watch: Any) -> None:
    """Put another configuration into force, as SIGHUP does: in place at once, then by new stages."""
    rig._watches = [each | watch for each in rig._watches]
    config = rig.config()
    rig.operator.reload(config)
    old, task = rig.application, rig._task
    assert task is not None
    rig._stop.set()
    await task
    rig._stop = asyncio.Event()
    rig._application = Application(config, rig.store, rig.clock, rig.bus, rig.environ, leases=old.leases)
    rig.operator.running = rig._application
    rig._task = asyncio.create_task(rig.application.run(rig._stop, discover=True))


async def test_forgetting_a_large_upload_that_made_way_leaves_the_workers_free(tmp_path: Path) -> None:
    """It had made way for a small file and is forgotten meanwhile: the next file is sent."""
    async with Rig(tmp_path, upload={"workers": 1}) as rig:
        first = rig.fault("upload", "stall")
        await rig.start()
        large = await rig.drop("large.mp4", LARGE)
        await asyncio.wait_for(first.standing.wait(), 10)
        second = rig.fault("upload", "stall", skip=0)
        small = await rig.drop("small.mp4", b"small")
        await rig.event(events.FileQueued, path=small)
        first.release()
        await asyncio.wait_for(second.standing.wait(), 10)
        assert rig.state_of(large) is State.SENDING  # it stands aside: the one worker is busy with the small file
        at(large).unlink()
        assert await rig.operator.forget(large)
        second.release()
        await rig.finished(small, await rig.drop("next.mp4", b"next"))
        assert rig.store.upload_at(large) is None


async def test_an_upload_that_is_forgotten_while_the_server_is_asked_is_not_brought_back(tmp_path: Path) -> None:
    """The answer "ready" comes after the command: nothing is finished, and the file stays."""
    async with Rig(tmp_path, watch={"after_upload": "delete"}) as rig:
        poll = rig.fault("details", "stall")
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        await asyncio.wait_for(poll.standing.wait(), 10)
        assert await rig.operator.forget(path)
        assert rig.store.upload_at(path) is None
        poll.release()
        await rig.stop()
        assert at(path).exists()
        assert rig.seen(events.UploadFinished, path=path) == []


@pytest.mark.parametrize("state", [State.SENDING, State.VERIFYING], ids=["half sent", "sent"])
async def test_turning_disposal_off_applies_to_files_in_progress(tmp_path: Path, state: State) -> None:
    """``after_upload`` goes from "delete" to "keep" while they are queued, half sent or processed."""
    call: CallName = "upload" if state is State.SENDING else "details"
    async with Rig(tmp_path, upload={"workers": 1, "drain": "0s"}, watch={"after_upload": "delete"}) as rig:
        stall = rig.fault(call, "stall", skip=1 if call == "upload" else 0)
        await rig.start()
        paths = [await rig.drop("a.mp4", content_of(2 * CHUNK))]
        await asyncio.wait_for(stall.standing.wait(), 10)
        paths.append(await rig.drop("b.mp4", b"b"))
        await rig.event(events.FileQueued, path=paths[1])
        await reload(rig, after_upload="keep")
        stall.release()
        await rig.finished(*paths)
        assert all(at(path).exists() for path in paths)
        assert {event.file for event in rig.seen(events.UploadFinished)} == {"kept"}


async def test_a_restart_with_another_disposal_applies_to_files_in_progress(tmp_path: Path) -> None:
    """The saved disposal of an upload does not override the configuration."""
    async with Rig(tmp_path, watch={"after_upload": "delete"}) as rig:
        rig.fault("details", "stall")
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        await rig.event(events.UploadSent, path=path)
        await rig.kill()
        rig.simulator.faults.clear()
        rig._watches = [each | {"after_upload": "keep"} for each in rig._watches]
        await rig.start()
        await rig.finished(path)
        assert at(path).exists()


async def test_queued_uploads_follow_a_new_configuration(tmp_path: Path) -> None:
    """The record of a queued file is named by the rule that is in force now."""
    async with Rig(tmp_path, upload={"workers": 1, "drain": "0s"}) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        begun = await rig.drop("a.mp4", content_of(CHUNK))
        await asyncio.wait_for(stall.standing.wait(), 10)
        queued = await rig.drop("b.mp4", b"b")
        await rig.event(events.FileQueued, path=queued)
        await reload(rig, record={"name": "ward 7: {stem}", "template": {"1": "seven"}})
        stall.release()
        await rig.finished(begun, queued)
        assert [(record.name, record.template) for record in rig.records] == [("a", {}), ("ward 7: b", {"1": "seven"})]


@pytest.mark.parametrize("hangs", ["delete", "move"])
async def test_a_disposal_that_hangs_is_not_begun_again_by_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    """One party at a time disposes of a file, however often it is asked for."""
    at_once, most, gate = 0, 0, asyncio.Event()
    real = getattr(MountedShare, hangs)

    async def slowly(self: MountedShare, *args: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            while not gate.is_set():  # as a thread in a share that hangs: nothing can call it back
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue
            return await real(self, *args)
        finally:
            at_once -= 1

    monkeypatch.setattr(MountedShare, hangs, slowly)
    monkeypatch.setattr("uploader.stages.lease.STAGE_END_TIMEOUT", 0.01)
    watch = {"after_upload": hangs, "move_to": str(tmp_path / "done")}
    async with Rig(tmp_path, watch=watch) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        await rig.until(lambda: at_once)
        assert await rig.retry(path)
        await reload(rig, settle="60ms")
        assert await rig.retry(path)
        gate.set()
        await rig.finished(path)
        assert most == 1
        assert rig.store.ledger.count == 1


@pytest.mark.parametrize(("action", "mark"), [("move", '"moving_to"'), ("delete", '"finishing"')])
async def test_a_file_is_moved_or_deleted_only_after_what_a_reload_left_unsaved_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, mark: str
) -> None:
    """The reload cancels a save that the disk refuses: the target, or that the video is ready, is in memory alone."""
    async with Rig(tmp_path, watch={"after_upload": action, "move_to": str(tmp_path / "done")}) as rig:
        assert await saved_when_called(rig, monkeypatch, MountedShare, action, mark) == [True]


async def test_a_chunk_is_sent_only_after_the_ids_that_a_reload_left_unsaved_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reload cancels the save of the ids, which the disk refuses."""
    async with Rig(tmp_path) as rig:
        assert await saved_when_called(rig, monkeypatch, Valt, "send_chunk", '"sending"') == [True]


async def saved_when_called(rig: Rig, patch: pytest.MonkeyPatch, port: type, method: str, mark: str) -> list[bool]:
    """Finish a file, and reload while the disk refuses a state with *mark*. Return if it was saved at each call."""
    call, replace_file = getattr(port, method), MortalDisk.replace
    full = True
    saved: list[bool] = []

    def refuse(self: MortalDisk, name: str, *content: Any) -> None:
        if full and mark.encode() in b"".join(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(self, name, *content)

    async def look(self: object, *args: Any, **more: Any) -> Any:
        saved.append(mark in (rig.folder / "state" / "state.json").read_text())
        return await call(self, *args, **more)

    patch.setattr("uploader.store.store.SAVE_RETRY_INTERVAL", 0.2)
    patch.setattr("uploader.app.application.FINAL_SAVE_TIMEOUT", 0.1)
    patch.setattr(port, method, look)
    patch.setattr(MortalDisk, "replace", refuse)
    await rig.start()
    path = await rig.drop("a.mp4", b"a")
    await rig.event(events.StateNotSaved)
    await reload(rig, settle="60ms")
    await rig.until(lambda: saved or len(rig.seen(events.StateNotSaved)) > 1)
    full = False
    await rig.finished(path)
    return saved


async def test_commands_know_a_file_by_the_name_that_it_has_now(tmp_path: Path) -> None:
    """Renamed while it waits for its second chunk, it is found by its new name and by its old one."""
    async with Rig(tmp_path, upload={"chunk_size": CHUNK}) as rig:
        rig.fault("upload", "status", status=400, skip=1, times=100)
        await rig.start()
        path = await rig.drop("a.mp4", content_of(2 * CHUNK))
        await rig.event(events.RecordCreated, path=path)
        await rig.until(lambda: rig.store.uploads[path].state is State.PARKED)
        new = str(rig.watch / "new name.mp4")
        at(path).rename(new)
        await rig.scan()
        await rig.event(events.FileRenamed, path=new)
        for name in (new, path):
            parked = len(rig.seen(events.UploadParked))
            assert await rig.retry(name)
            await rig.until(lambda parked=parked: len(rig.seen(events.UploadParked)) > parked)  # type: ignore[misc]
        assert await rig.operator.forget(new)
        assert not rig.store.uploads


async def test_forget_first_finds_out_whether_a_record_in_doubt_exists(tmp_path: Path) -> None:
    """The answer to create-upload was lost: the record is deleted before the upload is dropped."""
    async with Rig(tmp_path, server={"doubt_settle": "300ms"}) as rig:
        rig.fault("create", "lose-answer")
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        await rig.event(events.UploadInDoubt, path=path)
        assert await rig.operator.forget(path)
        at(path).unlink()
        await rig.until(lambda: rig.store.upload_at(path) is None, "the end of the doubt")
        await rig.swept()
        assert rig.records == []


async def test_forgetting_a_landed_upload_keeps_its_record(tmp_path: Path) -> None:
    """Every byte is there: the record is neither deleted nor reported as one that will be."""
    async with Rig(tmp_path, Settings(processing=60.0)) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        await rig.event(events.UploadSent, path=path)
        at(path).unlink()
        assert await rig.operator.forget(path)
        assert rig.seen(events.UploadForgotten) == [events.UploadForgotten(path, None)]
        assert not rig.store.orphans
        assert len(rig.records) == 1


async def test_forget_drops_an_upload_in_every_state(tmp_path: Path) -> None:
    """Also with the daemon stopped: only one whose record may exist stays until that is known."""
    states = [state for state in State if state is not State.DONE]
    async with Rig(tmp_path) as rig:
        rig.build()
        for number, state in enumerate(states):
            path = f"{rig.watch}/{number}.mp4"
            rig.store.put(an_upload(state, path=path, root=str(rig.watch)))
            assert await rig.operator.forget(path)
            assert (rig.store.upload_at(path) is None) is (state is not State.CREATING), state
            assert not await rig.operator.forget(path) or state is State.CREATING


async def test_a_queued_file_that_is_no_longer_taken_is_dropped_by_a_reload(tmp_path: Path) -> None:
    """It is excluded now: no record is made for it, and it is said. What was begun goes on."""
    async with Rig(tmp_path, upload={"workers": 1, "drain": "0s"}) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        begun = await rig.drop("a.mp4", content_of(CHUNK))
        await asyncio.wait_for(stall.standing.wait(), 10)
        queued = await rig.drop("b.mp4", b"b")
        await rig.event(events.FileQueued, path=queued)
        await reload(rig, exclude=["b*"])
        stall.release()
        ignored = await rig.event(events.FileIgnored, path=queued)
        assert "no [[watch]] takes it any more" in ignored.reason
        await rig.finished(begun)
        assert rig.store.upload_at(queued) is None
        assert [record.name for record in rig.records] == ["a"]


async def test_a_retry_of_an_upload_that_is_being_worked_on_tries_once_more_at_once(tmp_path: Path) -> None:
    """The work is not disturbed; when it fails, its pause of minutes is not waited for."""
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall")
        rig.fault("upload", "status", status=500, body="{}")
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        await asyncio.wait_for(stall.standing.wait(), 10)
        assert await rig.retry(path)
        assert rig.state_of(path) is not None
        stall.release()
        await rig.finished(path)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_accepting_an_archive_wakes_the_uploads_that_wait_for_it(tmp_path: Path, *, running: bool) -> None:
    """One that was due in an hour goes on at once; one that waits for something else does not."""
    done = tmp_path / "done"
    async with Rig(tmp_path, watch={"after_upload": "move", "move_to": str(done)}) as rig:
        later = rig.clock.now() + 3600
        waits = {
            "archive.mp4": LastError("another file system", ActionBy.UPLOADER, not_ready=9, next_try=later),
            "other.mp4": LastError("no", ActionBy.UPLOADER, 3, next_try=later),
        }
        uploads = []
        for number, (name, last_error) in enumerate(waits.items()):
            path = rig.write(name, name.encode())
            upload = an_upload(State.FINISHING, path=path, root=str(rig.watch), size=len(name))
            upload = replace(upload, identity=await identify(path), digest=sha256(name.encode()), move_to=str(done))
            uploads.append(replace(upload, ids=RecordIds(f"record-{number}", "video"), last_error=last_error))
        rig.prepare(*uploads)
        if running:
            await rig.start()
        else:
            rig.build()
            rig.operator.running = None
        rig.store.put_mount_identity(MountIdentity(str(done), "nfs4", "nas:/archive", "/"))
        assert await rig.retry(str(done))
        if not running:
            await rig.restart()
        await rig.finished(f"{rig.watch}/archive.mp4")
        assert [file.name for file in done.iterdir()] == ["archive.mp4"]
        assert rig.state_of(f"{rig.watch}/other.mp4") is State.FINISHING


async def test_uploads_whose_files_are_gone_share_one_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty recordings are deleted while the server processes them: their folder is walked through for all of them."""
    walks, real = 0, MountedShare.walk

    async with Rig(tmp_path, Settings(processing=0.2), watch={"after_upload": "delete"}) as rig:

        async def walk(self: MountedShare, walk_filter: WalkFilter) -> AsyncIterator[WalkBatch]:
            nonlocal walks
            walks += 1
            await rig.until(lambda: len(rig.seen(events.UploadProven)) == len(paths))  # the first walk takes that long
            async for batch in real(self, walk_filter):
                yield batch

        await rig.start()
        paths = [rig.write(f"{number}.mp4", b"%d" % number) for number in range(30)]
        await rig.scan()
        for path in paths:
            await rig.event(events.UploadSent, path=path)
            at(path).unlink(missing_ok=True)
        monkeypatch.setattr(MountedShare, "walk", walk)
        await rig.finished(*paths)
        assert 1 <= walks <= 3


async def test_a_retry_forgets_the_limit_of_a_chunk(tmp_path: Path) -> None:
    """Larger chunks are tried again. That chunks spoil videos here is not forgotten."""
    async with Rig(tmp_path) as rig:
        until = rig.clock.now() + 1e6
        learnt = {"chunk_limit": 70_000, "chunk_limit_until": until, "whole_only_until": until, "resend_is_safe": True}
        rig.build()
        rig.store.learn(**learnt)
        await rig.operator.try_server_again()
        kept = rig.store.capabilities
        assert (kept.chunk_limit, kept.chunk_limit_until) == (None, None)
        assert (kept.whole_only_until, kept.resend_is_safe) == (until, True)

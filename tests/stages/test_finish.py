"""The end of an upload: the ledger line, then the disposal of the file, if it is still the one that was sent."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, at, content_of, sha256

from uploader.app import status
from uploader.domain import errors, events
from uploader.domain.model import ServerCapabilities, State
from uploader.files import dispose
from uploader.stages.finish import FINISH_CONCURRENCY, Finish
from uploader.testing.simulator import Settings

DATA = content_of(CHUNK + 5)


def moving(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """A watched folder whose finished files are moved."""
    return {"after_upload": "move", "move_to": str(tmp_path / "done")} | more


async def test_by_default_the_file_is_kept(tmp_path: Path) -> None:
    """And it is not sent again."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        assert (await rig.event(events.UploadFinished, path=path)).file == "kept"
        await rig.scan()
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert len(rig.records) == 2
        assert at(path).read_bytes() == DATA
        assert len(rig.seen(events.FileFound, path=path)) == 1  # and no later scan looks at it again


async def test_delete_removes_the_file_after_ready_and_ledger_line(tmp_path: Path) -> None:
    """Not before."""
    async with Rig(tmp_path, watch={"after_upload": "delete"}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        assert (await rig.event(events.UploadFinished, path=path)).file == "deleted"
        assert not at(path).exists()
        assert rig.store.ledger.of(path)[0].sha256 == sha256(DATA)


async def test_a_file_is_moved_with_its_folders(tmp_path: Path) -> None:
    """To the same relative path below ``move_to``; a taken name gets a number, none is overwritten."""
    async with Rig(tmp_path, watch=moving(tmp_path)) as rig:
        await rig.start()
        (tmp_path / "done" / "day").mkdir(parents=True)
        (tmp_path / "done" / "day" / "a.mp4").write_bytes(b"was here before")
        for number, data in enumerate((b"first", b"second"), start=1):
            path = await rig.drop("day/a.mp4", data)
            done = await rig.event(events.UploadFinished, path=path, count=number)
            assert (done.file, done.moved_to) == ("moved", str(tmp_path / "done" / "day" / f"a ({number}).mp4"))
        assert not at(path).exists()
        moved = {target.name: target.read_bytes() for target in (tmp_path / "done" / "day").iterdir()}
        assert moved == {"a.mp4": b"was here before", "a (1).mp4": b"first", "a (2).mp4": b"second"}


async def test_moved_file_inside_the_watched_folder_is_not_sent_again(tmp_path: Path) -> None:
    """``move_to`` may lie in the watched folder; files there are taken by no folder."""
    done = tmp_path / "watch" / "done"
    watch = {"after_upload": "move", "move_to": str(done), "mode": "events", "rescan": "1s"}
    async with Rig(tmp_path, watch=watch) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        await rig.scan()
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert len(rig.records) == 2
        assert {each.name for each in done.iterdir()} == {"a.mp4", "b.mp4"}


@pytest.mark.parametrize("after", ["delete", "move"])
async def test_file_that_changed_after_ready_is_not_touched(
    tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changed just before its removal: it stays, and is sent as a new one."""
    finish = Finish.finish
    swapped = False

    async def meanwhile(self: Finish, upload: Any) -> None:
        nonlocal swapped
        if not swapped:
            swapped = True
            at(upload.path).write_bytes(b"new content")
        await finish(self, upload)

    monkeypatch.setattr(Finish, "finish", meanwhile)
    async with Rig(tmp_path, watch=moving(tmp_path, after_upload=after)) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadFinished, path=path, file="changed")
        await rig.event(events.UploadFinished, path=path, count=2)
        assert [record.sha256 for record in rig.records] == [sha256(DATA), sha256(b"new content")]
        assert rig.store.ledger.count == 2


async def test_an_upload_whose_file_is_gone_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program has removed it."""
    finish = Finish.finish

    async def meanwhile(self: Finish, upload: Any) -> None:
        at(upload.path).unlink(missing_ok=True)  # it is called again when the folder was searched
        await finish(self, upload)

    monkeypatch.setattr(Finish, "finish", meanwhile)
    async with Rig(tmp_path, watch={"after_upload": "delete"}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        assert (await rig.event(events.UploadFinished, path=path)).file == "gone"


@pytest.mark.parametrize("name", ["delete", "move"])
async def test_a_disposal_that_fails_is_retried_and_the_file_not_sent_again(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also across a restart; the ledger line is written once."""
    act: Callable[..., bool] = getattr(dispose, name)
    refusals = 3

    def refuse(*arguments: Any) -> bool:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise errors.ShareNotReady(f"a.mp4 cannot be {name}d: Read-only file system")
        return act(*arguments)

    monkeypatch.setattr(dispose, name, refuse)
    async with Rig(tmp_path, watch=moving(tmp_path, after_upload=name)) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        waits = await rig.event(events.UploadRetryScheduled, path=path)
        assert "Read-only file system" in waits.reason
        assert rig.on_disk(path).state is State.FINISHING
        await rig.restart()
        await rig.scan()
        await rig.finished(path)
        assert refusals == 0
        assert not at(path).exists()
        assert rig.store.ledger.count == 1
        assert rig.record.requests == 2
        assert rig.seen(events.UploadParked) == []


async def test_a_disposal_that_fails_delays_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are finished."""

    def refuse(root: int, relpath: str, *more: Any) -> bool:
        if relpath == "stuck.mp4":
            raise errors.ShareNotReady("stuck.mp4 cannot be deleted: Device or resource busy")
        return delete(root, relpath, *more)

    delete = dispose.delete
    monkeypatch.setattr(dispose, "delete", refuse)
    async with Rig(tmp_path, watch={"after_upload": "delete"}) as rig:
        await rig.start()
        stuck = await rig.drop("stuck.mp4", b"stuck")
        await rig.event(events.UploadRetryScheduled, path=stuck)
        await rig.finished(await rig.drop("a.mp4", b"a"))
        assert rig.state_of(stuck) is State.FINISHING


async def test_an_upload_that_an_earlier_build_left_here_is_proven_first(tmp_path: Path) -> None:
    """It touched files on the server's word alone."""
    async with Rig(tmp_path, watch={"after_upload": "delete"}) as rig:
        await rig.start()
        closed = rig.fault("link", "status", status=503, times=None)
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.VideoReady, path=path)
        await rig.kill()
        before = rig.on_disk(path)
        sent = replace(before, state=State.FINISHING, ready_at=rig.clock.now(), last_error=None)
        rig.prepare(sent)
        await rig.start()
        await rig.until(lambda: rig.state_of(path) is State.PROVING)
        assert at(path).exists()
        rig.simulator.faults.remove(closed)
        await rig.finished(path)
        assert rig.store.ledger.count == 1
        assert not at(path).exists()


async def test_a_file_that_was_moved_before_a_crash_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The move was not saved; the file is found at its target and not sent again."""
    async with Rig(tmp_path, watch=moving(tmp_path)) as rig:
        move = dispose.move

        def die(*arguments: Any) -> str | None:
            done = move(*arguments)
            assert rig._disk is not None
            rig._disk.dead = True
            return done

        with monkeypatch.context() as patch:
            patch.setattr(dispose, "move", die)
            await rig.start()
            path = await rig.drop("a.mp4", DATA)
            await rig.finished(path)
            await rig.kill()
        assert rig.on_disk(path).state is State.FINISHING
        await rig.start()
        again = await rig.event(events.UploadFinished, path=path, count=2)
        assert (again.file, again.moved_to) == ("moved", str(tmp_path / "done" / "a.mp4"))
        assert rig.store.ledger.count == 1
        assert len(rig.records) == 1
        assert [each.name for each in (tmp_path / "done").iterdir()] == ["a.mp4"]


async def test_an_archive_on_another_file_system_waits_for_the_operator(tmp_path: Path) -> None:
    """Its file system is saved at its first use; until ``retry`` the files stay."""
    done = str(tmp_path / "done")
    async with Rig(tmp_path, watch=moving(tmp_path)) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", DATA))
        (home,) = [home for home in rig.saved().mount_identities if home.root == done]
        await rig.kill()
        await rig.start()
        rig.store.put_mount_identity(replace(home, fstype="nfs4", source="nas:/archive"))
        path = await rig.drop("b.mp4", b"b")
        waits = await rig.event(events.UploadRetryScheduled, path=path)
        assert f"{done}: another file system is there than before" in waits.reason
        assert f"valt-uploader retry {done}; before: nfs4 nas:/archive" in waits.reason
        assert at(path).exists()
        assert await rig.retry(done)
        await rig.retry(path)
        await rig.finished(path)
        assert sorted(each.name for each in (tmp_path / "done").iterdir()) == ["a.mp4", "b.mp4"]
        assert home in rig.saved().mount_identities


async def test_delete_removes_one_of_two_hard_links(tmp_path: Path) -> None:
    """Only the watched name of the file is removed."""
    async with Rig(tmp_path, Settings(processing=0.0), watch={"after_upload": "delete"}) as rig:
        (tmp_path / "other.mp4").write_bytes(DATA)
        os.link(tmp_path / "other.mp4", rig.watch / "a.mp4")
        await rig.start()
        await rig.finished(str(rig.watch / "a.mp4"))
        assert (tmp_path / "other.mp4").read_bytes() == DATA


async def test_a_disposal_that_fails_is_shown_in_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State, reason, and the time of the next try."""

    def refuse(*_: Any) -> bool:
        raise errors.ShareNotReady("a.mp4 cannot be deleted: Read-only file system")

    monkeypatch.setattr(dispose, "delete", refuse)
    async with Rig(tmp_path, watch={"after_upload": "delete"}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadRetryScheduled, path=path)
        await rig.until(lambda: rig.store.uploads[path].last_error is not None)
        known = status.StatusSnapshot(
            rig.store.uploads.values(), (), ServerCapabilities(), rig.store.ledger.count, process=1
        )
        text = "\n".join(status.status_lines(status.status_document(rig.config(), known, rig.clock.now())))
        assert f"{path}\n  finishing, " in text
        assert "why:  a.mp4 cannot be deleted: Read-only file system" in text
        assert "next: " in text
        assert "1 finishing; 1 done" in text


async def test_a_file_is_moved_to_another_file_system(tmp_path: Path) -> None:
    """It is copied, compared with what was sent, and only then removed."""
    if at("/dev/shm").stat().st_dev == at(str(tmp_path)).stat().st_dev:
        pytest.skip("this machine has no second file system to move to")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        async with Rig(tmp_path, watch=moving(tmp_path, move_to=name)) as rig:
            await rig.start()
            path = await rig.drop("day/a.mp4", DATA)
            done = await rig.event(events.UploadFinished, path=path)
            assert (done.file, done.moved_to) == ("moved", f"{name}/day/a.mp4")
            target = at(f"{name}/day/a.mp4")
            assert target.read_bytes() == DATA
            assert [each.name for each in target.parent.iterdir()] == ["a.mp4"]
        assert not at(path).exists()


async def test_a_disposal_that_hangs_delays_no_other_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the other share are finished, and the application ends in time."""
    gate, hangs, real = threading.Event(), threading.Event(), dispose.delete

    def hang(root: int, relpath: str, *more: Any) -> bool:
        if relpath.startswith("stuck"):
            hangs.set()
            gate.wait()
        return real(root, relpath, *more)

    monkeypatch.setattr(dispose, "delete", hang)
    other = tmp_path / "other"
    other.mkdir()
    async with Rig(tmp_path, watch={"after_upload": "delete"}, watches=[{}, {"path": str(other)}]) as rig:
        await rig.start()
        stuck = [await rig.drop(f"stuck {number}.mp4", b"%d" % number) for number in range(FINISH_CONCURRENCY + 1)]
        await rig.until(hangs.is_set)
        await rig.finished(*[await rig.drop(f"{number}.mp4", b"x%d" % number, folder=other) for number in range(4)])
        assert all(rig.state_of(path) is State.FINISHING for path in stuck)
        await rig.stop()
        gate.set()
        await rig.start()
        await rig.event(events.UploadFinished, count=4 + len(stuck))
        assert len(rig.records) == 4 + len(stuck)
        assert not any(at(path).exists() for path in stuck)

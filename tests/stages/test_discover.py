"""Finding files: events are hints and scans decide; folders that go away and come back; excluded names."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, at
from shares import identify
from test_watching import listeners

from uploader.domain import events, selection
from uploader.domain.model import ActionBy, LastError, RecordSpec, State, Upload
from uploader.files import MountedShare
from uploader.files.walk import Walk
from uploader.stages import listener, watched_folder

EVENTS = {"mode": "events"}


@asynccontextmanager
async def watching(tmp_path: Path, **rig: Any) -> AsyncIterator[Rig]:
    """Run an application with events, whose watcher listens."""
    options: dict[str, Any] = {"watch": EVENTS} | rig
    async with Rig(tmp_path, **options) as table:
        await table.start()
        # A watcher does not report that it listens, so its first event proves it.
        probe = table.watch / ".probe"
        await table.until(lambda: _listens(table, probe), "the watcher")
        yield table


def _listens(rig: Rig, probe: Path, *folders: str) -> bool:
    """Touch an excluded file; True when its event has arrived for each of these folders, or for any."""
    probe.write_bytes(os.urandom(4))
    return bool(_hinted) and set(folders) <= set(_listening)


async def seen_again(rig: Rig) -> str:
    """Scan again and wait until one more file, found after all others, is finished. Returns its path.

    A file that the scan wrongly takes for new has been found and has settled by then.
    """
    await rig.scan()
    last = await rig.drop("last.mp4", b"last")
    await rig.finished(last)
    return last


_hinted: list[str] = []
_listening: list[str] = []  # the watched folders to which something was reported


@pytest.fixture(autouse=True)
def _hear_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note every path that the source of events names."""
    _hinted.clear()
    _listening.clear()
    look = watched_folder.WatchedFolder._look

    async def hear(self: watched_folder.WatchedFolder, paths: Any) -> None:
        _hinted.extend(paths)
        _listening.append(self.stats.folder)
        await look(self, paths)

    monkeypatch.setattr(watched_folder.WatchedFolder, "_look", hear)


async def test_events_find_files_before_the_next_scan(tmp_path: Path) -> None:
    """A new file, one in a new folder, and one that is renamed into place."""
    async with watching(tmp_path) as rig:
        path = rig.write("a.mp4", b"a")
        await rig.event(events.FileFound, path=path)
        (rig.watch / "deep" / "er").mkdir(parents=True)
        deep = rig.write("deep/er/b.mp4", b"b")
        await rig.finished(path, deep)


@pytest.mark.parametrize("told", ["a.mp4", "new"])
async def test_a_recording_found_by_an_event_saves_the_mount_identity(tmp_path: Path, told: str) -> None:
    """It may be deleted before the next scan, and another share mounted there later is not taken for this one."""
    async with Rig(tmp_path, watch={"mode": "poll", "rescan": "1h"}) as rig:
        await rig.start()
        await rig.event(events.FolderWatched)
        await rig.scan()
        assert rig.saved().mount_identities == ()
        (rig.watch / "new").mkdir()
        path = rig.write("a.mp4" if told == "a.mp4" else "new/a.mp4", b"a")
        known: list[list[str]] = []  # the folders on the disk, at each recording that is seen

        def note(event: events.Event) -> None:
            if isinstance(event, events.FileFound):
                known.append([home.root for home in rig.saved().mount_identities])

        rig.bus.listen(note)
        (folder,) = rig.application.discover._folders
        await folder._look([str(rig.watch / told)])
        await rig.finished(path)
        assert known == [[str(rig.watch)]]


async def test_the_files_of_a_folder_that_is_moved_in_are_found(tmp_path: Path) -> None:
    """The kernel reports only the folder."""
    async with watching(tmp_path) as rig:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "a.mp4").write_bytes(b"a")
        outside.rename(rig.watch / "inside")
        await rig.finished(str(rig.watch / "inside" / "a.mp4"))


async def test_the_next_scan_finds_a_file_without_an_event(tmp_path: Path) -> None:
    """When it is due."""
    async with Rig(tmp_path, watch={"mode": "poll", "rescan": "1s"}) as rig:
        await rig.start()
        await rig.event(events.FolderWatched, mode='scans alone (mode = "poll")')
        await rig.finished(rig.write("a.mp4", b"a"))


async def test_a_watched_folder_that_is_removed_and_made_again_is_watched_again(tmp_path: Path) -> None:
    """Its removal is reported once and means no deletion; made again, it is reported, and events arrive."""
    async with watching(tmp_path, watch=EVENTS | {"rescan": "1s"}) as rig:
        shutil.rmtree(rig.watch)
        missing = await rig.event(events.FolderOffline)
        assert missing.reason == f"{rig.watch}: is missing"
        await rig.application.discover.scan_all()
        await rig.application.discover.scan_all()
        rig.watch.mkdir()
        first = rig.write("a.mp4", b"a")
        await rig.event(events.FolderBack)
        await rig.finished(first)
        assert len(rig.seen(events.FolderOffline)) == 1
        assert len(rig.seen(events.FolderBack)) == 1
        _hinted.clear()
        await rig.until(lambda: _listens(rig, rig.watch / ".probe"), "events from the new folder")


async def test_a_watched_folder_that_is_replaced_between_scans_is_watched_again(tmp_path: Path) -> None:
    """With inotify alone, the events of the old one would still be read."""
    async with watching(tmp_path) as rig:
        rig.watch.rename(tmp_path / "old")
        rig.watch.mkdir()
        _hinted.clear()
        await rig.until(lambda: _listens(rig, rig.watch / ".probe"), "events from the new folder")
        await rig.finished(rig.write("a.mp4", b"a"))


async def test_an_unexpected_error_in_one_folder_ends_neither_the_others_nor_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged with its folder, which is scanned again at its time."""
    walk, faulty = MountedShare.walk, [str(tmp_path / "bad")]

    def stumble(self: MountedShare, order: Any) -> Any:
        if self.root in faulty:
            raise ZeroDivisionError
        return walk(self, order)

    monkeypatch.setattr(MountedShare, "walk", stumble)
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
    watches = [{"path": str(tmp_path / name), "mode": "poll", "rescan": "1s"} for name in ("bad", "good")]
    async with Rig(tmp_path, watches=watches) as rig:
        await rig.start()
        said = await rig.event(events.FolderUnreadable, folder=faulty[0])
        assert "ZeroDivisionError" in said.reason
        lost = rig.write("a.mp4", b"a", folder=tmp_path / "bad")
        await rig.finished(rig.write("b.mp4", b"b", folder=tmp_path / "good"))
        await rig.scan()  # as ``once`` does
        (bad, good) = rig.application.discover.folder_stats()
        assert ("ZeroDivisionError" in bad.unreadable, good.unreadable) == (True, "")
        assert len(rig.seen(events.FolderUnreadable)) == 1
        faulty.clear()
        await rig.finished(lost)
        assert bad.unreadable == ""


async def test_a_folder_that_is_missing_at_the_start_is_waited_for(tmp_path: Path) -> None:
    """It is reported once; when it exists, its files are found."""
    later = tmp_path / "later"
    async with Rig(tmp_path, watches=[EVENTS, EVENTS | {"path": str(later), "rescan": "1s"}]) as rig:
        await rig.start()
        assert (await rig.event(events.FolderOffline)).folder == str(later)
        await rig.finished(await rig.drop("a.mp4", b"a"))
        later.mkdir()
        path = later / "b.mp4"
        path.write_bytes(b"b")
        await rig.finished(str(path))
        assert [event.folder for event in rig.seen(events.FolderBack)] == [str(later)]
        assert len(rig.seen(events.FolderOffline)) == 1


async def test_an_empty_looking_share_keeps_its_uploads(tmp_path: Path) -> None:
    """When the share is back, the upload goes on, on its record."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", os.urandom(300_000))
        await rig.event(events.ChunkAcknowledged)
        await rig.stop()
        rig.watch.rename(tmp_path / "unmounted")
        await rig.start()
        await rig.event(events.UploadRetryScheduled, path=path)
        rig.watch.mkdir()  # the mount point alone
        await rig.scan()
        rig.watch.rmdir()
        await rig.scan()
        (tmp_path / "unmounted").rename(rig.watch)
        await rig.scan()
        await rig.finished(path)
        assert len(rig.records) == 1


async def test_a_share_that_is_back_wakes_the_uploads_that_wait_for_it(tmp_path: Path) -> None:
    """One that was due in an hour goes on at once; one that waits for something else does not."""
    async with Rig(tmp_path, watch={"rescan": "1s"}) as rig:
        paths = [rig.write(name, name.encode()) for name in ("share.mp4", "other.mp4")]
        later = rig.clock.now() + 3600
        troubles = [
            LastError("away", ActionBy.UPLOADER, not_ready=9, next_try=later),
            LastError("no", ActionBy.UPLOADER, 3, next_try=later),
        ]
        uploads = [
            Upload(path, str(rig.watch), await identify(path), RecordSpec(path[-9:-4]), CHUNK, last_error=last_error)
            for path, last_error in zip(paths, troubles, strict=True)
        ]
        rig.prepare(*uploads)
        rig.watch.rename(tmp_path / "away")
        await rig.start()
        await rig.event(events.FolderOffline)
        (tmp_path / "away").rename(rig.watch)
        await rig.event(events.FolderBack)
        await rig.finished(paths[0])
        await rig.finished(await rig.drop("new.mp4", b"new"))
        assert rig.state_of(paths[1]) is State.QUEUED


async def test_special_files_are_ignored_with_one_warning(tmp_path: Path) -> None:
    """FIFOs and links are named once and never opened or followed."""
    async with Rig(tmp_path) as rig:
        secret = tmp_path / "secret.mp4"
        secret.write_bytes(b"secret")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "x.mp4").write_bytes(b"x")
        os.mkfifo(rig.watch / "pipe.mp4")
        (rig.watch / "link.mp4").symlink_to(secret)
        (rig.watch / "folder.mp4").symlink_to(tmp_path / "elsewhere")
        (rig.watch / "folder").symlink_to(tmp_path / "elsewhere")
        await rig.start()
        await rig.finished(await rig.drop("good.mp4", b"good"))
        await rig.scan()
        await rig.scan()
        ignored = {Path(event.path).name: event.reason for event in rig.seen(events.FileIgnored)}
        assert set(ignored) == {"pipe.mp4", "link.mp4", "folder.mp4"}
        assert ignored["pipe.mp4"] == "it is a FIFO, not a regular file"
        assert ignored["link.mp4"] == "it is a link, not a regular file"
        assert len(rig.seen(events.FileIgnored)) == 3
        assert [record.name for record in rig.records] == ["good"]


async def test_an_ignored_name_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    """After a complete scan without it; when it comes again it is named again."""
    async with Rig(tmp_path) as rig:
        pipe, stays = rig.watch / "pipe.mp4", rig.watch / "stays.mp4"
        os.mkfifo(stays)
        os.mkfifo(pipe)
        await rig.start()
        await rig.event(events.FileIgnored, count=2)
        (folder,) = rig.application.discover._folders
        pipe.unlink()
        await rig.scan()
        assert folder._ignored == {str(stays)}
        os.mkfifo(pipe)
        await rig.scan()
        assert [event.path for event in rig.seen(events.FileIgnored)].count(str(pipe)) == 2
        assert [event.path for event in rig.seen(events.FileIgnored)].count(str(stays)) == 1


async def test_ignored_names_are_kept_when_a_scan_was_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is unreadable for a moment does not cause the warnings again."""
    async with Rig(tmp_path) as rig:
        (rig.watch / "room").mkdir()
        pipe = rig.watch / "room" / "pipe.mp4"
        os.mkfifo(pipe)
        await rig.start()
        await rig.event(events.FileIgnored)
        (folder,) = rig.application.discover._folders
        enter = Walk._enter

        def refuse(self: Walk, parent: int, name: str, prefix: str) -> None:
            if name == "room":
                raise PermissionError(13, "Permission denied")
            enter(self, parent, name, prefix)

        with monkeypatch.context() as patch:
            patch.setattr(Walk, "_enter", refuse)
            await rig.scan()
        assert folder.stats.unreadable
        assert folder._ignored == {str(pipe)}
        await rig.scan()
        assert len(rig.seen(events.FileIgnored)) == 1


async def test_a_name_that_is_not_utf8_is_found_by_the_scan(tmp_path: Path) -> None:
    """It ends the source of events, which is started again."""
    async with watching(tmp_path) as rig:
        path = os.fsdecode(os.fsencode(rig.watch) + b"/caf\xe9.mp4")
        at(path).write_bytes(b"coffee")
        await rig.finished(path)
        assert rig.record.name == "caf\\xe9"
        await rig.finished(rig.write("after.mp4", b"after"))


async def test_a_source_of_events_that_fails_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises, it is reported, and a scan follows."""
    begun = []

    async def broken(*_: object, **__: object) -> AsyncIterator[Any]:
        begun.append(1)
        for problem in ("Unable to decode path",):
            raise RuntimeError(f"error in underlying watcher: {problem}")
        yield set()

    monkeypatch.setattr(listener, "awatch", broken)
    async with Rig(tmp_path, watch=EVENTS) as rig:
        await rig.start()
        await rig.event(events.WatcherRestarted, count=2)
        await rig.finished(rig.write("a.mp4", b"a"))
        assert "Unable to decode" in rig.seen(events.WatcherRestarted)[0].reason
        assert len(begun) >= 2


async def test_overlapping_folders_send_a_file_once(tmp_path: Path) -> None:
    """The first folder that takes the file has it, by scan and by event."""
    inner = tmp_path / "watch" / "inner"
    inner.mkdir(parents=True)
    watches: list[dict[str, Any]] = [
        {"path": str(inner), "include": ["*.mp4"], "record": {"name": "inner {stem}"}},
        {"record": {"name": "outer {stem}"}},
    ]
    async with watching(tmp_path, watches=watches) as rig:
        await rig.until(lambda: _listens(rig, inner / ".probe", *map(str, (rig.watch, inner))), "both watchers")
        paths = [rig.write(name, name.encode(), folder=inner) for name in ("a.mp4", "b.mov")]
        paths.append(rig.write("c.mp4", b"c"))
        await rig.finished(*paths)  # no scan is due: events have reported them
        paths += [await rig.drop(name, name.encode(), folder=inner) for name in ("d.mp4", "e.mov")]
        await rig.finished(*paths)
        paths.append(await seen_again(rig))
        assert sorted(record.name for record in rig.records) == [
            *("inner a", "inner d", "outer b", "outer c", "outer e", "outer last"),
        ]
        assert [len(rig.seen(events.FileFound, path=path)) for path in paths] == [1] * len(paths)


async def test_filters_apply_to_scans_and_events(tmp_path: Path) -> None:
    """Excluded names, other suffixes, hidden folders and, unless wanted, subfolders."""
    async with watching(tmp_path, watch=EVENTS | {"recursive": False}) as rig:
        for name in ("a.txt", "b.part", ".c.mp4", "sub/d.mp4"):
            rig.write(name, b"no")
        path = rig.write("UPPER.MP4", b"yes")
        await rig.finished(path)
        last = await seen_again(rig)
        assert {event.path for event in rig.seen(events.FileFound)} == {path, last}
        assert len(rig.records) == 2


async def test_scan_and_event_of_one_file_make_one_upload(tmp_path: Path) -> None:
    """However often a file is seen, it is one upload."""
    async with watching(tmp_path, watch=EVENTS | {"rescan": "200ms", "settle": "2s"}) as rig:
        path = rig.write("a.mp4", b"a")
        await asyncio.gather(*(rig.scan() for _ in range(5)))
        await rig.finished(path)
        await asyncio.gather(*(rig.scan() for _ in range(5)))
        await seen_again(rig)
        assert len(rig.records) == 2
        assert len(rig.seen(events.UploadFinished, path=path)) == 1


# A large tree, whose events another process hears


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every folder counts as a large tree; the answer is what our own process was asked to listen to."""
    asked: list[str] = []

    async def source(path: Path, **_: object) -> AsyncIterator[Any]:
        asked.append(str(path))
        for nothing in range(0):
            yield nothing

    monkeypatch.setattr(listener, "awatch", source)
    monkeypatch.setattr(watched_folder, "FOLDERS_AT_ONCE", 1)
    (tmp_path / "watch" / "room").mkdir(parents=True)
    return asked


async def test_events_of_a_large_tree_find_files_before_the_next_scan(tmp_path: Path, large: list[str]) -> None:
    """In old folders and a new one; the daemon's own process has no inotify watch."""
    async with watching(tmp_path) as rig:
        await rig.finished(rig.write("room/a.mp4", b"a"))
        (rig.watch / "deep" / "er").mkdir(parents=True)
        await rig.finished(rig.write("deep/er/b.mp4", b"b"))
        assert large == []
    assert listeners() == []


async def test_files_made_before_the_watcher_listens_are_found_by_a_scan(tmp_path: Path, large: list[str]) -> None:
    """Its process reports when it listens; only later files count as missed by events."""
    async with Rig(tmp_path, watch=EVENTS) as rig:
        await rig.start()
        (folder,) = rig.application.discover._folders
        await rig.until(lambda: folder._listener.trusted, "events that are trusted")
        assert folder.stats.scans == 2
        assert len(listeners()) == 1
        assert large == []


async def test_a_killed_watcher_process_is_started_again(tmp_path: Path, large: list[str]) -> None:
    """It is reported, a scan follows, and events arrive again."""
    async with watching(tmp_path) as rig:
        (killed,) = listeners()
        os.kill(killed, signal.SIGKILL)
        assert "has ended" in (await rig.event(events.WatcherRestarted)).reason
        _hinted.clear()
        await rig.until(lambda: _listens(rig, rig.watch / ".probe"), "events from the new process")
        assert killed not in listeners()
        assert large == []


# Events that cannot be had, that miss, or that stop


def watcher(monkeypatch: pytest.MonkeyPatch, *problems: Exception | None) -> list[str]:
    """A source of events that fails so, the one after the other, and then hears nothing; how often it was begun."""
    begun: list[str] = []

    async def source(path: Path, *, stop_event: asyncio.Event, **_: object) -> AsyncIterator[Any]:
        problem = problems[len(begun)] if len(begun) < len(problems) else None
        begun.append(str(path))
        if problem is not None:
            raise problem
        await stop_event.wait()
        for nothing in range(0):
            yield nothing

    monkeypatch.setattr(listener, "awatch", source)
    return begun


@pytest.mark.parametrize(
    ("problem", "sysctl"),
    [
        (OSError("OS file watch limit reached. (os error 28)"), "fs.inotify.max_user_watches"),
        (RuntimeError("Too many open files (os error 24)"), "fs.inotify.max_user_instances"),
        (ExceptionGroup("in it", [OSError("OS file watch limit reached.")]), "fs.inotify.max_user_watches"),
    ],
)
async def test_at_the_inotify_limit_the_folder_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, sysctl: str
) -> None:
    """It is reported once with the sysctl, shown as the mode, and scans find all files."""
    begun = watcher(monkeypatch, problem)
    async with Rig(tmp_path, watch=EVENTS | {"rescan": "1s"}) as rig:
        await rig.start()
        warned = await rig.event(events.EventsUnavailable)
        assert sysctl in warned.reason
        assert type(warned).level == "warning"
        (tally,) = rig.application.discover.folder_stats()
        assert tally.mode.startswith("scans alone (")
        assert sysctl in tally.mode
        await rig.finished(rig.write("a.mp4", b"a"))
        await rig.until(lambda: tally.scans > 5)
        assert len(begun) == len(rig.seen(events.EventsUnavailable)) == 1


async def test_a_folder_near_the_inotify_limit_is_polled_from_its_first_scan_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exceeding the limit later would be silent."""
    begun = watcher(monkeypatch)
    monkeypatch.setattr(watched_folder, "inotify_limit", lambda _: 10)
    async with Rig(tmp_path, watch=EVENTS | {"rescan": "1s"}) as rig:
        for number in range(8):
            (rig.watch / str(number)).mkdir()
        await rig.start()
        warned = await rig.event(events.EventsUnavailable)
        assert "9 folders need a watch each" in warned.reason
        await rig.finished(rig.write("3/a.mp4", b"a"))
        assert begun == []


async def test_a_source_that_misses_events_is_restarted_if_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it missed is counted. A file system mounted again has the same inode, so only the silence tells."""
    begun = watcher(monkeypatch)
    async with Rig(tmp_path, watch=EVENTS | {"rescan": "5s"}) as rig:
        await rig.start()
        (tally,) = rig.application.discover.folder_stats()
        folder = rig.application.discover._folders[0]
        await rig.until(lambda: folder._listener.trusted, "events that are trusted")
        for name in ("a.mp4", "b.mp4"):
            rig.write(name, name.encode())
        missed = await rig.event(events.EventsMissed)
        assert (missed.files, missed.total, tally.missed) == (2, 2, 2)
        await rig.until(lambda: len(begun) == 2, "another source of events")
        await rig.event(events.UploadFinished, count=2)


async def test_a_source_that_reports_events_is_not_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue overflow loses some events: they are counted."""
    begun: list[int] = []

    async def source(path: Path, *, stop_event: asyncio.Event, **_: object) -> AsyncIterator[Any]:
        begun.append(1)
        while not stop_event.is_set():
            yield {(1, f"{path}/.other")}
            await asyncio.sleep(0.01)

    monkeypatch.setattr(listener, "awatch", source)
    async with Rig(tmp_path, watch=EVENTS | {"rescan": "5s"}) as rig:
        await rig.start()
        folder = rig.application.discover._folders[0]
        await rig.until(lambda: folder._listener.trusted, "events that are trusted")
        rig.write("a.mp4", b"a")
        await rig.event(events.EventsMissed, files=1)
        await rig.until(lambda: folder.stats.scans > 5)
        assert begun == [1]


async def test_reported_files_do_not_count_as_missed(tmp_path: Path) -> None:
    """Files, and those of a folder that was moved in; a scan in between changes nothing."""
    async with watching(tmp_path, watch=EVENTS | {"rescan": "20s"}) as rig:
        folder = rig.application.discover._folders[0]
        await rig.until(lambda: folder._listener.trusted, "events that are trusted")
        outside = tmp_path / "outside"
        outside.mkdir()
        for number in range(5):
            (outside / f"{number}.mp4").write_bytes(b"%d" % number)
        outside.rename(rig.watch / "inside")
        rig.write("a.mp4", b"a")
        await rig.event(events.UploadFinished, count=6)
        scans = folder.stats.scans
        await rig.until(lambda: folder.stats.scans > scans + 2)
        assert folder.stats.missed == 0


async def test_a_folder_that_vanishes_after_its_event_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone, or a link, at the second look."""
    async with watching(tmp_path) as rig:
        look = MountedShare.look

        async def then_gone(self: MountedShare, paths: Any) -> Any:
            seen = await look(self, paths)
            for path, what in seen:
                if what == "folder":
                    at(path).rmdir()
                    if path.endswith("link"):
                        at(path).symlink_to("/")
            return seen

        monkeypatch.setattr(MountedShare, "look", then_gone)
        (rig.watch / "gone").mkdir()
        (rig.watch / "a link").mkdir()
        await rig.until(lambda: not (rig.watch / "gone").exists() and (rig.watch / "a link").is_symlink())
        await rig.finished(rig.write("a.mp4", b"a"))


async def test_a_hung_share_does_not_delay_settling_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its files are waited for."""
    other, hangs, gate = tmp_path / "other", asyncio.Event(), asyncio.Event()
    other.mkdir()
    snapshot = MountedShare.snapshot

    async def hang(self: MountedShare, path: str) -> Any:
        if self.root != str(other):
            hangs.set()
            await gate.wait()
        return await snapshot(self, path)

    monkeypatch.setattr(MountedShare, "snapshot", hang)
    async with Rig(tmp_path, watches=[{}, {"path": str(other)}]) as rig:
        for number in range(20):
            rig.write(f"{number}.mp4", b"%d" % number)
        await rig.start()
        await rig.until(hangs.is_set)
        await rig.finished(await rig.drop("a.mp4", b"a", folder=other))
        assert len(rig.records) == 1
        gate.set()
        await rig.event(events.UploadFinished, count=21)


async def test_an_unreadable_part_does_not_affect_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named once; events are listened to, and the mount identity is saved."""
    enter = Walk._enter

    def refuse(self: Walk, folder: int, name: str, prefix: str) -> None:
        if name == "closed":
            raise PermissionError(13, "Permission denied")
        enter(self, folder, name, prefix)

    monkeypatch.setattr(Walk, "_enter", refuse)
    (tmp_path / "watch" / "closed").mkdir(parents=True)
    async with watching(tmp_path) as rig:
        told = await rig.event(events.FolderUnreadable)
        assert told.reason == f"{rig.watch}/closed: Permission denied"
        await rig.finished(rig.write("a.mp4", b"a"))
        await rig.scan()
        assert len(rig.seen(events.FolderUnreadable)) == 1
        assert [home.root for home in rig.saved().mount_identities] == [str(rig.watch)]
        assert rig.seen(events.FolderOffline) == []


async def test_lost_and_found_is_not_scanned(tmp_path: Path) -> None:
    """``lost+found`` at the root of a disk, which only root may read, is not reported as unreadable."""
    async with Rig(tmp_path) as rig:
        rig.write("lost+found/#12.mp4", b"lost")
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", b"a"))
        assert len(rig.records) == 1
        (watch,) = rig.config().watch
        assert selection.refusal(watch, "lost+found/#12.mp4") == "lost+found is the file system's own"

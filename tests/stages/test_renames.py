"""A file or folder that is renamed after its upload is not sent again; a copy is, as ``on_duplicate`` says."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, at, content_of, sha256

from uploader.app.explain import FileFacts, explanation, look_at
from uploader.domain import events
from uploader.files import MountedShare

DATA = content_of(3 * CHUNK)


class Hashes:
    """Counts the files that are read in full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        real = MountedShare.sha256

        async def counting(share: MountedShare, path: str) -> str:
            self.paths.append(path)
            return await real(share, path)

        monkeypatch.setattr(MountedShare, "sha256", counting)


async def nothing_new(rig: Rig, records: int) -> None:
    """Scan again, also after a restart, and see that only another new file is sent."""
    await rig.scan()
    await rig.restart()
    await rig.scan()
    await rig.finished(await rig.drop("last.mp4", b"last"))
    assert len(rig.records) == records + 1


@pytest.mark.parametrize("new", ["b.mp4", "sorted/day1/a.mp4", "A.MP4", "B\u0308uhne.mp4"])
async def test_a_renamed_file_is_not_sent_again(tmp_path: Path, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inode shows that it is the same file: it is not read for that."""
    hashes = Hashes(monkeypatch)
    async with Rig(tmp_path) as rig:
        await rig.start()
        old = "B\u00fchne.mp4" if "\u0308" in new else "a.mp4"
        path = await rig.drop(old, DATA)
        await rig.finished(path)
        target = rig.watch / new
        target.parent.mkdir(parents=True, exist_ok=True)
        at(path).rename(target)
        await rig.scan()
        renamed = await rig.event(events.SentFileRenamed, path=str(target))
        assert (renamed.before, renamed.record) == (path, rig.record.id)
        assert hashes.paths == []
        facts = FileFacts(finished=await rig.store.sent_from(str(target)), running=True)
        lines = explanation(rig.application.config, str(target), facts, 0.0, await look_at(str(target)))
        assert any(f"under the name {path}" in unicodedata.normalize("NFC", line) for line in lines)
        assert lines[-1] == "result   uploaded; it is sent again only if its content changes"
        await nothing_new(rig, 1)


async def test_a_renamed_folder_costs_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a restart, since a scan has seen the inodes of its files before."""
    hashes = Hashes(monkeypatch)
    async with Rig(tmp_path, upload={"workers": 8}) as rig:
        await rig.start()
        for number in range(12):
            rig.write(f"day1/{number}.mp4", b"%d" % number * 300)
        await rig.scan()
        await rig.event(events.UploadFinished, count=12)
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        (rig.watch / "day1").rename(rig.watch / "day 1")
        await rig.scan()
        await rig.event(events.SentFileRenamed, count=12)
        assert hashes.paths == []
        await nothing_new(rig, 13)


@pytest.mark.parametrize("touched", [False, True])
async def test_a_rename_while_the_daemon_is_stopped_is_proven_by_the_content(
    tmp_path: Path, touched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inode is not known then: the whole file is read, once, whatever its mtime is now."""
    hashes = Hashes(monkeypatch)
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        await rig.stop()
        new = at(path).rename(rig.watch / "b.mp4")
        if touched:
            os.utime(new, (1000, 1000))
        await rig.start()
        await rig.scan()
        await rig.event(events.SentFileRenamed, path=str(new), before=path)
        assert hashes.paths == [str(new)]
        touched_file = rig.folder / "state" / "touched.jsonl"
        await rig.until(lambda: touched_file.exists() and new.name in touched_file.read_text(), "it is remembered")
        await nothing_new(rig, 1)
        assert hashes.paths == [str(new)]


async def test_a_file_that_is_renamed_twice_is_followed(tmp_path: Path) -> None:
    """And once more after a restart; its present name counts, not the one that it was sent under."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        for before, name in (("a.mp4", "b.mp4"), ("b.mp4", "c.mp4")):
            (rig.watch / before).rename(rig.watch / name)
            await rig.scan()
            await rig.event(events.SentFileRenamed, path=str(rig.watch / name), before=str(rig.watch / before))
        await rig.restart()
        await rig.scan()
        copy = rig.watch / "copy.mp4"
        shutil.copy(rig.watch / "c.mp4", copy)
        await rig.scan()
        await rig.finished(str(copy))  # c.mp4 is still there, so this is a copy, although a.mp4 is gone
        assert len(rig.records) == 2


@pytest.mark.parametrize(("on_duplicate", "records"), [("send", 2), ("skip", 1)])
@pytest.mark.parametrize("how", [shutil.copy2, os.link])
async def test_a_copy_beside_its_original_is_a_duplicate(
    tmp_path: Path, on_duplicate: str, records: int, how: Any
) -> None:
    """Also a hard link: the old name is still there."""
    async with Rig(tmp_path, watch={"on_duplicate": on_duplicate}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        how(path, rig.watch / "b.mp4")
        await rig.scan()
        await rig.event(events.FileDuplicate, path=str(rig.watch / "b.mp4"))
        if on_duplicate == "send":
            await rig.finished(str(rig.watch / "b.mp4"))
        await nothing_new(rig, records)
        assert rig.seen(events.SentFileRenamed) == []


async def test_of_two_equal_recordings_the_one_that_is_gone_was_renamed(tmp_path: Path) -> None:
    """Whichever was sent last."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        first, second = [await rig.drop(name, DATA) for name in ("a.mp4", "b.mp4")]
        await rig.finished(first, second)
        at(first).rename(rig.watch / "c.mp4")
        await rig.scan()
        await rig.event(events.SentFileRenamed, before=first)
        await nothing_new(rig, 2)


async def test_equal_ends_are_no_rename(tmp_path: Path) -> None:
    """Another recording of the same size and ends, while the old one is gone: its middle decides, and it is sent."""
    first = b"a" * 70_000 + b"1" + b"z" * 70_000
    second = b"a" * 70_000 + b"2" + b"z" * 70_000
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", first)
        await rig.finished(path)
        at(path).unlink()
        await rig.finished(await rig.drop("b.mp4", second))
        assert [record.sha256 for record in rig.records] == [sha256(first), sha256(second)]


@pytest.mark.parametrize("after", ["delete", "move"])
async def test_a_file_that_this_program_took_away_was_not_renamed(tmp_path: Path, after: str) -> None:
    """Somebody puts it there again, under another name: it is sent, as ``on_duplicate`` says."""
    watch = {"after_upload": after} | ({"move_to": str(tmp_path / "done")} if after == "move" else {})
    async with Rig(tmp_path, watch=watch) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", DATA))
        await rig.finished(await rig.drop("b.mp4", DATA))
        assert len(rig.records) == 2


async def test_a_new_recording_under_the_old_name_is_sent_and_the_renamed_one_is_not(tmp_path: Path) -> None:
    """A recorder that writes to one name, and a person who renames what it has written."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("current.mp4", DATA)
        await rig.finished(path)
        at(path).rename(rig.watch / "first.mp4")
        rig.write("current.mp4", b"the next one")
        await rig.scan()
        await rig.event(events.SentFileRenamed, path=str(rig.watch / "first.mp4"))
        await rig.event(events.UploadFinished, path=path, count=2)
        await nothing_new(rig, 2)


async def test_a_file_that_comes_from_another_watched_folder_is_a_duplicate(tmp_path: Path) -> None:
    """There it may stand for another room: each folder has rules of its own."""
    other = tmp_path / "other"
    other.mkdir()
    async with Rig(tmp_path, watches=[{}, {"path": str(other)}]) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        at(path).rename(other / "a.mp4")
        await rig.scan()
        await rig.finished(str(other / "a.mp4"))
        assert len(rig.records) == 2

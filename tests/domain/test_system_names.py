"""System folders of NAS systems, operating systems and sync tools are not entered, unless the operator says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import at

from uploader.config import WatchConfig
from uploader.domain.selection import enters, reaches, refusal
from uploader.domain.system_names import FILES, FOLDERS, system_folder

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
NAMES = [
    *(
        "#recycle",
        "@eaDir",
        "#snapshot",
        "@tmp",
        "@Recycle",
        ".@__thumb",
        "@Recently-Snapshot",
        "Network Recycle Bin 1",
    ),
    *(".snapshot", "~snapshot", ".zfs", ".snapshots", ".recycle", ".recycle bin", "trashbox"),
    *("$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "Config.Msi", "found.000", "DfsrPrivate"),
    *(".Trashes", ".Trash", ".TemporaryItems", ".DocumentRevisions-V100", ".Spotlight-V100", ".fseventsd"),
    *(".AppleDouble", "Network Trash Folder", "Temporary Items", "__MACOSX", ".Trash-1000", "lost+found"),
    *(".thumbnails", ".stfolder", ".stversions", ".sync", ".dropbox.cache", ".SynologyWorkingDirectory", "_gsdata_"),
    *(
        ".owncloudsync",
        "files_trashbin",
        "files_versions",
        ".debris",
        "@GMT-2026.11.28-10.00.00",
        "lecture.mp4.download",
    ),
]


def watch(**settings: Any) -> WatchConfig:
    """A watched folder with these settings."""
    return WatchConfig(path=Path("/rec"), **settings)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exclude", [[], ["*.bak"]])
def test_a_system_folder_is_not_entered(name: str, exclude: list[str]) -> None:
    """In any case of its letters, at any depth, whatever the operator excludes; what lies below it is not taken."""
    rule = watch(exclude=exclude)
    for spelt in (name, name.upper(), name.lower(), f"room1/{name}"):
        assert not enters(rule, spelt)
        assert not reaches(rule, f"{spelt}/day1")
        assert refusal(rule, f"{spelt}/day1/a.mp4") is not None


@pytest.mark.parametrize(
    "name",
    [
        "snapshot",
        "Trash",
        "recycle",
        "backup",
        "uploads",
        "temp",
        "Sub",
        "sync",
        "room #3",
        "@home",
        "downloads",
        "2026",
    ],
)
def test_a_folder_that_a_person_may_have_named_is_entered(name: str) -> None:
    """Its name is like one of the list, and is not in it."""
    assert enters(watch(), name)
    assert refusal(watch(), f"{name}/a.mp4") is None


def test_the_reason_says_what_it_is_and_how_to_take_it_out() -> None:
    """In the words of ``explain``; what it says to type is right."""
    why = refusal(watch(), "room1/#Recycle/a.mp4")
    assert why == (
        'in a recycle bin (#Recycle) of a Synology or UGREEN NAS: not entered; enter = ["#recycle"] takes it out'
    )
    for folder in (pattern for row in FOLDERS for pattern in row.names):
        name = folder.replace("?", "x").replace("*", "x").replace("[0-9]", "7")
        why = refusal(watch(exclude=[]), f"{name}/a.mp4") or ""
        (key,) = re.findall(r'enter = \["(.+)"\]', why)
        assert refusal(watch(exclude=[], enter=[key]), f"{name}/a.mp4") is None


def test_enter_takes_a_folder_out_of_the_list_and_of_exclude() -> None:
    """By name or by path; its other files follow ``include`` and ``exclude`` as all others do."""
    rule = watch(enter=["#recycle", "room1/.snapshots", "lost+found"])
    assert refusal(rule, "#recycle/a.mp4") is None
    assert refusal(rule, "lost+found/a.mp4") is None
    assert refusal(rule, "#recycle/@eaDir/a.mp4") is not None
    assert refusal(rule, "#recycle/a.mp4.part") == "'a.mp4.part' matches an exclude pattern"
    assert enters(rule, "room1/.snapshots")
    assert not enters(rule, "room2/.snapshots")


def test_system_files_are_not_taken() -> None:
    """The metadata that macOS keeps beside a file, and a file that was deleted while it was open."""
    rule = watch(exclude=[], include=["*"])
    for name in ("._a.mp4", ".DS_Store", "Thumbs.db", ".nfs000000000012345600000001", ".smbdeleteAAA1", "desktop.ini"):
        assert refusal(rule, name) is not None
    assert refusal(watch(exclude=[], include=["*"], enter=["._*"]), "._a.mp4") is None
    assert refusal(rule, ".a.mp4") is None


def test_each_name_is_in_the_list_once() -> None:
    """So that its reason is the same everywhere; each has its maker and its source."""
    names = [pattern.casefold() for row in (*FOLDERS, *FILES) for pattern in row.names]
    assert len(names) == len(set(names))
    assert all(row.maker and row.source for row in (*FOLDERS, *FILES))
    assert system_folder("recordings") is None


def test_the_page_has_the_whole_list() -> None:
    """docs/configuration.md names each folder of the list, and no other."""
    (table,) = re.findall(r"(?s)\| system \| folders \|\n\| --- \| --- \|\n(.+?)\n\n", PAGE)
    shown = re.findall(r"`([^`]+)`", table)
    assert sorted(shown) == sorted(["lost+found", *(name for row in FOLDERS for name in row.names)])


async def test_a_recording_that_is_deleted_into_a_recycle_bin_is_no_second_one(tmp_path: Path) -> None:
    """While it waits, while it is sent, and afterwards: nothing in the bin becomes a record."""
    async with Rig(tmp_path, watch={"exclude": []}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"a recording")
        await rig.finished(path)
        for name in ("#recycle", "@Recycle/room1", "$RECYCLE.BIN/S-1-5-21", ".Trash-1000/files"):
            bin_ = rig.watch / name
            bin_.mkdir(parents=True)
            (bin_ / "a.mp4").write_bytes(at(path).read_bytes() + name.encode())
        at(path).rename(rig.watch / "#recycle" / "b.mp4")
        await rig.scan()
        await rig.finished(await rig.drop("c.mp4", b"c"))
        assert len(rig.records) == 2

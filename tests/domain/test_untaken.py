"""Files that no include pattern takes are counted by suffix and said everywhere; nothing else is counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from hypothesis import given
from hypothesis import strategies as st
from process import at_work

from uploader.config import WatchConfig
from uploader.domain import events
from uploader.domain.selection import suffix_of, untaken_suffix
from uploader.domain.untaken import NO_SUFFIX, OTHER_SUFFIXES, SUFFIXES_TOLD_APART, Untaken, in_words, summed


def watch(path: str = "/rec", **settings: Any) -> WatchConfig:
    """A watched folder with these settings."""
    return WatchConfig(path=Path(path), include=settings.pop("include", ["*.mp4"]), **settings)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.MXF", ".mxf"),
        ("room1/a.m2ts", ".m2ts"),
        ("VIDEO_TS", ""),
        ("Meeting with Dr. Smith", ""),
        ("a.", ""),
        ("a.mp4", None),
        ("a.mp4.part", None),
        (".hidden.mxf", None),
        ("~a.mxf", None),
        ("#recycle/a.mxf", None),
        ("Thumbs.db", None),
        ("._a.mxf", None),
        ("a.mp4.aria2", None),
        ("a.mp4.crdownload", None),
        (".valt-uploader-share", None),
    ],
)
def test_only_what_no_pattern_takes_is_counted(name: str, suffix: str | None) -> None:
    """Not what is taken, hidden, excluded on purpose, a system file, or kept beside an unfinished download."""
    rule = watch()
    assert untaken_suffix([rule], rule, name) == suffix


def test_a_marker_is_not_counted() -> None:
    """It is expected beside its recording."""
    rule = watch(done_marker="{name}.done")
    assert untaken_suffix([rule], rule, "a.mp4.done") is None
    assert untaken_suffix([rule], rule, "a.mxf") == ".mxf"


def test_a_file_of_nested_folders_is_counted_once() -> None:
    """At the first folder that might have taken it; not at all if another one takes it."""
    outer, inner, mxf = watch(), watch("/rec/room1"), watch("/rec/room2", include=["*.mxf"])
    watches = (outer, inner, mxf)
    assert untaken_suffix(watches, outer, "room1/a.mxf") == ".mxf"
    assert untaken_suffix(watches, inner, "a.mxf") is None
    assert untaken_suffix(watches, outer, "room2/a.mxf") is None
    moving = watch(after_upload="move", move_to="/rec/done")
    assert untaken_suffix((moving,), moving, "done/a.mxf") is None


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=12), max_size=200))
def test_the_counts_are_bounded_and_complete(names: list[str]) -> None:
    """However many suffixes there are, each file is in exactly one count, and each suffix is reported once."""
    found, untaken = Counter(suffix_of(name) for name in names), Untaken()
    for _ in range(2):
        untaken.begin()
        untaken.add(found)
        reported = list(untaken.end())
    assert reported == []
    assert sum(untaken.at_last_scan.values()) == len(names)
    assert len(untaken.at_last_scan) <= SUFFIXES_TOLD_APART + 1


def test_further_suffixes_are_counted_together() -> None:
    """So that a folder full of numbered parts takes no memory."""
    untaken = Untaken()
    untaken.add({f".{number}": 1 for number in range(100)} | {"": 2})
    assert len(list(untaken.end())) == SUFFIXES_TOLD_APART + 1
    assert untaken.at_last_scan[OTHER_SUFFIXES] == 100 - SUFFIXES_TOLD_APART + 2


def test_the_words_name_the_most_frequent_first() -> None:
    """And say how many there are besides."""
    counts = {".xml": 2, ".mxf": 12, NO_SUFFIX: 3, OTHER_SUFFIXES: 40}
    assert in_words(counts) == "12 .mxf, 3 with no suffix, 2 .xml, 40 with other suffixes"
    assert in_words(counts, most=1) == "12 .mxf and 45 others"
    assert summed([{".mxf": 1}, {".mxf": 2, ".xml": 9}]) == {".xml": 9, ".mxf": 3}


async def test_each_suffix_is_reported_once_whatever_events_say(tmp_path: Path) -> None:
    """Only whole scans count: a file that is written to a hundred times is one."""
    async with Rig(tmp_path, watch={"mode": "events", "rescan": "1h", "include": ["*.mp4"]}) as rig:
        rig.write("a.mxf", b"1")
        await rig.start()
        told = await rig.event(events.FilesNotTaken)
        assert (told.folder, told.suffix, told.files) == (str(rig.watch), ".mxf", 1)
        assert '"*.mxf"' in told.hint
        for number in range(20):
            (rig.watch / "a.mxf").write_bytes(b"%d" % number)
        await rig.finished(await rig.drop("b.mp4", b"b"))
        (stats,) = rig.application.discover.folder_stats()
        assert stats.untaken == {".mxf": 1}
        rig.write("sub/c.MXF", b"3")
        await rig.scan()
        assert stats.untaken == {".mxf": 2}
        assert len(rig.seen(events.FilesNotTaken)) == 1


async def test_a_folder_full_of_files_that_no_pattern_takes_is_never_nothing_to_do(tmp_path: Path) -> None:
    """``once``, ``status`` with and without a daemon, and ``check`` name the suffixes."""
    async with at_work(tmp_path) as site:
        site.configure(watch='include = ["*.mp4"]')
        for name in ("a.mxf", "b.MXF", "c"):
            (site.recordings / name).write_bytes(b"content")
        ended = await site.run("once")
        assert ended.code == 0
        assert ended.lines[0] == "0 uploaded now, 0 not ready, 3 not taken"
        assert "no include pattern takes 2 .mxf, 1 with no suffix" in ended.lines[1]
        status = await site.run("status")
        assert "nothing to do; 0 done; not taken: 2 .mxf, 1 with no suffix" in status.out
        document = json.loads((await site.run("status", "--json")).out)
        assert document["not_taken"] == document["folders"][0]["not_taken"] == {".mxf": 2, "no suffix": 1}
        check = await site.run("check")
        assert check.code == 0
        assert "no include pattern takes 2 .mxf, 1 with no suffix" in check.out
        daemon = await site.start("run")
        told = await daemon.event("files-not-taken", suffix=".mxf")
        assert told["files"] == 2
        assert "not taken: 2 .mxf" in (await site.run("status")).out

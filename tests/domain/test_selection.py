"""Which files are taken: names against patterns, and folders within folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.config import WatchConfig
from uploader.domain.selection import enters, owner, refusal, relative


def watch(path: str = "/rec", **settings: Any) -> WatchConfig:
    """A watched folder with these settings."""
    return WatchConfig(path=Path(path), **settings)


@pytest.mark.parametrize(
    ("root", "path", "relpath"),
    [
        ("/rec", "/rec/a.mp4", "a.mp4"),
        ("/rec", "/rec/b/a.mp4", "b/a.mp4"),
        ("/rec/", "/rec/a.mp4", "a.mp4"),
        ("/", "/a.mp4", "a.mp4"),
        ("/rec", "/recordings/a.mp4", None),
        ("/rec", "/rec", None),
        ("/rec", "/rec/", None),
        ("/rec", "/other/a.mp4", None),
        (Path("/rec"), "/rec/a.mp4", "a.mp4"),
    ],
)
def test_paths_are_compared_by_whole_names(root: str | Path, path: str, relpath: str | None) -> None:
    """/recordings is not below /rec."""
    assert relative(root, path) == relpath


@pytest.mark.parametrize("name", ["a.mp4", "A.MP4", "deep/er/a.Mkv", "bad\udcff.mov", "line\nbreak.ts", "[x].avi"])
def test_recordings_are_taken(name: str) -> None:
    """The usual suffixes in any case, in any folder, under any name."""
    assert refusal(watch(), name) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a.txt", "its name matches no include pattern"),
        ("mp4", "its name matches no include pattern"),
        ("a.mp4.part", "'a.mp4.part' matches an exclude pattern"),
        (".hidden.mp4", "'.hidden.mp4' matches an exclude pattern"),
        ("~copy.mp4", "'~copy.mp4' matches an exclude pattern"),
        (".trash/a.mp4", "'.trash' matches an exclude pattern"),
        ("ok/.trash/deep/a.mp4", "'.trash' matches an exclude pattern"),
        ("A.TMP", "'A.TMP' matches an exclude pattern"),
    ],
)
def test_a_refusal_says_why(name: str, why: str) -> None:
    """It names the kind of pattern and the matched part of the path."""
    assert refusal(watch(), name) == why


def test_a_pattern_with_a_slash_matches_the_path() -> None:
    """One without matches the name alone."""
    rooms = watch(include=["room*/*.mp4"], exclude=["room9/*"])
    assert refusal(rooms, "room1/a.mp4") is None
    assert refusal(rooms, "a.mp4") == "its name matches no include pattern"
    assert refusal(rooms, "room9/a.mp4") == "its path matches an exclude pattern"


def test_a_flat_folder_takes_nothing_from_its_subfolders() -> None:
    """With recursive = false they are neither entered nor taken from."""
    flat = watch(recursive=False)
    assert refusal(flat, "a.mp4") is None
    assert refusal(flat, "sub/a.mp4") == "it is in a subfolder, and recursive = false"
    assert not enters(flat, "sub")


def test_excluded_folders_are_not_entered() -> None:
    """By name anywhere, or by path; an include pattern does not matter to folders."""
    rooms = watch(exclude=[".*", "old/trash"])
    assert enters(rooms, "room")
    assert enters(rooms, "trash")
    assert not enters(rooms, "room/.snapshots")
    assert not enters(rooms, "old/trash")


def test_no_patterns_exclude_nothing_and_include_nothing() -> None:
    """An empty list is an empty list."""
    assert refusal(watch(exclude=[]), ".a.mp4") is None
    assert refusal(watch(include=[]), "a.mp4") == "its name matches no include pattern"


def test_the_first_folder_that_takes_a_file_owns_it() -> None:
    """Folders may be nested: the first one of the configuration that takes the file has it."""
    videos, room, everything = watch("/rec", include=["*.mp4"]), watch("/rec/room"), watch("/", include=["*"])
    watches = (videos, room, everything)
    assert owner(watches, "/rec/room/a.mp4") is videos
    assert owner(watches, "/rec/room/a.mkv") is room
    assert owner(watches, "/rec/a.mkv") is everything
    assert owner(watches[:2], "/rec/a.mkv") is None
    assert owner((), "/rec/a.mp4") is None


def test_files_in_the_archive_are_taken_by_no_folder() -> None:
    """Even inside a watched folder: else a finished file would be sent again."""
    moving = watch("/rec", after_upload="move", move_to="/rec/done")
    assert owner((moving,), "/rec/a.mp4") is moving
    assert owner((moving, watch("/rec/done")), "/rec/done/a.mp4") is None


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30))
def test_files_are_taken_only_from_entered_folders(name: str) -> None:
    """Whatever the folder is called."""
    rule = watch()
    if refusal(rule, f"{name}/a.mp4") is None:
        assert enters(rule, name)
    else:
        assert not enters(rule, name)

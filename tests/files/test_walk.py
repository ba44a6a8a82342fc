"""A walk through a watched folder on a real disk: what it sees, and what it reports."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fakes import made
from shares import Scan, identify, scan

from uploader import files
from uploader.files import WalkFilter
from uploader.files.walk import DEPTH_LIMIT, NAMES_PER_BATCH, Walk


def found(result: Scan) -> set[str]:
    """The paths below the root that a scan saw."""
    return {sighting.path.removeprefix(result.root + "/") for sighting in result.sightings}


def test_a_scan_sees_every_file_below_its_root(tmp_path: Path) -> None:
    """With size and mtime as the inode says, in folders within folders, and not one byte read."""
    path = made(tmp_path / "a" / "b" / "c.mp4", b"1234567")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    made(tmp_path / "d.mp4")
    result = scan(tmp_path)
    assert found(result) == {"a/b/c.mp4", "d.mp4"}
    assert (result.problem, result.irregular, result.folders, result.names) == (None, (), 3, 4)
    seen = next(each for each in result.sightings if each.path == str(path))
    assert (seen.root, seen.size, seen.mtime_ns) == (str(tmp_path), 7, 1_234_567_890_123_456_789)


def test_a_scan_applies_the_filters_for_files_and_folders(tmp_path: Path) -> None:
    """Excluded names cost no stat, and excluded folders are not entered."""
    for name in ("a.mp4", "a.txt", "sub/b.mp4", "skip/c.mp4"):
        made(tmp_path / name)
    result = scan(tmp_path, takes=lambda name: name.endswith(".mp4"), enters=lambda name: name != "skip")
    assert found(result) == {"a.mp4", "sub/b.mp4"}


def test_a_scan_may_begin_in_a_subfolder(tmp_path: Path) -> None:
    """Its paths are still those below the root."""
    for name in ("a.mp4", "sub/deep/b.mp4"):
        made(tmp_path / name)
    assert found(scan(tmp_path, start="sub")) == {"sub/deep/b.mp4"}
    assert found(scan(tmp_path, start="sub/deep")) == {"sub/deep/b.mp4"}
    with pytest.raises(FileNotFoundError):
        scan(tmp_path, start="never/there")


def test_a_known_name_can_be_skipped_without_a_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs only the listing of its name."""
    for name in ("known.mp4", "new.mp4"):
        made(tmp_path / name)
    assert found(scan(tmp_path, passes=lambda name: name == "known.mp4")) == {"new.mp4"}


def test_a_walk_goes_step_by_step_and_lists_each_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step looks at a bounded number of names, however many a folder has."""
    for number in range(2 * NAMES_PER_BATCH + 10):
        (tmp_path / f"{number}.mp4").touch()
    (tmp_path / "sub").mkdir()
    listed, real = [], os.scandir

    def listing(fd: int) -> Any:
        listed.append(fd)
        return real(fd)

    monkeypatch.setattr(os, "scandir", listing)
    fd = os.open(tmp_path, os.O_RDONLY)
    walk = Walk(fd, str(tmp_path), WalkFilter(lambda _: True, lambda _: True))
    os.close(fd)
    sizes = []
    while not walk.done:
        sizes.append(walk.step().names)
    assert sizes == [NAMES_PER_BATCH, NAMES_PER_BATCH, 11]
    assert len(listed) == 2


def test_links_are_not_followed_and_special_files_are_reported(tmp_path: Path) -> None:
    """Links, FIFOs and sockets are reported with their kind; what a link leads to is not seen."""
    outside = made(tmp_path / "outside" / "secret.mp4").parent
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.mp4").symlink_to(outside / "secret.mp4")
    (root / "folder.mp4").symlink_to(outside)
    (root / "dangling.mp4").symlink_to("nowhere")
    os.mkfifo(root / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.mp4"))
        result = scan(root)
    assert result.sightings == ()
    assert {(Path(path).name, kind) for path, kind in result.irregular} == {
        ("link.mp4", "link"),
        ("folder.mp4", "link"),
        ("dangling.mp4", "link"),
        ("pipe.mp4", "FIFO"),
        ("socket.mp4", "socket"),
    }


@pytest.mark.parametrize(
    "name", [b"bad\xff\xfe.mp4", b"line\nbreak\r.mp4", b"-rf.mp4", "é.mp4".encode(), b"x" * 251 + b".mp4"]
)
def test_odd_names_are_found(tmp_path: Path, name: bytes) -> None:
    """Names that are not UTF-8, with line breaks, of full length."""
    path = made(tmp_path / os.fsdecode(name))
    (seen,) = scan(tmp_path).sightings
    assert os.fsencode(seen.path) == os.fsencode(path)
    assert asyncio.run(identify(seen.path)).size == 9


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_a_file_that_vanishes_during_a_scan_hides_no_other(tmp_path: Path, folder: str) -> None:
    """A recorder has renamed it: the other files are seen, and the scan is complete."""
    for number in range(20):
        made(tmp_path / f"{folder}{number}.mp4")
    gone: list[str] = []

    def takes(relpath: str) -> bool:
        if len(gone) < 5:
            (tmp_path / relpath).unlink()
            gone.append(relpath)
        return True

    result = scan(tmp_path, takes=takes)
    assert found(result) == {f"{folder}{number}.mp4" for number in range(20)} - set(gone)
    assert (result.problem, len(result.sightings)) == (None, 15)


def test_a_folder_that_cannot_be_read_does_not_end_the_scan() -> None:
    """The others are seen, and the walk says what it could not read."""
    code = """
import os, sys
from shares import scan
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
result = scan(sys.argv[1])
print(sorted(sighting.path for sighting in result.sightings), result.problem)
"""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for path in ("a/1.mp4", "b/2.mp4", "c/3.mp4"):
            made(root / path)
        (root / "b").chmod(0o000)
        here = str(Path(__file__).parents[1])
        run = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, timeout=30, cwd=here)
        (root / "b").chmod(0o755)
    assert run.stderr == ""
    assert run.stdout == f"['{name}/a/1.mp4', '{name}/c/3.mp4'] {name}/b: Permission denied\n"


def test_a_walk_ends_at_a_depth_limit(tmp_path: Path) -> None:
    """A loop made by a bind mount ends there."""
    deep = tmp_path.joinpath(*["d"] * (DEPTH_LIMIT + 2))
    deep.mkdir(parents=True)
    for level in (DEPTH_LIMIT, DEPTH_LIMIT + 1):
        made(tmp_path.joinpath(*["d"] * level, f"{level}.mp4"))
    assert {Path(path).name for path in found(scan(tmp_path))} == {f"{DEPTH_LIMIT}.mp4"}


def test_only_a_regular_file_can_be_looked_at_by_path(tmp_path: Path) -> None:
    """Anything else is treated as missing."""
    path = made(tmp_path / "a.mp4", b"123")
    (tmp_path / "link.mp4").symlink_to(path)
    seen = files.look(str(path), str(tmp_path))
    assert seen is not None
    assert (seen.size, seen.root) == (3, str(tmp_path))
    assert files.look(str(tmp_path / "link.mp4"), str(tmp_path)) is None
    assert files.look(str(tmp_path / "gone.mp4"), str(tmp_path)) is None


def test_every_kind_of_file_has_a_plain_name(tmp_path: Path) -> None:
    """The words that status and explain use."""
    path = made(tmp_path / "a.mp4")
    (tmp_path / "link").symlink_to(path)
    kinds = [files.kind_of(str(each)) for each in (path, tmp_path, tmp_path / "link", tmp_path / "gone", "/dev/null")]
    assert kinds == ["file", "folder", "link", "missing", "device"]
    assert files.kind_of(str(path / "below")) == "unreadable (Not a directory)"


def test_an_unusable_folder_is_reported_with_the_reason(tmp_path: Path) -> None:
    """Missing or not a folder; a folder, or a link to one, is no problem."""
    path = made(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path)
    assert files.folder_problem(str(tmp_path / "link"), writable=True) is None
    assert files.folder_problem(str(tmp_path / "gone"), writable=False) == f"{tmp_path}/gone: is missing"
    assert files.folder_problem(str(path), writable=False) == f"{path}: is not a folder but a file"

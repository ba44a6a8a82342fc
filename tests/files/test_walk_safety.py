"""A walk through a folder that changes during it, or answers slowly: it sees nothing outside, and always ends."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest
from fakes import made
from shares import scan

from uploader.files import WalkFilter
from uploader.files.walk import NAMES_PER_BATCH, STEP_TIME_LIMIT, Walk
from uploader.files.walk import match_nothing as nothing


def test_folder_that_becomes_a_link_between_two_looks_is_not_entered(tmp_path: Path) -> None:
    """Listed as a folder and a link when opened: its target stays unseen, and the walk is complete."""
    outside = made(tmp_path / "outside" / "secret.mp4").parent
    root = tmp_path / "root"
    made(root / "sub" / "a.mp4")
    made(root / "b.mp4")

    def swap(relpath: str) -> bool:
        (root / relpath).rename(tmp_path / "away")
        (root / relpath).symlink_to(outside)
        return True

    result = scan(root, enters=swap)
    assert [seen.path for seen in result.sightings] == [f"{root}/b.mp4"]
    assert result.problem is None


@pytest.mark.parametrize("start", ["link", "link/deeper", "sub/link"])
def test_a_walk_does_not_begin_at_or_below_a_link(tmp_path: Path, start: str) -> None:
    """An event may name one."""
    made(tmp_path / "outside" / "deeper" / "secret.mp4")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "sub" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        scan(root, start=start)


def test_step_of_a_slow_share_is_short(tmp_path: Path) -> None:
    """With a tenth of a second for each name, a step ends long before the share counts as hung."""
    for number in range(3 * NAMES_PER_BATCH):
        (tmp_path / f"{number}.mp4").touch()
    ticks = count()
    fd = os.open(tmp_path, os.O_RDONLY)
    walk = Walk(fd, str(tmp_path), WalkFilter(lambda _: True, lambda _: True), lambda: next(ticks) / 10)
    os.close(fd)
    sizes = []
    while not walk.done:
        sizes.append(walk.step().names)
    assert max(sizes) <= STEP_TIME_LIMIT * 10 + 1
    assert sum(sizes) == 3 * NAMES_PER_BATCH


def handles() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_walk_leaves_no_handle_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it ends, is broken off, or cannot begin."""
    for number in range(3):
        made(tmp_path / f"{number}" / "deep" / "er" / "a.mp4")
    before = handles()
    scan(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    walk = Walk(fd, str(tmp_path), WalkFilter(lambda _: True, lambda _: True, nothing))
    monkeypatch.setattr("uploader.files.walk.NAMES_PER_BATCH", 4)
    walk.step()
    assert handles() > before + 1
    walk.close()
    with pytest.raises(FileNotFoundError):
        Walk(fd, str(tmp_path), WalkFilter(lambda _: True, lambda _: True, start="0/deep/gone"))
    os.close(fd)
    assert handles() == before

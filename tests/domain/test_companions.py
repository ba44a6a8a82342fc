"""A file beside which a program keeps the companion of an unfinished download is held back, and parked in the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest
from harness import Rig
from hypothesis import given
from hypothesis import strategies as st
from parts import at

from uploader.domain import events
from uploader.domain.companions import belongs_to
from uploader.domain.completeness import Complete, CompletenessRules, NotYet, check_complete
from uploader.domain.model import ActionBy, WriteState
from uploader.files import companion_files
from uploader.files.companion_files import CompanionFiles
from uploader.files.safe_open import open_root

RULES: Final = CompletenessRules(settle=10.0, gate=False, gate_timeout=600.0, longest_look_interval=60.0)
COMPANIONS: Final = [
    *("a.mp4.aria2", "a.mp4.part", "a.mp4.crdownload", "a.mp4.!ut", "a.mp4.!qB", "a.mp4.filepart", "a.mp4.partial~"),
    *(".a.mp4.Ab3dEf", ".syncthing.a.mp4.tmp", "~syncthing~a.mp4.tmp", "a.mp4.download", "a.mp4.ytdl", "A.MP4.PART"),
    *("a.mp4.1a2b3c4d.partial", "a.mp4.!sync", ".a.mp4.~6e3f", "a.mp4.opdownload", "a.mp4.lftp-pget-status"),
]


@pytest.mark.parametrize("companion", COMPANIONS)
def test_a_companion_is_known_by_its_name(companion: str) -> None:
    """Which contains the name of its file."""
    assert "a.mp4" in {name.casefold() for name, _ in belongs_to(companion)}


@pytest.mark.parametrize("name", ["a.mp4", "a.mp4.tmp", "a.mp4.bak", ".a.mp4.backup", "a.srt", "a.mp4.done", "part"])
def test_other_files_are_no_companions(name: str) -> None:
    """Neither copies nor sidecars."""
    assert belongs_to(name) == ()


@given(st.text(min_size=1, max_size=40))
def test_a_name_is_never_its_own_companion(name: str) -> None:
    """Whatever it is."""
    assert name not in {each for each, _ in belongs_to(name)}


def test_a_companion_holds_its_file_back_until_gate_timeout() -> None:
    """Also an empty one, as Firefox makes it, and also without ``gate``; then the reason is the companion."""
    state = WriteState(companion="aria2 has not finished it: a.mp4.aria2 lies beside it")
    for size in (0, 100):
        wait = check_complete(RULES, size, 10.0, marker="", write_state=state)
        assert isinstance(wait, NotYet)
        assert wait.held
        assert wait.reason == f"{state.companion}; parked unless it changes within 9 min 50 s"
    given_up = check_complete(RULES, 100, 600.0, marker="", write_state=state)
    assert isinstance(given_up, Complete)
    assert given_up.unplayable.startswith(state.companion)
    assert "valt-uploader retry" in given_up.unplayable


def test_a_folder_is_listed_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each of its files; a large one, whose listing takes long, more rarely."""
    now, listings = SimpleNamespace(at=0.0), 0
    listed = companion_files._listed

    def slowly(folder: int) -> object:
        nonlocal listings
        listings, now.at = listings + 1, now.at + 0.5
        return listed(folder)

    monkeypatch.setattr(companion_files, "_listed", slowly)
    (tmp_path / "a.mp4.aria2").touch()
    root, files = open_root(str(tmp_path)), CompanionFiles(lambda: float(now.at))
    for number in range(100):
        assert files.of(root, f"{number}.mp4") is None
    assert listings == 1
    held = files.of(root, "a.mp4")
    assert held is not None
    assert held.companion == "a.mp4.aria2"
    now.at += 4.9
    files.of(root, "a.mp4")
    assert listings == 1
    now.at += 0.1
    files.of(root, "a.mp4")
    assert listings == 2


async def test_a_file_with_a_companion_is_sent_when_the_companion_is_gone(tmp_path: Path) -> None:
    """And not before."""
    async with Rig(tmp_path, watch={"gate_timeout": "1h", "rescan": "200ms"}) as rig:
        (rig.watch / "a.mp4.aria2").touch()
        await rig.start()
        path = await rig.drop("a.mp4", b"half of it")
        held = await rig.event(events.FileHeldBack, path=path)
        assert held.reason.startswith("aria2 has not finished it: a.mp4.aria2 lies beside it")
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert len(rig.records) == 1
        at(path).write_bytes(b"half of it, and the other half")
        (rig.watch / "a.mp4.aria2").unlink()
        await rig.finished(path)
        assert len(rig.records) == 2


async def test_a_companion_that_stays_parks_its_file(tmp_path: Path) -> None:
    """After ``gate_timeout``, with the reason; ``retry`` sends it as it is."""
    async with Rig(tmp_path, watch={"gate_timeout": "1s", "rescan": "200ms"}) as rig:
        (rig.watch / "a.mp4.part").touch()
        await rig.start()
        path = await rig.drop("a.mp4", b"whole")
        parked = await rig.event(events.UploadParked, path=path)
        assert parked.action_by is ActionBy.FILE
        assert "a.mp4.part lies beside it" in parked.reason
        await rig.retry(path)
        await rig.finished(path)

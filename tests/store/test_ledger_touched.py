"""``touched.jsonl``: files that were compared in full are not read again after a restart. It is no proof by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import FailingDisk, MemoryDisk, VirtualClock, a_finish, an_upload
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain import errors, events
from uploader.domain.model import State
from uploader.store import Store, touched
from uploader.store import ledger as ledger_file
from uploader.store.disk import StateFolder
from uploader.store.index import key_of_value
from uploader.store.ledger import Ledger
from uploader.store.touched import TOUCHED_FILE

PATH = "/rec/a.mp4"
COPY = "/rec/copy.mp4"


def touch(ledger: Ledger, path: str, mtime_ns: int, of: str = PATH) -> None:
    """Say that the file at *path* was read and has what was sent from *of*."""
    known = ledger.of(of)[0]
    ledger.touch(path, known, mtime_ns)
    ledger.note_touched(path, known, mtime_ns)


def with_touched(count: int = 3) -> MemoryDisk:
    """A disk with *count* finished files of which each was touched, and a copy of the first that was skipped."""
    disk = MemoryDisk()
    ledger = Ledger(disk)
    for number in range(1, count + 1):
        ledger.append(a_finish(f"/rec/{number}.mp4", f"record-{number}", size=number))
        touch(ledger, f"/rec/{number}.mp4", number, of=f"/rec/{number}.mp4")
    touch(ledger, COPY, 5, of="/rec/1.mp4")
    return disk


def known(disk: MemoryDisk) -> list[bool]:
    """Whether each touched file is known after a restart, and the copy."""
    ledger = Ledger(disk)
    return [*(ledger.knows(f"/rec/{number}.mp4", number, number) for number in (1, 2, 3)), ledger.knows(COPY, 1, 5)]


def edited(disk: MemoryDisk, at: int, **changes: Any) -> None:
    """Change one entry, as no daemon would have written it."""
    lines = disk.files[TOUCHED_FILE].splitlines()
    lines[at] = json.dumps(json.loads(lines[at]) | changes).encode()
    disk.files[TOUCHED_FILE] = b"\n".join(lines) + b"\n"


def test_touched_files_are_known_after_a_restart() -> None:
    """Under the same name or another; only with the size and time that they were read with."""
    disk = with_touched()
    assert known(disk) == [True] * 4
    ledger = Ledger(disk)
    assert not ledger.knows(COPY, 2, 5)
    assert not ledger.knows(COPY, 1, 6)
    assert [each.mtime_ns for each in ledger.of(COPY)] == [5]


async def test_the_store_saves_touched_files(tmp_path: Path) -> None:
    """On the state's thread, once for each time; no caller waits for it."""
    for expected in (False, True):
        store = Store(StateFolder(tmp_path), VirtualClock(), events.Bus())
        assert store.ledger.knows(PATH, 100, 5) is expected
        if not expected:
            await store.finish(a_finish(PATH))
        for _ in range(3):
            store.touch(PATH, store.ledger.of(PATH)[0], 5)
        await store.close()
    assert (tmp_path / TOUCHED_FILE).read_bytes().count(b"\n") == 1
    assert (tmp_path / TOUCHED_FILE).stat().st_mode & 0o777 == 0o600


async def test_a_disk_that_refuses_it_stops_nothing() -> None:
    """The file is known until the next restart and read again then."""
    disk = FailingDisk(MemoryDisk(), "append_cache")
    store = Store(disk, VirtualClock(), events.Bus())
    await store.finish(a_finish(PATH))
    store.touch(PATH, store.ledger.of(PATH)[0], 5)
    await store.save(an_upload(State.SENDING))
    assert disk.refused == 1
    assert store.ledger.knows(PATH, 100, 5)
    await store.close()


def test_a_refused_line_damages_no_other() -> None:
    """A full disk may leave a part of it."""
    memory = MemoryDisk()
    disk = FailingDisk(memory)
    ledger = Ledger(disk)
    ledger.append(a_finish(PATH))
    disk.refuses = {"append_cache"}
    touch(ledger, PATH, 5)
    memory.files[TOUCHED_FILE] = b'{"path": "/re'
    disk.refuses.clear()
    touch(ledger, PATH, 6)
    assert Ledger(memory).knows(PATH, 100, 6)


def test_an_incomplete_last_line_damages_no_other() -> None:
    """A power cut may leave a part of it."""
    disk = with_touched()
    disk.files[TOUCHED_FILE] = disk.files[TOUCHED_FILE][:-9]
    assert known(disk) == [True, True, True, False]
    touch(Ledger(disk), COPY, 5, of="/rec/1.mp4")
    assert known(disk) == [True] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/rec/other.mp4"},
        {"mtime_ns": 7},
        {"seq": 2},
        {"seq": 0},
        {"seq": 4},
        {"seq": 2**62},
        {"line": "0" * 64},
        {"line": ""},
        {"seal": "0" * 64},
        {"seal": 5},
        {"more": 1},
    ],
)
def test_an_entry_that_does_not_match_the_ledger_is_ignored(changes: dict[str, Any]) -> None:
    """Whatever was changed in it, the file counts as unknown."""
    disk = with_touched()
    edited(disk, 0, **changes)
    assert known(disk) == [False, True, True, True]
    ledger = Ledger(disk)
    assert not ledger.knows("/rec/other.mp4", 1, 1)
    assert not any(ledger.knows("/rec/1.mp4", size, 7) for size in range(5))


def test_entries_of_another_ledger_are_ignored() -> None:
    """An older copy was put back, and other files were finished since."""
    disk = with_touched()
    other = MemoryDisk()
    ledger = Ledger(other)
    for number in (1, 2):
        ledger.append(a_finish(f"/rec/{number}.mp4", f"record-{number + 7}", size=number))
    disk.files[ledger_file.LEDGER_FILE] = other.files[ledger_file.LEDGER_FILE]
    assert known(disk) == [False] * 4
    del disk.files[ledger_file.LEDGER_FILE]
    assert known(disk) == [False] * 4


WHOLE = with_touched().files[TOUCHED_FILE]


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_only_loses_its_lines(place: int, flip: int) -> None:
    """It is no error, and no file counts as known by it."""
    disk = with_touched()
    damaged = bytearray(WHOLE)
    damaged[place] ^= flip
    disk.files[TOUCHED_FILE] = bytes(damaged)
    assert known(disk).count(False) <= 2
    assert not set(Ledger(disk)._touched) - {key_of_value(f"/rec/{name}.mp4") for name in (1, 2, 3, "copy")}


@given(st.binary(max_size=300), st.integers(0, 3))
def test_foreign_bytes_are_no_error(foreign: bytes, at: int) -> None:
    """Whatever stands there: the lines beside it are read."""
    disk = with_touched()
    lines = WHOLE.splitlines(keepends=True)
    disk.files[TOUCHED_FILE] = b"".join(lines[:at]) + foreign + b"\n" + b"".join(lines[at:])
    assert known(disk) == [True] * 4


def test_an_endless_line_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not collected in memory either."""
    monkeypatch.setattr(touched, "TOUCHED_READ_BLOCK", 1000)
    monkeypatch.setattr(touched, "TOUCHED_LINE_LIMIT", 2000)
    disk = with_touched()
    lines = WHOLE.splitlines(keepends=True)
    disk.files[TOUCHED_FILE] = lines[0] + lines[1].rstrip(b"\n") + b" " * 9000 + b"\n" + lines[2] + lines[3]
    assert known(disk) == [True, False, True, True]


def test_a_file_that_cannot_be_opened_is_no_error(tmp_path: Path) -> None:
    """A folder or a link in its place: the daemon starts, and remembers in memory."""
    folder = StateFolder(tmp_path)
    Ledger(folder).append(a_finish(PATH))
    (tmp_path / TOUCHED_FILE).symlink_to(tmp_path / "elsewhere")
    ledger = Ledger(folder)
    touch(ledger, PATH, 5)
    assert ledger.knows(PATH, 100, 5)
    assert not (tmp_path / "elsewhere").exists()
    folder.close()


def test_a_file_that_is_touched_repeatedly_takes_no_more_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """When most lines are outdated, the others are written anew."""
    monkeypatch.setattr(touched, "STALE_LINES_ALLOWED", 10)
    disk = with_touched()
    ledger = Ledger(disk)
    lengths = []
    for mtime_ns in range(100, 200):
        touch(ledger, "/rec/1.mp4", mtime_ns, of="/rec/1.mp4")
        lengths.append(disk.files[TOUCHED_FILE].count(b"\n"))
    assert max(lengths) <= 2 * 4 + 10
    assert min(lengths[20:]) == 4
    assert TOUCHED_FILE + ".1" not in disk.files
    again = Ledger(disk)
    assert again.knows("/rec/1.mp4", 1, 199)
    assert [again.knows(f"/rec/{number}.mp4", number, number) for number in (2, 3)] == [True, True]
    assert again.knows(COPY, 1, 5)


def test_touched_files_cost_no_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An indexer may touch thousands; a lost entry only means reading a file again."""
    folder = StateFolder(tmp_path)
    ledger = Ledger(folder)
    ledger.append(a_finish(PATH))

    def fsync(fd: int) -> None:
        raise AssertionError("an fsync")

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr(touched, "STALE_LINES_ALLOWED", 3)
    for mtime_ns in range(20):
        touch(ledger, PATH, mtime_ns)
    assert Ledger(folder).knows(PATH, 100, 19)
    monkeypatch.undo()
    folder.close()


def test_a_reader_without_the_daemon_knows_touched_files_too() -> None:
    """``explain`` from the saved state says the same as the daemon, and writes nothing."""
    disk = with_touched()
    before = dict(disk.files)
    assert Ledger(disk, repair=False).knows(COPY, 1, 5)
    assert disk.files == before


def test_an_unreadable_ledger_is_fatal_at_the_start() -> None:
    """Unlike this cache."""
    disk = with_touched()
    disk.files[ledger_file.LEDGER_FILE] = b"{}\n"
    with pytest.raises(errors.StateUnusable):
        Store(disk, VirtualClock(), events.Bus())

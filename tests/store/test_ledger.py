"""The ledger: the chain of finished uploads, what it proves, and what it says of a file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable

import pytest
from fakes import FailingDisk, MemoryDisk, a_finish
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain.model import Identity
from uploader.store.codec import UnreadableContent
from uploader.store.ledger import GENESIS, LEDGER_FILE, Ledger, chain

Lines = list[bytes]


def written(count: int = 5) -> tuple[Ledger, MemoryDisk]:
    """A ledger of *count* lines, and the disk it is on."""
    disk = MemoryDisk()
    ledger = Ledger(disk)
    for number in range(1, count + 1):
        ledger.append(a_finish(f"/rec/{number}.mp4", f"record-{number}", size=number))
    return ledger, disk


def lines_of(disk: MemoryDisk) -> Lines:
    """The lines without their line feeds."""
    return disk.files[LEDGER_FILE].removesuffix(b"\n").split(b"\n")


def on_disk(lines: Lines) -> MemoryDisk:
    """A disk that holds these lines."""
    return MemoryDisk(**{LEDGER_FILE: b"".join(line + b"\n" for line in lines)})


def test_each_line_has_the_hash_of_the_line_before_it() -> None:
    """sha256sum alone can check it; the first line has zeros."""
    _, disk = written(3)
    previous = GENESIS
    for number, raw in enumerate(lines_of(disk), start=1):
        line = json.loads(raw)
        assert (line["seq"], line["previous"]) == (number, previous)
        previous = hashlib.sha256(raw).hexdigest()


def test_finished_uploads_are_known_after_a_restart() -> None:
    """The ledger read back gives the same answers, and its chain goes on."""
    ledger, disk = written(3)
    again = Ledger(disk)
    assert again.count == ledger.count == 3
    assert again.of("/rec/2.mp4") == ledger.of("/rec/2.mp4") != ()
    again.append(a_finish("/rec/4.mp4", "record-4"))
    assert [facts.seq for facts, _, _ in chain(lines_of(disk))] == [1, 2, 3, 4]


def test_a_missing_ledger_is_empty() -> None:
    """As at the first start."""
    ledger = Ledger(MemoryDisk())
    assert (ledger.count, ledger.cut, ledger.of("/rec/a.mp4")) == (0, b"", ())


def test_every_path_is_read_back_equal() -> None:
    """A path that is not UTF-8 takes one line."""
    path = os.fsdecode(b"/rec/\xff\n\r\xe2\x80\xa8.mp4")
    disk = MemoryDisk()
    Ledger(disk).append(a_finish(path))
    assert disk.files[LEDGER_FILE].count(b"\n") == 1
    assert [known.record for known in Ledger(disk).of(path)] == ["record-1"]


def changed(lines: Lines, at: int) -> Lines:
    """One digit of one line is another."""
    return [*lines[:at], lines[at].replace(b'"size": ', b'"size": 9'), *lines[at + 1 :]]


def removed(lines: Lines, at: int) -> Lines:
    """One line is gone."""
    return lines[:at] + lines[at + 1 :]


def doubled(lines: Lines, at: int) -> Lines:
    """One line stands there twice."""
    return [*lines[: at + 1], *lines[at:]]


def swapped(lines: Lines, at: int) -> Lines:
    """Two neighbours have changed places."""
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


def renumbered(lines: Lines, at: int) -> Lines:
    """A line is gone, and the lines after it have new numbers."""
    rest = [
        raw.replace(f'"seq": {number + 1},'.encode(), f'"seq": {number},'.encode())
        for number, raw in enumerate(lines[at + 1 :], start=at + 1)
    ]
    return lines[:at] + rest


def blank(lines: Lines, at: int) -> Lines:
    """A line has been emptied."""
    return [*lines[:at], b"", *lines[at + 1 :]]


def with_carriage_returns(lines: Lines, at: int) -> Lines:
    """An editor has given the lines from here on other ends."""
    return lines[:at] + [line + b"\r" for line in lines[at:]]


@pytest.mark.parametrize(
    ("tamper", "found_at"),
    [
        (changed, "line 3: the line before it was changed"),
        (removed, "line 2: it says it is line 3"),
        (doubled, "line 3: it says it is line 2"),
        (swapped, "line 2: it says it is line 3"),
        (renumbered, "line 2: the line before it was changed"),
        (blank, "line 2: it is empty"),
        (with_carriage_returns, "line 3: the line before it was changed"),
    ],
)
def test_a_tampered_ledger_is_found_with_its_line(tamper: Callable[[Lines, int], Lines], found_at: str) -> None:
    """Changed, taken out, put in, reordered: the first line that no longer fits is named."""
    _, disk = written()
    with pytest.raises(UnreadableContent, match=found_at):
        Ledger(on_disk(tamper(lines_of(disk), 1)))


@given(st.sampled_from([changed, removed, doubled, swapped, renumbered, blank]), st.integers(0, 3))
def test_any_tampering_before_the_last_line_is_found(tamper: Callable[[Lines, int], Lines], at: int) -> None:
    """Wherever it is done, with at least one line after it."""
    _, disk = written()
    with pytest.raises(UnreadableContent, match=r"^line \d: "):
        list(chain(tamper(lines_of(disk), at)))


@given(st.data())
def test_no_byte_before_the_last_line_can_be_changed(data: st.DataObject) -> None:
    """The line after it confirms each byte."""
    _, disk = written(4)
    content = bytearray(disk.files[LEDGER_FILE])
    guarded = content[:-1].rfind(b"\n") + 1
    content[data.draw(st.integers(0, guarded - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UnreadableContent, match=r"^line \d: "):
        Ledger(MemoryDisk(**{LEDGER_FILE: bytes(content)}))


@pytest.mark.parametrize("left", [1, 20, -1])
def test_an_incomplete_last_line_is_cut_off(left: int) -> None:
    """It was never confirmed; the lines before it are valid, and the chain goes on from there."""
    _, disk = written(3)
    last = lines_of(disk)[-1]
    whole = disk.files[LEDGER_FILE][: -len(last) - 1]
    disk.files[LEDGER_FILE] = whole + last[:left]
    ledger = Ledger(disk)
    assert (ledger.count, ledger.cut, disk.files[LEDGER_FILE]) == (2, last[:left], whole)
    ledger.append(a_finish("/rec/new.mp4"))
    assert Ledger(disk).count == 3


def test_a_reader_skips_an_incomplete_last_line() -> None:
    """The daemon may be writing it now."""
    _, disk = written(3)
    disk.files[LEDGER_FILE] += b'{"seq": 4, "prev'
    before = disk.files[LEDGER_FILE]
    ledger = Ledger(disk, repair=False)
    assert (ledger.count, disk.files[LEDGER_FILE]) == (3, before)


def test_a_refused_append_changes_nothing() -> None:
    """Neither memory nor chain; the next try writes the same line."""
    ledger, memory = written(1)
    disk = FailingDisk(memory, "append", error=errno.ENOSPC)
    ledger = Ledger(disk)
    with pytest.raises(OSError, match="No space left"):
        ledger.append(a_finish("/rec/2.mp4", "record-2"))
    assert (ledger.count, ledger.of("/rec/2.mp4"), ledger.holds("record-2")) == (1, (), False)
    disk.refuses.clear()
    ledger.append(a_finish("/rec/2.mp4", "record-2"))
    assert Ledger(memory).count == 2


def test_a_file_is_known_by_its_size_and_time() -> None:
    """As its inode shows it: another size, another time or another path is not this file."""
    ledger, _ = written(1)
    known = ledger.of("/rec/1.mp4")[0]
    assert ledger.knows("/rec/1.mp4", 1, known.mtime_ns)
    assert not ledger.knows("/rec/1.mp4", 2, known.mtime_ns)
    assert not ledger.knows("/rec/1.mp4", 1, known.mtime_ns + 1)
    assert not ledger.knows("/rec/2.mp4", 1, known.mtime_ns)


def test_a_touched_file_is_found_by_its_ends() -> None:
    """Equal size and ends at another time are probably the same content; once proved, the new time is known."""
    ledger, disk = written(1)
    known = ledger.alike("/rec/1.mp4", Identity(1, 5, "e1"))
    assert known is not None
    assert ledger.alike("/rec/1.mp4", Identity(1, 5, "other")) is None
    assert ledger.alike("/rec/2.mp4", Identity(1, 5, "e1")) is None
    before = disk.files[LEDGER_FILE]
    ledger.touch("/rec/1.mp4", known, 5)
    assert ledger.knows("/rec/1.mp4", 1, 5)
    assert disk.files[LEDGER_FILE] == before


def test_a_path_may_have_many_ledger_lines() -> None:
    """One for each content; all are known, oldest first."""
    disk = MemoryDisk()
    ledger = Ledger(disk)
    for number in (1, 2):
        ledger.append(a_finish("/rec/a.mp4", f"record-{number}", size=number))
    assert [known.seq for known in ledger.of("/rec/a.mp4")] == [1, 2]
    assert ledger.holds("record-2")
    assert not ledger.holds("record-3")

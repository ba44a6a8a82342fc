"""The chain of finished uploads: what it proves, what it finds, and what it says of a file."""

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


def test_each_line_carries_the_hash_of_the_line_before_it() -> None:
    """Whoever has a line can check the one before with sha256sum alone; the first carries zeros."""
    _, disk = written(3)
    previous = GENESIS
    for number, raw in enumerate(lines_of(disk), start=1):
        line = json.loads(raw)
        assert (line["seq"], line["previous"]) == (number, previous)
        previous = hashlib.sha256(raw).hexdigest()


def test_what_was_written_is_known_after_a_restart() -> None:
    """The ledger read back says the same as the one that wrote it, and its chain goes on."""
    ledger, disk = written(3)
    again = Ledger(disk)
    assert again.count == ledger.count == 3
    assert again.of("/rec/2.mp4") == ledger.of("/rec/2.mp4") != ()
    again.append(a_finish("/rec/4.mp4", "record-4"))
    assert [facts.seq for facts, _, _ in chain(lines_of(disk))] == [1, 2, 3, 4]


def test_a_ledger_that_is_not_there_is_empty() -> None:
    """The first start has no history."""
    ledger = Ledger(MemoryDisk())
    assert (ledger.count, ledger.cut, ledger.of("/rec/a.mp4")) == (0, b"", ())


def test_every_name_comes_back() -> None:
    """A path that is not UTF-8 is one line, and the same path again."""
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
    """A line is gone, and those after it are counted anew by whoever took it."""
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
def test_tampering_before_the_last_line_never_passes(tamper: Callable[[Lines, int], Lines], at: int) -> None:
    """Wherever it is done, with at least one line after it."""
    _, disk = written()
    with pytest.raises(UnreadableContent, match=r"^line \d: "):
        list(chain(tamper(lines_of(disk), at)))


@given(st.data())
def test_no_byte_before_the_last_line_can_be_changed(data: st.DataObject) -> None:
    """Every single byte there is vouched for by the line after it."""
    _, disk = written(4)
    content = bytearray(disk.files[LEDGER_FILE])
    guarded = content[:-1].rfind(b"\n") + 1
    content[data.draw(st.integers(0, guarded - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UnreadableContent, match=r"^line \d: "):
        Ledger(MemoryDisk(**{LEDGER_FILE: bytes(content)}))


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_torn_last_line_is_cut_off_and_the_rest_holds(left: int) -> None:
    """Nobody was told of it: what stands before is whole, and the chain goes on from there."""
    _, disk = written(3)
    last = lines_of(disk)[-1]
    whole = disk.files[LEDGER_FILE][: -len(last) - 1]
    disk.files[LEDGER_FILE] = whole + last[:left]
    ledger = Ledger(disk)
    assert (ledger.count, ledger.cut, disk.files[LEDGER_FILE]) == (2, last[:left], whole)
    ledger.append(a_finish("/rec/new.mp4"))
    assert Ledger(disk).count == 3


def test_whoever_only_reads_passes_a_torn_line_over() -> None:
    """The daemon may be writing it just now."""
    _, disk = written(3)
    disk.files[LEDGER_FILE] += b'{"seq": 4, "prev'
    before = disk.files[LEDGER_FILE]
    ledger = Ledger(disk, repair=False)
    assert (ledger.count, disk.files[LEDGER_FILE]) == (3, before)


def test_a_refused_append_is_as_if_it_had_not_been_tried() -> None:
    """Neither memory nor chain move; the next try writes the same line."""
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


def test_a_touched_file_is_known_by_its_edges() -> None:
    """Equal size and ends at another time: probably the same content; once proved, its new time is known too."""
    ledger, disk = written(1)
    known = ledger.alike("/rec/1.mp4", Identity(1, 5, "e1"))
    assert known is not None
    assert ledger.alike("/rec/1.mp4", Identity(1, 5, "other")) is None
    assert ledger.alike("/rec/2.mp4", Identity(1, 5, "e1")) is None
    before = disk.files[LEDGER_FILE]
    ledger.touch("/rec/1.mp4", known, 5)
    assert ledger.knows("/rec/1.mp4", 1, 5)
    assert disk.files[LEDGER_FILE] == before


def test_one_path_may_have_been_sent_many_times() -> None:
    """Each content has its line; all are remembered, oldest first."""
    disk = MemoryDisk()
    ledger = Ledger(disk)
    for number in (1, 2):
        ledger.append(a_finish("/rec/a.mp4", f"record-{number}", size=number))
    assert [known.seq for known in ledger.of("/rec/a.mp4")] == [1, 2]
    assert ledger.holds("record-2")
    assert not ledger.holds("record-3")

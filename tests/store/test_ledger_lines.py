"""The ledger as a file: read in blocks, each line strictly, its end confirmed by the state."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from typing import get_args

import pytest
from fakes import FailingDisk, MemoryDisk, a_finish
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain.model import AfterUpload, FinishedUpload
from uploader.store import codec, line
from uploader.store import ledger as ledger_file
from uploader.store.codec import LedgerHead, UnreadableContent
from uploader.store.ledger import GENESIS, LEDGER_FILE, Ledger, LedgerHeadMismatch, Lines
from uploader.store.line import IndexKeys, LedgerLine, index_keys_of

names = st.binary(min_size=1, max_size=30).map(os.fsdecode) | st.text(max_size=20)
whole = st.integers(0, 2**63 - 1)
times = st.floats(0, 4e9) | st.just(1e16)
ledger_lines = st.builds(
    LedgerLine,
    whole,
    st.just(GENESIS),
    st.builds(
        FinishedUpload,
        path=names,
        size=whole,
        mtime_ns=st.integers(-(2**65), 2**65),
        edges=names,
        sha256=names,
        record=names,
        video=names,
        name=names,
        begun_at=times,
        sent_at=times,
        ready_at=times,
        chunks=st.integers(0, 10**6),
        after_upload=st.sampled_from(get_args(AfterUpload)),
        moved_to=st.none() | names,
    ),
)


def strictly(raw: bytes) -> IndexKeys:
    """The facts as the codec alone reads them."""
    read = codec.from_json(LedgerLine, raw)
    upload = read.upload
    return IndexKeys(read.seq, read.previous, upload.path, upload.size, upload.mtime_ns, upload.edges, upload.record)


def written(count: int) -> MemoryDisk:
    """A disk with a ledger of *count* lines."""
    disk = MemoryDisk()
    ledger = Ledger(disk)
    for number in range(1, count + 1):
        ledger.append(a_finish(f"/rec/{number}.mp4", f"record-{number}", size=number))
    return disk


WHOLE = written(4)
TAIL = Ledger(WHOLE).head
CONTENT = WHOLE.files[LEDGER_FILE]


# The quick way to read a line


@given(ledger_lines)
def test_the_fast_parser_reads_the_same_as_the_codec(written_line: LedgerLine) -> None:
    """Every name, every size, every time."""
    raw = codec.to_json(written_line).encode("ascii")
    assert index_keys_of(raw) == strictly(raw)
    assert codec.from_json(LedgerLine, raw) == written_line


@given(ledger_lines, st.data())
def test_the_fast_parser_accepts_nothing_that_the_codec_refuses(written_line: LedgerLine, data: st.DataObject) -> None:
    """A byte flipped, put in or taken out: both refuse it with the same text, or both read the same."""
    content = bytearray(codec.to_json(written_line).encode("ascii"))
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "put in", "take out"])):
        case "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        case "put in":
            content[at:at] = data.draw(
                st.sampled_from([b"0", b"-", b".", b'"', b"\\", b" ", b"1e5", b"\\u00", b"{", b"\x85", b"\xc2\x85"])
            )
        case _:
            del content[at]
    try:
        expected: IndexKeys | str = strictly(bytes(content))
    except UnreadableContent as error:
        expected = str(error)
    try:
        got: IndexKeys | str = index_keys_of(bytes(content))
    except UnreadableContent as error:
        got = str(error)
    assert got == expected


def test_every_written_line_is_read_by_the_fast_parser() -> None:
    """Otherwise a start would take ten times as long without a sign of why."""
    every_field = a_finish("/rec/\udcff\n.mp4", moved_to="/done/ä.mp4", mtime_ns=-1)
    assert all(getattr(every_field, each.name) is not None for each in dataclasses.fields(FinishedUpload))
    for finished in (a_finish(), every_field):
        assert line._AS_WE_WRITE_IT(codec.to_json(LedgerLine(1, GENESIS, finished)))


def faulty(change: str, value: str) -> bytes:
    """A ledger of one line in which *change* stands for something else."""
    raw = codec.to_json(LedgerLine(1, GENESIS, a_finish()))
    assert change in raw
    return raw.replace(change, value).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (faulty('"size": 100', '"size": NaN'), "NaN is no number"),
        (faulty('"size": 100', '"size": -1'), "size: expected a whole number, not negative"),
        (faulty('"size": 100', f'"size": {2**63}'), "size: expected a whole number"),
        (faulty('"size": 100', '"size": ' + "9" * 5000), "it is not JSON"),
        (faulty('"size": 100', '"size": 0100'), "it is not JSON"),
        (faulty('"size": 100', '"size": 1e2'), "size: expected a whole number"),
        (faulty('"size": 100', '"size": true'), "size: expected a whole number"),
        (faulty('"size": 100', '"size": 100, "size": 101'), "a key appears twice"),
        (faulty('"size": 100', '"size": 100, "extra": 1'), "unknown extra"),
        (faulty('"size": 100, ', ""), "missing size"),
        (faulty('"size": 100', '"size": ' + '{"a":' * 200_000), "it is not JSON"),
        (faulty("1800000002.0", "Infinity"), "Infinity is no number"),
        (faulty("1800000002.0", "1e999"), "sent_at: expected a number"),
        (faulty('"keep"', '"burn"'), "after_upload: expected 'keep' or 'move' or 'delete'"),
        (faulty('"mtime_ns": 17', f'"mtime_ns": {2**96}17'), "mtime_ns: expected a whole number"),
        (faulty('"/rec/a.mp4"', "null"), "path: expected a text"),
        (faulty('"/rec/a.mp4"', '"\xff"').replace(b"\xc3\xbf", b"\xff"), "it is not JSON"),
        (faulty('"/rec/a.mp4"', '"\x85"').replace(b"\xc2\x85", b"\x85"), "it is not JSON"),
        (faulty('"/rec/a.mp4"', '"\t"'), "it is not JSON"),
        (b"[" * 1_000_000 + b"\n", "it is not JSON"),
        (b"null\n", "it is not a JSON object"),
        (b"\0" * 500 + b"\n", "it is empty"),
    ],
)
def test_a_line_of_the_wrong_shape_is_refused_with_its_number(content: bytes, said: str) -> None:
    """Valid JSON or not: the error says what is wrong, and nothing is cut off or skipped."""
    disk = MemoryDisk(**{LEDGER_FILE: content})
    with pytest.raises(UnreadableContent, match="^line 1: .*" + said):
        Ledger(disk)
    assert disk.files == {LEDGER_FILE: content}


@pytest.mark.parametrize("mtime_ns", [-11_644_473_600_000_000_000, -1, 2**63, 2**64])
def test_times_outside_of_the_usual_range_are_read_back(mtime_ns: int) -> None:
    """A Windows share gives 1601 for never, and ext4 goes up to 2446."""
    disk = MemoryDisk()
    Ledger(disk).append(a_finish(mtime_ns=mtime_ns))
    assert Ledger(disk).knows("/rec/a.mp4", 100, mtime_ns)


def test_a_line_that_could_not_be_read_back_is_not_written() -> None:
    """It would stop every later start."""
    disk = written(1)
    before = dict(disk.files)
    ledger = Ledger(disk)
    with pytest.raises(UnreadableContent, match="size"):
        ledger.append(a_finish(size=-1))
    assert (disk.files, ledger.count) == (before, 1)


# Block by block


@given(st.integers(1, 2000), st.integers(0, len(CONTENT)))
def test_lines_are_read_the_same_whatever_the_block_size(block: int, length: int) -> None:
    """And so is an incomplete last line."""
    disk = FailingDisk(MemoryDisk(**{LEDGER_FILE: CONTENT[:length]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_file, "LEDGER_READ_BLOCK", block)
        lines = Lines(disk)
        read = list(lines)
    *expected, torn = CONTENT[:length].split(b"\n")
    assert (read, lines.torn) == (expected, torn)
    assert all(asked <= block for _, asked in disk.asked)


def test_a_start_reads_the_ledger_once_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first byte to its last, and never as a whole."""
    memory = written(30)
    monkeypatch.setattr(ledger_file, "LEDGER_READ_BLOCK", 700)
    monkeypatch.setattr(memory, "read", lambda name: pytest.fail(f"{name} was read whole"))
    disk = FailingDisk(memory)
    assert Ledger(disk).count == 30
    size = len(memory.files[LEDGER_FILE])
    assert [offset for offset, _ in disk.asked] == list(range(0, size, 700))
    assert sum(length for _, length in disk.asked) < size + 700


def test_a_line_that_is_too_long_is_refused() -> None:
    """A foreign file in place of the ledger fills no memory, and is not cut as an incomplete line."""
    for end in (b"", b"\n"):
        disk = MemoryDisk(**{LEDGER_FILE: CONTENT + b"x" * (3 * ledger_file.LINE_LENGTH_LIMIT) + end})
        with pytest.raises(UnreadableContent, match="line 5: it is longer than any line of this program"):
            Ledger(disk)
        assert len(disk.files[LEDGER_FILE]) > 3 * ledger_file.LINE_LENGTH_LIMIT


def test_the_rest_of_a_refused_append_is_cut_before_the_next() -> None:
    """The disk refused the line and kept its beginning."""

    class Sticky(MemoryDisk):
        """Keeps half of what it refuses."""

        full = True

        def append(self, name: str, content: bytes) -> None:
            """Append half, and say no."""
            if self.full:
                super().append(name, content[:50])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().append(name, content)

    disk = Sticky(**WHOLE.files)
    ledger = Ledger(disk)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            ledger.append(a_finish("/rec/5.mp4", "record-5"))
    disk.full = False
    ledger.append(a_finish("/rec/5.mp4", "record-5"))
    assert (Ledger(disk).count, Ledger(disk).cut) == (5, b"")


# The tail


def loaded(content: bytes, expected_head: LedgerHead | None = TAIL, *, repair: bool = True) -> MemoryDisk:
    """Load a ledger of these bytes, of which the state has seen so much."""
    disk = MemoryDisk(**{LEDGER_FILE: content})
    try:
        Ledger(disk, expected_head=expected_head, repair=repair)
    except UnreadableContent:
        assert disk.files == {LEDGER_FILE: content}, "nothing may be cut off what is not understood"
        raise
    return disk


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(at: int, flip: int) -> None:
    """The next line confirms each line, and the state the last one."""
    damaged = bytearray(CONTENT)
    damaged[at] ^= flip
    with pytest.raises(UnreadableContent, match=r"^(line \d: |it ends after line \d|it is missing)"):
        loaded(bytes(damaged))


def test_every_flipped_bit_is_found_or_changes_no_value() -> None:
    """The lowest bit of each single byte, so that digits stay digits."""
    for at in range(len(CONTENT)):
        with pytest.raises(UnreadableContent):
            loaded(CONTENT[:at] + bytes([CONTENT[at] ^ 1]) + CONTENT[at + 1 :])


@given(st.integers(0, len(CONTENT) - 1), st.booleans())
def test_a_cut_ledger_is_found(length: int, repair: bool) -> None:
    """Whole lines or a part of one that the state has counted; the file stays as it is."""
    with pytest.raises(LedgerHeadMismatch, match=r"but the state has seen line 4; its end was cut off"):
        loaded(CONTENT[:length], repair=repair)


def test_a_last_line_that_was_replaced_is_found() -> None:
    """A line of the right number, linked to the one before, but not the one that was written."""
    disk = MemoryDisk(**{LEDGER_FILE: CONTENT[: CONTENT.rindex(b"\n", 0, -1) + 1]})
    Ledger(disk).append(a_finish("/rec/4.mp4", "record-5", size=4))
    assert Ledger(disk).count == 4
    with pytest.raises(LedgerHeadMismatch, match="line 4: it is not the line that the state has seen"):
        loaded(disk.files[LEDGER_FILE])


def test_the_state_may_have_counted_fewer_lines() -> None:
    """The line is written first: uncounted lines are valid, and an incomplete one after them is cut off."""
    disk = MemoryDisk(**WHOLE.files)
    Ledger(disk).append(a_finish("/rec/5.mp4", "record-5"))
    assert Ledger(disk, expected_head=TAIL).count == 5
    assert loaded(CONTENT + b'{"seq": 5, "prev').files == {LEDGER_FILE: CONTENT}
    assert loaded(CONTENT, LedgerHead(0, GENESIS)).files == {LEDGER_FILE: CONTENT}
    assert loaded(CONTENT, None).files == {LEDGER_FILE: CONTENT}


def test_a_missing_ledger_is_found() -> None:
    """When the state has counted lines in it."""
    with pytest.raises(LedgerHeadMismatch, match="it is missing or empty, but the state has seen line 4"):
        Ledger(MemoryDisk(), expected_head=TAIL)


def test_the_tail_is_the_number_of_lines_and_the_last_hash() -> None:
    """As sha256sum gives it."""
    assert json.loads(CONTENT.splitlines()[-1])["seq"] == TAIL.count == 4
    ledger = Ledger(MemoryDisk(**WHOLE.files))
    ledger.append(a_finish("/rec/5.mp4", "record-5"))
    assert json.loads(ledger._disk.read_at(LEDGER_FILE, len(CONTENT), 10_000))["previous"] == TAIL.last
    assert ledger.head.count == 5

"""Damaged recordings of every kind: no check raises, none costs more than its limits, and none depends on its reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_container_files import KINDS, Reader, left_open, recording
from test_container_mp4_fragments import FRAGMENTS, HEAD, PLACE

from uploader.container import LONGEST, ContainerState, duration, inspect, reader

MARKS = (
    *(
        b"ftyp",
        b"moov",
        b"trak",
        b"stsz",
        b"stco",
        b"stsc",
        b"mvex",
        b"moof",
        b"traf",
        b"tfhd",
        b"trun",
        b"mdat",
        b"mfra",
    ),
    *(b"tfra", b"mfro", b"sidx", b"RIFF", b"LIST", b"movi", b"idx1", b"indx", b"avih", b"strh", b"dmlh"),
    *(bytes.fromhex(word) for word in ("18538067", "114d9b74", "1f43b675", "1549a966", "1c53bb6b", "1654ae6b")),
    *(bytes.fromhex(word) for word in ("3026b2758e66cf11", "a1dcab8c47a9cf11", "000001ba", "060e2b34")),
)
EXTREMES = [
    *(
        bytes(4),
        bytes(8),
        b"\0\0\0\1",
        b"\0\0\0\x08",
        b"\xff" * 4,
        b"\xff" * 8,
        b"\x7f" + b"\xff" * 3,
        b"\x80" + bytes(3),
    ),
    *(b"\1\0\0\0", b"\x08\0\0\0", b"\0\0\0\1" + bytes(4) + b"\1" + b"\xff" * 7, b"\x01" + b"\xff" * 7, b"\x10\0\0\0"),
]


@cache
def seed(name: str) -> bytes:
    """A recording that is damaged: made by a muxer, closed or open, or by hand."""
    if name == "hybrid by hand":
        return HEAD[:24] + PLACE + HEAD[24:] + FRAGMENTS
    if name == "fragments by hand":
        return HEAD + FRAGMENTS
    kind, _, state = name.partition("; ")
    return left_open(kind) if state else recording(kind)


OPEN = ["hybrid; open", "fragmented; open", "mkv; open", "mkv, live; open", "avi; open", "wmv; open", "mxf; open"]
SEEDS = ["hybrid by hand", "fragments by hand", *KINDS, *OPEN]
FAMILIES = sorted({kind.container for kind in KINDS.values()})


def of_family(family: str) -> list[str]:
    """The seeds of one family of containers."""
    return [
        name for name in SEEDS if family == (KINDS[name.partition(";")[0]].container if name[-4:] != "hand" else "mp4")
    ]


class Change(NamedTuple):
    """One damage. *at*: where, as a part of the file in 65,536ths, or near a mark."""

    what: str
    at: int
    length: int
    data: bytes


CHANGES = st.builds(
    Change,
    st.sampled_from(["flip", "cut", "insert", "delete", "zero", "splice", "extreme", "extreme", "extreme"]),
    st.integers(0, 65_535) | st.integers(65_536, 65_536 + 40 * 40),
    st.integers(1, 64) | st.integers(1, 100_000),
    st.binary(min_size=1, max_size=12) | st.sampled_from(EXTREMES),
)


def damaged(data: bytes, changes: list[Change], other: bytes) -> bytes:
    """Return a recording with these changes, made one after the other."""
    for change in changes:
        at = min(_place(data, change.at), len(data))
        end = at + change.length
        match change.what:
            case "flip" | "extreme":
                data = data[:at] + change.data + data[at + len(change.data) :]
            case "cut":
                data = data[:at]
            case "insert":
                data = data[:at] + change.data * min(change.length, 100) + data[at:]
            case "delete":
                data = data[:at] + data[end:]
            case "zero":
                data = data[:at] + bytes(len(data[at:end])) + data[end:]
            case _:
                start = change.length * 7 % max(1, len(other))
                data = data[:at] + other[start : start + change.length] + data[at:]
    return data


def _place(data: bytes, at: int) -> int:
    """Return an offset: a part of the file, or a few bytes from one of the marks in it."""
    if at < 65_536:
        return len(data) * at // 65_536
    number, off = divmod(at - 65_536, 40)
    found = [place for mark in MARKS if (place := data.find(mark)) >= 0] or [0]
    return max(0, found[number % len(found)] + off - 12)


@contextmanager
def read_otherwise(smallest: int, piece: int) -> Iterator[None]:
    """Let checks read in pieces of other sizes; the number of reads is not limited meanwhile."""
    with (
        patch.object(reader, "SMALLEST_READ", smallest),
        patch.object(reader, "LARGEST_PIECE", piece),
        patch.object(reader, "MAX_READS", 1 << 40),
    ):
        yield


def findings(data: bytes, suffix: str) -> tuple[ContainerState, float | None, int]:
    """Return what is found of these bytes, and the number of reads. The reader holds the check to its limits."""
    files = [Reader(lambda offset, length: data[offset : offset + length], len(data)) for _ in range(2)]
    found = inspect(files[0], len(data), suffix), duration(files[1], len(data))
    return *found, max(file.reads for file in files)


@pytest.mark.parametrize("family", FAMILIES)
@given(st.data(), st.lists(CHANGES, min_size=1, max_size=5), st.sampled_from(SEEDS), st.sampled_from([1, 100, 60_000]))
def test_a_damaged_recording_is_judged_within_the_limits(
    family: str, data: st.DataObject, changes: list[Change], other: str, smallest: int
) -> None:
    """It never raises. A reason is one line of text, and the finding does not depend on the sizes of the reads."""
    file = damaged(seed(data.draw(st.sampled_from(of_family(family)))), changes, seed(other))
    verdict, seconds, reads = findings(file, ".mp4")
    assert verdict.unfinished.isprintable()
    assert bool(verdict.unfinished) >= verdict.playable
    assert seconds is None or 0 < seconds <= LONGEST
    if reads < reader.MAX_READS // 2:
        with read_otherwise(smallest, reader.FIRST_PIECE):
            assert findings(file, ".mp4")[:2] == (verdict, seconds)


@pytest.mark.parametrize(
    "filler", [b"\0\0\0\x08free", b"\0\0\0\x08moof", b"\xec\x80", b"JUNK\0\0\0\0", b"\x1f\x43\xb6\x75\x80"]
)
@pytest.mark.parametrize("name", ["fragments by hand", "mp4", "mkv", "mkv, live", "avi"])
def test_a_million_tiny_structures_are_not_all_looked_at(name: str, filler: bytes) -> None:
    """The number of looks is limited, too: reads and bytes alone would allow for minutes of processor time."""
    head = seed(name)
    looks = 0
    at = reader.ContainerReader.at

    def counted(source: reader.ContainerReader, offset: int, length: int) -> bytes:
        nonlocal looks
        looks += 1
        return at(source, offset, length)

    with patch.object(reader.ContainerReader, "at", counted):
        for middle in (len(head) // 2, len(head)):
            findings(head[:middle] + filler * (2_000_000 // len(filler)) + head[middle:], ".mp4")
    assert looks <= 4 * reader.MAX_LOOKS + 1000

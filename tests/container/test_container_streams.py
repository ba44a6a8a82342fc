"""The check of AVI, MPEG-TS, MPEG-PS and ASF by their heads."""

from __future__ import annotations

import struct

import pytest
from test_container_files import judged, pieces, recording

from uploader.container import ContainerState, inspect

AVI = ContainerState("avi", "")
HAS_INDEX, NO_INDEX = 0x10, 0
PAST = "past the end of the file: the copy is not complete"
OPEN = "the recorder did not close this file"
GIB = 1 << 30


def chunk(kind: bytes, *contents: bytes, size: int | None = None) -> bytes:
    """A chunk of RIFF, padded to an even length; *size* is what its head says when that is not the truth."""
    payload = b"".join(contents)
    length = len(payload) if size is None else size
    return kind + struct.pack("<I", length) + payload + bytes(len(payload) % 2)


def header(flags: int = HAS_INDEX, *more: bytes) -> bytes:
    """The header list."""
    return chunk(b"LIST", b"hdrl", chunk(b"avih", bytes(12), struct.pack("<I", flags), bytes(40)), *more)


def super_index(*entries: tuple[int, int]) -> bytes:
    """OpenDML's index of indexes, with room for 8."""
    used = b"".join(struct.pack("<QII", offset, size, 100) for offset, size in entries)
    head = struct.pack("<HBBI4s12x", 4, 0, 0, len(entries), b"00dc")
    return chunk(b"LIST", b"strl", chunk(b"indx", head, used, bytes(16 * (8 - len(entries)))))


MOVI = chunk(b"LIST", b"movi", chunk(b"00dc", b"\x65" * 3001))
IDX1 = chunk(b"idx1", struct.pack("<4sIII", b"00dc", 16, 4, 3001) * 5)


def avi(*parts: bytes, size: int | None = None, behind: bytes = b"") -> ContainerState:
    """Check a RIFF of these parts, and what is *behind* it."""
    return judged(chunk(b"RIFF", b"AVI ", *parts, size=size) + behind, ".avi")


@pytest.mark.parametrize(
    "parts",
    [
        (header(), MOVI, IDX1),
        (header(), chunk(b"JUNK", bytes(2000)), MOVI, IDX1),
        (header(), MOVI, IDX1, chunk(b"JUNK", bytes(100_000))),
        (header(NO_INDEX), MOVI),
        (chunk(b"JUNK", bytes(7)), header(), MOVI, IDX1),
    ],
)
def test_closed_avi_passes(parts: tuple[bytes, ...]) -> None:
    """Header, media and the announced index are a finished recording, whatever follows."""
    assert avi(*parts) == AVI
    assert avi(*parts, behind=b"something") == AVI
    assert avi(*parts, behind=bytes(100_000)) == AVI


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (avi(header(), size=0), f"its RIFF header has no size yet: {OPEN}"),
        (avi(header(), size=0xFFFFFFFF), f"its RIFF header has no size yet: {OPEN}"),
        (avi(header(), chunk(b"LIST", b"movi", b"\x65" * 900, size=0)), f"its movi list has no size yet: {OPEN}"),
        (avi(header(), chunk(b"LIST", b"movi", size=0xFFFFFFFF)), f"its movi list has no size yet: {OPEN}"),
        (
            avi(header(), MOVI, size=9000),
            f"its RIFF ends {9000 + 8 - len(header() + MOVI) - 12} bytes {PAST}",
        ),
        (avi(header(), chunk(b"JUNK", bytes(30))), "no movi list: the copy is not complete"),
        (avi(header(), MOVI, IDX1[:-16], bytes(16)), "its idx1 chunk ends in zeros: the copy is not complete"),
        (avi(header(), chunk(b"LIST", b"m\0vi", size=70)), f"its last chunk ends 66 bytes {PAST}"),
        (avi(header(), MOVI, chunk(b"idx1", bytes(64), size=70)), f"its idx1 chunk ends 6 bytes {PAST}"),
    ],
)
def test_the_reason_names_the_missing_chunk_of_an_avi(verdict: ContainerState, reason: str) -> None:
    """And the probable cause."""
    assert verdict == ContainerState("avi", reason)


def test_an_avi_with_zeros_in_place_of_its_index_is_unfinished() -> None:
    """A preallocated copy has stalled."""
    begun = header() + MOVI
    assert avi(begun, bytes(len(IDX1))).unfinished.startswith(f"only zeros from byte {12 + len(begun)} on")


def test_an_index_that_the_header_announces_must_be_there() -> None:
    """What is there plays, as for a recorder that has died."""
    whole = chunk(b"RIFF", b"AVI ", header(), MOVI)
    reason = f"no idx1 chunk, which its header announces: {OPEN}; it plays up to byte {len(whole)}"
    assert judged(whole) == ContainerState("avi", reason, playable=True)


def test_riff_that_counts_its_own_head_passes() -> None:
    """Some recorders write the file's length, which is 8 too much; the index is complete, so nothing is missing."""
    whole = header() + MOVI + IDX1
    assert avi(whole, size=12 + len(whole)) == AVI
    assert avi(whole, size=13 + len(whole)) == AVI
    unindexed = header(NO_INDEX) + MOVI
    assert avi(unindexed, size=12 + len(unindexed)).unfinished == f"its RIFF ends 8 bytes {PAST}"


def opendml(*, riffs: int, whole: int | None = None) -> tuple[bytes, int, dict[int, bytes]]:
    """An OpenDML file of so many GiB: its beginning, its size, and what else is not media."""
    begin = header(HAS_INDEX, super_index(*((number * GIB - 1000, 1000) for number in range(1, riffs + 1))))
    first = b"RIFF" + struct.pack("<I", GIB - 8) + b"AVI " + begin
    movi = b"LIST" + struct.pack("<I", GIB - len(first) - 8) + b"movi"
    marks = {number * GIB - 1000: chunk(b"ix00", b"\x01" * 992) for number in range(1, riffs + 1)}
    for number in range(1, riffs):
        marks[number * GIB] = struct.pack("<4sI4s4sI4s", b"RIFF", GIB - 8, b"AVIX", b"LIST", GIB - 20, b"movi")
    return first + movi, (riffs if whole is None else whole) * GIB, marks


@pytest.mark.parametrize("riffs", [1, 2, 5, 8])
def test_large_avi_passes(riffs: int) -> None:
    """Beyond 1 GiB an AVI goes on in further RIFFs, and its own index says how many."""
    head, size, marks = opendml(riffs=riffs)
    file = pieces((0, head), *marks.items(), size=size)
    assert inspect(file, size, ".avi") == AVI
    assert file.reads <= 3 + riffs


def test_a_large_avi_with_missing_bytes_is_found() -> None:
    """Cut inside a RIFF, exactly between two, and with zeros in the place of the last one."""
    head, size, marks = opendml(riffs=3)
    parts = ((0, head), *marks.items())

    def reason(size: int, filler: bytes = b"\xa5", without: int = 1 << 62) -> str:
        some = [(start, part) for start, part in parts if start < without]
        return inspect(pieces(*some, size=size, filler=filler), size, ".avi").unfinished

    assert reason(size - 5) == f"its RIFF number 3 ends 5 bytes {PAST}"
    assert reason(GIB - 5) == f"its movi chunk ends 5 bytes {PAST}"
    assert reason(2 * GIB) == f"its OpenDML index ends {GIB} bytes {PAST}"
    assert reason(size, filler=b"\0", without=2 * GIB).startswith(
        f"only zeros at byte {3 * GIB - 1000}, where its OpenDML"
    )


def test_a_large_avi_that_was_not_closed_is_found() -> None:
    """The RIFF that was being written when the recorder died has no size."""
    head, size, marks = opendml(riffs=3)
    marks[2 * GIB] = b"RIFF\xff\xff\xff\xffAVIX"
    file = pieces((0, head), *marks.items(), size=size)
    assert inspect(file, size, ".avi").unfinished == f"its RIFF header number 3 has no size yet: {OPEN}"


@pytest.mark.parametrize(("length", "start"), [(188, 0), (192, 4), (204, 0)])
def test_transport_streams_are_recognised_by_their_packet_size(length: int, start: int) -> None:
    """Packets of 188, 192 and 204 bytes; two packets are not enough."""
    packet = bytes(start) + b"G" + bytes(length - start - 2) + b"\1"
    assert judged(packet * 3) == ContainerState("mpeg-ts", "")
    assert judged(packet * 50 + packet[:77]) == ContainerState("mpeg-ts", "")
    assert judged(packet * 2) == ContainerState("", "")
    assert judged(packet + packet[1:] + packet * 3) == ContainerState("", "")


@pytest.mark.parametrize("name", ["ts", "mpg"])
def test_streams_may_end_in_a_few_zeros(name: str) -> None:
    """Less than 64 KiB of zeros are padding."""
    assert judged(recording(name) + bytes(60_000)).unfinished == ""
    assert "only zeros from byte" in judged(recording(name) + bytes(70_000)).unfinished

"""The check of MP4 and MOV, box by box: what recorders, cameras and copies leave, and what must pass."""

from __future__ import annotations

import struct

import pytest
from test_container_files import FTYP, Reader, box, judged, moov, pieces, silence

from uploader.container import ContainerState, inspect

MEDIA = box(b"mdat", b"\x65\x88" * 3000)
TRAILER = bytes(range(1, 200))  # no box
PADDING = bytes(100_000)
FINE = ContainerState("mp4", "")
MIB = 1 << 20

FRAGMENTED = FTYP + box(b"moov", box(b"mvhd", bytes(100)), box(b"mvex", box(b"trex", bytes(24))))


def fragment(media: int = 5000) -> bytes:
    """A fragment of a live recording."""
    return box(b"moof", box(b"mfhd", bytes(4), b"\0\0\0\1"), box(b"traf", bytes(60))) + box(b"mdat", b"\x65" * media)


def mp4(*parts: bytes) -> ContainerState:
    """Check these boxes in a row."""
    return judged(b"".join(parts), ".mp4")


@pytest.mark.parametrize(
    "parts",
    [
        (FTYP, MEDIA, moov()),
        (FTYP, moov(), MEDIA),
        (MEDIA, moov()),  # QuickTime before it had ftyp
        (moov(), MEDIA),
        (box(b"wide"), MEDIA, moov()),
        (box(b"skip", bytes(9)), MEDIA, moov()),
        (FTYP, box(b"free", PADDING), MEDIA, box(b"uuid", bytes(16)), moov(), box(b"free", PADDING)),
        (FTYP, MEDIA, MEDIA, moov()),
        (FTYP, MEDIA, moov(), box(b"\xa9xyz", b"here")),
        (FTYP, box(b"abcd", bytes(20)), MEDIA, moov()),
        (FTYP, MEDIA, moov(chunks=())),  # a track without samples
        (FTYP, MEDIA, moov(codecs=(b"avc1", b"mp4a"))),
    ],
)
def test_closed_files_pass(parts: tuple[bytes, ...]) -> None:
    """Boxes in any allowed order, with index and media, are a finished recording."""
    assert mp4(*parts) == FINE


@pytest.mark.parametrize("rest", [TRAILER, PADDING, bytes(3), b"\1\2\3", b"zzzz" * 20])
def test_anything_may_follow_index_and_media(rest: bytes) -> None:
    """A camera may append data that is no box, or reserved space."""
    assert mp4(FTYP, MEDIA, moov(), rest) == FINE
    assert mp4(FTYP, moov(), MEDIA, rest) == FINE


def test_a_cut_box_after_index_and_media_is_found() -> None:
    """A known box that runs past the end shows that something is missing."""
    verdict = mp4(FTYP, MEDIA, moov(), box(b"udta", bytes(40), size=58))
    assert verdict.unfinished == "its udta box ends 10 bytes past the end of the file: the copy is not complete"
    assert mp4(FTYP, MEDIA, moov(), box(b"udta", bytes(40), size=49)).unfinished.startswith(
        "its udta box ends 1 byte p"
    )


def test_sizes_of_sixty_four_bits_are_read() -> None:
    """Size 1 means that the true size follows the kind."""
    media = struct.pack(">I4sQ", 1, b"mdat", 16 + 3000) + b"\x65" * 3000
    assert mp4(FTYP, media, moov()) == FINE
    assert "mdat box ends 1000 bytes" in mp4(FTYP, moov(), media[:-1000]).unfinished
    beyond = struct.pack(">I4sQ", 1, b"mdat", (1 << 64) - 1)
    assert "past the end" in mp4(FTYP, moov(), beyond, bytes(9000)).unfinished


def test_size_of_zero_means_up_to_the_end() -> None:
    """After the index, media of size 0 are allowed; without it the size is a recorder's placeholder."""
    media = box(b"mdat", b"\x65" * 3000, size=0)
    assert mp4(FTYP, moov(), media) == FINE
    assert mp4(FTYP, media).unfinished == "no moov box: the recorder did not close this file"
    assert mp4(FTYP, media, moov()).unfinished == "no moov box: the recorder did not close this file"


@pytest.mark.parametrize("size", [0, 1, 15])
def test_a_large_box_without_its_size_is_unfinished(size: int) -> None:
    """The recorder fills the size in at the end."""
    media = struct.pack(">I4sQ", 1, b"mdat", size) + b"\x65" * 3000
    assert mp4(FTYP, media).unfinished == "no moov box: the recorder did not close this file"
    assert mp4(media).unfinished == "its first box has no size yet: the recorder did not close this file"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((FTYP,), "no moov box: the recorder did not close this file"),
        ((FTYP, MEDIA), "no moov box: the recorder did not close this file"),
        ((FTYP, MEDIA, TRAILER), "no moov box: the recorder did not close this file"),
        ((FTYP, box(b"free", PADDING), MEDIA), "no moov box: the recorder did not close this file"),
        ((FTYP, moov()), "no mdat box after its moov box: the copy is not complete"),
        ((FTYP, moov(), box(b"free", bytes(9))), "no mdat box after its moov box: the copy is not complete"),
        (
            (FTYP, moov(), TRAILER),
            "no box at byte 389, after its moov box: the recorder did not close this file",
        ),
        ((FTYP, moov(), b"\0\0\1"), "it ends inside the head of a box at byte 389: the copy is not complete"),
        (
            (FTYP, MEDIA, box(b"abcd", bytes(9), size=99)),
            "its abcd box ends 82 bytes past the end of the file: the copy is not complete",
        ),
        ((FTYP, moov()[:-9]), "its moov box ends 9 bytes past the end of the file: the copy is not complete"),
    ],
)
def test_the_reason_names_the_missing_box(parts: tuple[bytes, ...], reason: str) -> None:
    """And the probable cause."""
    assert mp4(*parts).unfinished.replace(f"byte {len(FTYP + moov())}", "byte 389") == reason


def test_an_avi_with_zeros_in_place_of_its_index_is_unfinished() -> None:
    """Without an index: the recorder still writes, or died, or the copy stalled."""
    verdict = mp4(FTYP, MEDIA, PADDING)
    assert verdict.unfinished.startswith(f"no moov box, only zeros from byte {len(FTYP + MEDIA)} on: ")


@pytest.mark.parametrize("kind", [b"meta", b"styp"])
def test_files_of_kinds_without_an_index_pass(kind: bytes) -> None:
    """Pictures (HEIF) and single pieces of a stream need no moov box."""
    assert mp4(box(b"ftyp", b"heic\0\0\0\0"), box(kind, bytes(20)), MEDIA) == FINE


def test_a_partly_copied_index_is_found_at_every_byte() -> None:
    """A preallocated copy that stalled inside the index has zeros in place of the rest."""
    index = moov(codecs=(b"avc1", b"mp4a"), chunks=(1000, 2000))
    for written in range(8, len(index) - 4):
        verdict = mp4(FTYP, MEDIA, index[:written], bytes(len(index) - written))
        assert verdict.unfinished.startswith("its moov box is empty from byte "), written
    assert mp4(FTYP, MEDIA, index) == FINE


def test_an_index_may_hold_more_than_boxes() -> None:
    """Only a run of zeros longer than a terminator shows that something is missing."""
    whole = moov()[8:]
    for more in (TRAILER, bytes(15), bytes(8) + TRAILER, box(b"udta", bytes(40), size=4000)):
        assert mp4(FTYP, MEDIA, box(b"moov", whole, more)) == FINE
    assert mp4(FTYP, MEDIA, box(b"moov", whole, bytes(16))).unfinished.startswith("its moov box is empty from byte")


def test_an_index_with_64_bit_offsets_is_checked_the_same() -> None:
    """co64 instead of stco: its last entry may neither be zero nor lie past the end of the file."""
    for offset, passes in ((1000, True), (0, False), (1 << 33, False)):
        table = box(b"stbl", box(b"stsd", bytes(8)), box(b"co64", struct.pack(">IIQ", 0, 1, offset)))
        index = box(b"moov", box(b"trak", box(b"mdia", box(b"minf", table))))
        assert (mp4(FTYP, MEDIA, index) == FINE) == passes


@pytest.mark.parametrize("codec", [b"avc1", b"hvc1", b"mp4v", b"av01", b"vp09"])
def test_an_unwritten_end_of_the_media_is_found(codec: bytes) -> None:
    """Index first: a stalled copy ends in zeros, which compressed media never do."""
    head = FTYP + moov(codecs=(codec, b"mp4a"))
    verdict = mp4(head, box(b"mdat", b"\x65" * 200_000, bytes(65536)))
    start = len(head) + 8 + 200_000
    reason = f"only zeros from byte {start} on: the recorder or the copy has reserved this space and not written it"
    assert verdict.unfinished == reason
    assert mp4(head, box(b"mdat", b"\x65" * 200_000, bytes(65535))) == FINE


@pytest.mark.parametrize(
    "codecs", [(b"avc1", b"sowt"), (b"avc1", b"twos"), (b"raw ",), (b"AVdn",), (b"mx5n",), (b"????",)]
)
def test_zeros_of_media_that_may_be_zeros_pass(codecs: tuple[bytes, ...]) -> None:
    """PCM silence, black raw video, padded frames and unknown codecs may end in zeros."""
    assert mp4(FTYP, moov(codecs=codecs), box(b"mdat", b"\x65" * 200_000, bytes(300_000))) == FINE


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
def test_recorded_silence_passes(options: dict[str, str]) -> None:
    """A real recording of PCM silence is one long run of zeros, and finished."""
    data = silence("mov", **options)
    assert data.count(0) > 500_000
    assert judged(data, ".mov") == FINE


def test_media_before_the_index_may_hold_anything_that_is_no_picture() -> None:
    """As the index after them is there, zeros in sound, in raw video and between pictures are part of the recording."""
    assert mp4(FTYP, box(b"mdat", PADDING), moov()) == FINE
    for codec in (b"raw ", b"v210", b"2vuy"):
        assert mp4(FTYP, box(b"mdat", PADDING), moov(codecs=(codec,), handler=b"vide")) == FINE
    assert mp4(FTYP, box(b"mdat", PADDING), moov(codecs=(b"sowt",), handler=b"soun")) == FINE
    assert mp4(FTYP, box(b"mdat", bytes(960), b"\x65" * 20_000, PADDING), moov(handler=b"vide")) == FINE
    assert "where its index names media" in mp4(FTYP, box(b"mdat", PADDING), moov(handler=b"vide")).unfinished


def test_stalled_copy_of_a_large_file_is_found_in_few_reads() -> None:
    """The beginning of the zeros is found by bisection, to the byte, within the promised reads."""
    head = FTYP + moov() + box(b"mdat", size=3000 * MIB)
    written = 1234 * MIB + 567
    size = len(head) - 8 + 3000 * MIB

    def content(offset: int, length: int) -> bytes:
        media = b"\x65" * max(0, min(length, written - offset))
        return (head[offset : offset + length] + media[len(head[offset : offset + length]) :]).ljust(length, b"\0")

    file = Reader(content, size)
    assert inspect(file, size, ".mp4").unfinished.startswith(f"only zeros from byte {written} on")
    assert file.reads <= 24


def test_announced_fragments_must_come() -> None:
    """An index that only announces fragments is a recording that has just begun."""
    reason = "no moof box, which its moov box announces: the recorder did not close this file"
    assert mp4(FRAGMENTED).unfinished == reason
    assert mp4(FRAGMENTED, fragment()) == FINE
    assert mp4(FRAGMENTED, fragment(), fragment()) == FINE


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (fragment()[:-1], "its last mdat box ends 1 byte past the end of the file: the copy is not complete"),
        (fragment()[:92], "no mdat box after its last moof box: it ends inside a fragment"),
        (fragment()[:50], "its last moof box ends 42 bytes past the end of the file"),
        (fragment()[:5], "it ends inside the head of a box at byte "),
        (PADDING, "only zeros from byte "),
        (TRAILER, ""),
        (fragment(100) + box(b"mdat", PADDING), ""),  # no codec known that would forbid it
        (fragment(100) + box(b"free", PADDING), ""),
    ],
)
def test_an_end_inside_a_fragment_is_found(end: bytes, reason: str) -> None:
    """An incomplete fragment is named; an end between two fragments passes."""
    for before in (1, 100):
        data = FRAGMENTED + fragment() * before
        unfinished = judged(data + end, ".mp4").unfinished.replace(f"byte {len(data)},", "byte 5345,")
        assert unfinished.startswith(reason)
        assert bool(unfinished) == bool(reason)


def endless(count: int, end: bytes = b"") -> Reader:
    """A recording of *count* fragments of 30,092 bytes, then *end*."""
    one, head = fragment(30_000 - 8), FRAGMENTED
    rest = len(head) + count * len(one)

    def content(offset: int, length: int) -> bytes:
        if offset >= rest:
            return end[offset - rest :][:length]
        data = head[offset : offset + length]
        first = max(0, offset - len(head))
        shift = first % len(one)
        data += (one * (2 + length // len(one)))[shift:]
        return (data[: min(length, rest - offset)] + end)[:length]

    return Reader(content, rest + len(end))


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (b"", ""),
        (fragment(), ""),
        (fragment(100_000)[:-77], "its last mdat box ends 77 bytes past the end of the file"),
        (fragment()[:92], "no mdat box after its last moof box"),
        (fragment(100_000) + bytes(9000), "only zeros from byte "),
        (b"\x65" * 300_000, ""),  # no moof to be seen: not judged
        (box(b"mfra", bytes(9000), box(b"mfro", struct.pack(">II", 0, 9024))), ""),
    ],
)
def test_a_hundred_thousand_fragments_are_checked_by_their_end(end: bytes, reason: str) -> None:
    """The closing index or the last moof decides, in some dozens of reads."""
    file = endless(100_000, end)
    verdict = inspect(file, file.size, ".mp4")
    assert verdict.unfinished.startswith(reason)
    assert bool(verdict.unfinished) == bool(reason)
    assert file.reads <= 40


def test_a_file_with_a_closing_index_costs_three_reads() -> None:
    """With mfra at the end, whatever its length."""
    file = endless(100_000, box(b"mfra", bytes(90), box(b"mfro", struct.pack(">II", 0, 114))))
    assert inspect(file, file.size, ".mp4") == FINE
    assert file.reads == 3


def test_an_mfro_box_that_points_to_no_mfra_is_ignored() -> None:
    """Then the fragments are looked at."""
    stray = box(b"mfro", struct.pack(">II", 0, 99))
    assert mp4(FRAGMENTED, fragment()[:-200], stray).unfinished.startswith("its last mdat box ends 184 bytes")


def test_media_of_two_gigabytes_are_not_read() -> None:
    """A cut is known from heads alone."""
    head = FTYP + moov() + box(b"mdat", size=2000 * MIB)
    size = 1000 * MIB
    file = pieces((0, head), size=size)
    assert "past the end" in inspect(file, size, ".mp4").unfinished
    assert file.reads == 1

"""What the index of an MP4 names must be there: unwritten ends and holes, whatever the codecs; habits of writers."""

from __future__ import annotations

import struct

import pytest
from test_container_files import FTYP, Reader, box, judged, pieces
from test_container_mp4_fragments import full

from uploader.container import ContainerState, inspect

FINE = ContainerState("mp4", "")
NAMED = "where its index names media"
SIZE = 2000  # bytes of a sample
GIB = 1 << 30


def track(
    codec: bytes,
    chunks: list[int],
    *,
    handler: bytes = b"vide",
    each: int = 1,
    sizes: list[int] | None = None,
    wide: bool = False,
    number: int = 1,
    elsewhere: bytes = b"",
) -> bytes:
    """A track of chunks at these offsets, of *each* samples. *sizes*: of the samples, if not ``SIZE`` each."""
    stated = [SIZE] * (len(chunks) * each) if sizes is None else sizes
    offsets = struct.pack(f">I{len(chunks)}{'Q' if wide else 'I'}", len(chunks), *chunks)
    tables = (
        full(b"stsd", struct.pack(">I", 1), box(codec, bytes(78)))
        + full(b"stsc", struct.pack(">4I", 1, 1, each, 1))
        + full(b"stsz", struct.pack(f">II{len(stated)}I", 0, len(stated), *stated))
        + full(b"co64" if wide else b"stco", offsets)
    )
    name = full(b"url ", elsewhere, flags=0 if elsewhere else 1)
    media = box(b"dinf", full(b"dref", struct.pack(">I", 1), name)) + box(b"stbl", tables)
    shown = full(b"hdlr", bytes(4), handler, bytes(13))
    header = full(b"tkhd", bytes(8), struct.pack(">I", number), bytes(68))
    return box(b"trak", header, box(b"mdia", full(b"mdhd", bytes(20)), shown, box(b"minf", media)))


def index(*tracks: bytes, after: int = 0) -> bytes:
    """An index of these tracks. *after*: the number that the next track would get."""
    return box(b"moov", full(b"mvhd", bytes(92), struct.pack(">I", after)), *tracks)


def recording(codec: bytes, media: bytes, *, front: bool = False, step: int = SIZE, **more: bool) -> bytes:
    """A recording of a picture every *step* bytes in *media*, with its index in front or at the end."""

    def made(start: int) -> bytes:
        chunks = list(range(start, start + len(media) - SIZE + 1, step))
        return index(track(codec, chunks, **more), track(b"sowt", chunks, handler=b"soun"))  # type: ignore[arg-type]

    if front:
        start = len(FTYP) + len(made(0)) + 8
        return FTYP + made(start) + box(b"mdat", media)
    return FTYP + box(b"mdat", media) + made(len(FTYP) + 8)


WRITTEN = b"\x65" * 300_000


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    "codec", [b"avc1", b"hvc1", b"apch", b"ap4h", b"AVdh", b"jpeg", b"mx5n", b"dvh5", b"CFHD", b"????"]
)
def test_pictures_of_zeros_were_not_written(codec: bytes, wide: bool, front: bool) -> None:
    """At the end or in the middle, with PCM beside them."""
    assert judged(recording(codec, WRITTEN, front=front, wide=wide)) == FINE
    for media in (
        WRITTEN[:150_000] + bytes(150_000),
        WRITTEN[:-40_000] + bytes(40_000),
        WRITTEN[:120_000] + bytes(60_000) + WRITTEN[180_000:],
    ):
        assert NAMED in judged(recording(codec, media, front=front, wide=wide)).unfinished


@pytest.mark.parametrize("codec", [b"raw ", b"2vuy", b"yuv2", b"v210", b"v410", b"r210", b"b64a", b"HFYU", b"rle "])
@pytest.mark.parametrize("front", [False, True])
def test_pictures_of_codecs_without_a_head_may_be_zeros(front: bool, codec: bytes) -> None:
    """A black picture, or one in which nothing changed."""
    assert judged(recording(codec, WRITTEN[:150_000] + bytes(150_000), front=front)) == FINE


def test_silence_between_pictures_passes() -> None:
    """Long runs of zeros, in which no picture begins."""
    media = (b"\x65" * SIZE + bytes(98_000)) * 5 + b"\x65" * SIZE
    assert judged(recording(b"apch", media, front=True, step=100_000)) == FINE
    assert judged(recording(b"apch", media, step=100_000)) == FINE


@pytest.mark.parametrize("front", [False, True])
def test_one_chunk_is_looked_at_by_its_samples(front: bool) -> None:
    """All pictures lie in it, so its beginning says nothing of the last one."""
    media = WRITTEN[:200_000] + bytes(100_000)

    def made(start: int) -> bytes:
        return index(track(b"apch", [start], each=150))

    start = len(FTYP) + (len(made(0)) if front else 0) + 8
    whole = FTYP + made(start) + box(b"mdat", media) if front else FTYP + box(b"mdat", media) + made(start)
    assert f"only zeros at byte {start + 149 * SIZE}, {NAMED}" in judged(whole).unfinished


def test_a_picture_that_was_left_out_has_no_bytes() -> None:
    """Its size is 0, and what lies at its offset belongs to another track."""
    start = len(FTYP) + 8
    sizes = [SIZE] * 99 + [0]
    chunks = list(range(start, start + 100 * SIZE, SIZE))
    media = WRITTEN[: 99 * SIZE] + bytes(9000)
    for at in (99, 50):
        sizes = [0 if number == at else SIZE for number in range(100)]
        holes = (
            media if at == 99 else media[: at * SIZE] + bytes(SIZE) + media[(at + 1) * SIZE : -9000] + WRITTEN[:9000]
        )
        whole = FTYP + box(b"mdat", holes) + index(track(b"apch", chunks, sizes=sizes))
        assert judged(whole) == FINE


def test_an_index_that_names_media_past_the_end_is_that_of_a_cut_file() -> None:
    """Of any codec; media that lie in another file are no concern."""
    media = box(b"mdat", WRITTEN[:5000])
    for codec, handler in ((b"apch", b"vide"), (b"raw ", b"vide"), (b"sowt", b"soun"), (b"tmcd", b"tmcd")):
        far = track(codec, [40, 999_999], handler=handler)
        assert "its index names media at byte 999999, past the end" in judged(FTYP + media + index(far)).unfinished
        reference = track(codec, [40, 999_999], handler=handler, elsewhere=b"file://elsewhere/take.mov\0")
        assert judged(FTYP + media + index(reference)) == FINE


def test_tables_that_contradict_each_other_are_asked_for_the_beginnings_of_chunks_alone() -> None:
    """Some writers fill a table in by half."""
    head = len(FTYP) + 8
    for sizes in ([], [SIZE], [SIZE] * 500):
        chunks = [head, head + 100_000]
        made = index(track(b"apch", chunks, sizes=sizes))
        assert judged(FTYP + box(b"mdat", WRITTEN) + made) == FINE
        assert NAMED in judged(FTYP + box(b"mdat", WRITTEN[:90_000] + bytes(90_000)) + made).unfinished


# Habits of writers


def with_media_too_long(over: int, *, front: bool, lost: int = 0) -> bytes:
    """A recording whose ``mdat`` says *over* bytes more than it has, without the last *lost* bytes."""
    whole = recording(b"apch", WRITTEN, front=front)
    at = whole.index(b"mdat")
    size = struct.pack(">I", 8 + len(WRITTEN) + over)
    return (whole[: at - 4] + size + whole[at:])[: len(whole) - lost]


@pytest.mark.parametrize("over", [8, 16, -8])
@pytest.mark.parametrize("rest", [b"", bytes(4), b"\x12\x34\x56\x78", bytes(range(1, 200))])
def test_media_whose_size_is_a_few_bytes_wrong_are_a_habit(rest: bytes, over: int) -> None:
    """Where the index begins right behind them, or in front of them says that all is there."""
    assert judged(with_media_too_long(over, front=False) + rest) == FINE
    assert judged(with_media_too_long(over, front=True) + rest) == FINE


def test_media_of_one_size_for_all_samples_may_be_too_long_by_their_head_alone() -> None:
    """That size may be the one of a unit of sound, so it does not say to the byte where the samples end."""
    tables = full(b"stsc", struct.pack(">4I", 1, 1, 25, 1)) + full(b"stsz", struct.pack(">2I", 100, 25))
    for over, fine in ((1, False), (7, False), (8, True), (9, False), (16, True), (17, False)):
        offsets = full(b"stco", struct.pack(">2I", 1, 400))
        made = box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", tables, offsets)))))
        data = FTYP + made + box(b"mdat", WRITTEN[:9000], size=9008 + over)
        assert (judged(data) == FINE) == fine


@pytest.mark.parametrize("lost", [1, 8, 2000])
def test_a_cut_is_not_taken_for_that_habit(lost: int) -> None:
    """Something that the index names is missing."""
    assert judged(with_media_too_long(0, front=True, lost=lost)).unfinished.startswith("its mdat box ends")
    assert judged(with_media_too_long(8, front=True, lost=lost)).unfinished.startswith("its mdat box ends")
    assert judged(with_media_too_long(8, front=False, lost=lost)).unfinished


@pytest.mark.parametrize("padding", [8, 16, 5000])
def test_zeros_between_the_boxes_of_an_index_are_padding(padding: int) -> None:
    """At its end, too, where no track is missing, or the media follow that were copied after it."""
    one, two = track(b"apch", [40]), track(b"sowt", [40], handler=b"soun", number=2)
    media = box(b"mdat", WRITTEN[:9000])
    header = full(b"mvhd", bytes(92), struct.pack(">I", 3))
    room = bytes(padding)
    for inner in ([header, room, one, two], [header, one, room, two], [header, one, two, room]):
        assert judged(FTYP + media + box(b"moov", *inner)) == FINE
        assert judged(FTYP + box(b"moov", *inner) + media) == FINE
    unnumbered = box(b"moov", full(b"mvhd", bytes(96)), one, two, room)
    assert judged(FTYP + unnumbered + media) == FINE
    if padding >= 16:
        assert "its moov box is empty from byte" in judged(FTYP + media + unnumbered).unfinished
        lost = box(b"moov", header, one, bytes(len(two)), room)
        assert "its moov box is empty from byte" in judged(FTYP + media + lost).unfinished


@pytest.mark.parametrize("room", [b"free", b"wide"])
def test_media_whose_size_is_to_be_filled_in_are_not_closed(room: bytes) -> None:
    """Room for a larger size in front of them shows that 0 does not mean "up to the end"."""
    front = FTYP + index(track(b"apch", [9000]))
    media = box(b"mdat", WRITTEN[:20_000], size=0)
    assert judged(front + media) == FINE
    assert judged(front + box(room, bytes(8)) + media) == FINE
    verdict = judged(front + box(room) + media)
    assert verdict.unfinished.startswith("its mdat box has no size yet: the recorder did not close this file")
    assert verdict.playable
    assert judged(front + box(room) + box(b"mdat", WRITTEN[:20_000])) == FINE


# Cost


@pytest.mark.parametrize("chunks", [10, 1000, 1_000_000])
def test_the_index_of_a_large_recording_costs_some_dozens_of_reads(chunks: int) -> None:
    """Only what is asked for is read of its tables."""
    step = 100 * GIB // chunks
    media = struct.pack(">I4sQ", 1, b"mdat", 100 * GIB + 16)
    first = len(FTYP) + 16
    offsets = [first + number * step for number in range(chunks)]
    made = index(track(b"apch", offsets, wide=True, sizes=[min(step, 1 << 20)] * chunks))
    size = first + 100 * GIB + len(made)
    file = pieces((0, FTYP + media), (size - len(made), made), size=size)
    assert inspect(file, size, ".mov") == FINE
    assert file.reads <= 45
    assert file.taken <= 512 * 1024
    hole = pieces((0, FTYP + media), (size - len(made), made), size=size, filler=b"\0")
    assert NAMED in inspect(Reader(hole.content, size), size, ".mov").unfinished

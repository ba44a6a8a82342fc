"""The check of fragmented MP4: wherever the end of a long recording is cut, and whatever may stand around fragments."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_container_files import FTYP, Reader, box, judged

from uploader.container import ContainerState, duration, inspect

FINE = ContainerState("mp4", "")
GIB = 1 << 30
NOT_JOINED = "its fragments are not joined into one recording yet: the recorder did not close this file"
ENTRY = {b"vide": box(b"avc1", bytes(78)), b"soun": box(b"mp4a", bytes(28))}
SCALE = {1: 1000, 2: 48_000}
PLACE = box(b"free", bytes(8))


def full(kind: bytes, *contents: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *contents)


def announced(*, tracks: int = 1, total: int = 0) -> bytes:
    """The ``moov`` of a fragmented file: its tracks have no samples of their own."""
    traks = []
    for number, handler in zip(range(1, tracks + 1), (b"vide", b"soun"), strict=False):
        tables = full(b"stsd", struct.pack(">I", 1), ENTRY[handler]) + full(b"stco", bytes(4))
        media = full(b"mdhd", bytes(8), struct.pack(">I", SCALE[number]), bytes(8))
        shown = full(b"hdlr", bytes(4), handler, bytes(13))
        header = full(b"tkhd", bytes(8), struct.pack(">I", number), bytes(68))
        traks.append(box(b"trak", header, box(b"mdia", media, shown, box(b"minf", box(b"stbl", tables)))))
    stated = full(b"mehd", struct.pack(">I", total)) if total else b""
    extends = box(
        b"mvex", stated, *[full(b"trex", struct.pack(">5I", number + 1, 1, 0, 0, 0)) for number in range(tracks)]
    )
    return box(b"moov", full(b"mvhd", bytes(8), struct.pack(">I", 1000), bytes(84)), *traks, extends)


def fragment(
    number: int = 1, *, media: int = 5000, tracks: int = 1, wide: bool = False, over: int = 0, filler: bytes = b"\x65"
) -> bytes:
    """A fragment: each track has two samples of half a second. *over*: by how much its ``mdat`` is too long."""
    share = media // tracks // 2
    head = 16 if wide else 8

    def index(length: int) -> bytes:
        parts = []
        for track in range(1, tracks + 1):
            start = length + head + (track - 1) * 2 * share
            lasts = SCALE[track] // 2
            samples = struct.pack(">IiIIII", 2, start, lasts, share, lasts, share)
            time = full(b"tfdt", struct.pack(">Q", (number - 1) * SCALE[track]), version=1)
            begins = full(b"tfhd", struct.pack(">I", track), flags=0x20000)
            parts.append(box(b"traf", begins, time, full(b"trun", samples, flags=0x301)))
        return box(b"moof", full(b"mfhd", struct.pack(">I", number)), *parts)

    data = filler * (2 * share * tracks)
    size = head + len(data) + over
    start = struct.pack(">I4sQ", 1, b"mdat", size) if wide else struct.pack(">I4s", size, b"mdat")
    return index(len(index(0))) + start + data


def mp4(*parts: bytes) -> ContainerState:
    """Check these boxes in a row."""
    return judged(b"".join(parts), ".mp4")


HEAD = FTYP + announced()
INDEX = box(b"mfra", bytes(90), box(b"mfro", struct.pack(">II", 0, 114)))


def long(count: int, each: int, *, end: bytes = b"") -> Reader:
    """A recording of *count* fragments of *each* bytes, without the room for it, then *end*."""
    rest = len(HEAD) + count * each

    def content(offset: int, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            at, left = offset + len(data), length - len(data)
            number, within = divmod(at - len(HEAD), each)
            if at < len(HEAD):
                data += HEAD[at:][:left]
            elif at >= rest:
                data += end[at - rest :][:left]
            else:
                head = fragment(number + 1, media=0)[:-8]
                head += struct.pack(">I4s", each - len(head), b"mdat")
                data += head[within:][:left] or b"\x65" * min(each - within, left)
        return bytes(data)

    return Reader(content, rest + len(end))


@pytest.mark.parametrize(("count", "each"), [(30, 3_300_000), (100, 2 * GIB), (900, 200 << 20), (100_000, 2 << 20)])
@pytest.mark.parametrize("cut", [0, 1, 7, 5000, 1_000_000])
def test_a_long_recording_is_judged_by_its_end(count: int, each: int, cut: int) -> None:
    """However many and large its fragments are: a missing byte is found, within the limits of a check."""
    file = long(count, each)
    verdict = inspect(_cut(file, cut), file.size - cut, ".mp4")
    assert bool(verdict.unfinished) == bool(cut)
    if cut:
        assert verdict.unfinished.startswith(f"its last mdat box ends {cut} byte")
        assert verdict.unfinished.endswith(f"it plays up to fragment {count - 1} ({_clock(count - 1)})")
        assert verdict.playable


def _cut(file: Reader, cut: int) -> Reader:
    return Reader(file.content, file.size - cut)


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@pytest.mark.parametrize(("count", "reads", "mib"), [(100, 140, 1), (900, 940, 4), (1100, 230, 200), (100_000, 40, 3)])
def test_two_hundred_gibibytes_cost_no_more_than_the_square_root_of_them(count: int, reads: int, mib: int) -> None:
    """A read for each fragment while they are few, a search of a few of them from the end when they are many."""
    file = long(count, 200 * GIB // count)
    assert inspect(file, file.size, ".mp4") == FINE
    assert file.reads <= reads
    assert file.taken <= mib << 20


def test_a_file_that_the_limits_do_not_suffice_for_counts_as_closed() -> None:
    """Four thousand fragments of a gibibyte each: that is a few minutes of reads."""
    file = _cut(long(4000, GIB), 1)
    assert inspect(file, file.size, ".mp4") == FINE


SURROUNDINGS = [
    b"",
    box(b"styp", b"msdhmsix"),
    box(b"styp", b"msdh\0\0\0\0") + box(b"prft", bytes(20)) + box(b"emsg", bytes(40)),
    full(b"sidx", struct.pack(">8I", 1, 1000, 0, 0, 1, 5200, 1000, 0x9000_0000)),
    box(b"free", bytes(200)) + box(b"uuid", bytes(40)),
    box(b"skip", bytes(9000)),
]


@given(st.sampled_from([1, 2]), st.booleans(), st.sampled_from(SURROUNDINGS), st.data())
def test_a_cut_anywhere_is_found_but_between_two_fragments(
    tracks: int, wide: bool, around: bytes, data: st.DataObject
) -> None:
    """Whatever boxes stand between them, with several tracks, and with sizes of 64 bits."""
    head = FTYP + announced(tracks=tracks)
    parts = [around + fragment(number, tracks=tracks, wide=wide) for number in range(1, 40)]
    whole = head + b"".join(parts)
    ends = [len(head) + sum(map(len, parts[:count])) for count in range(1, 40)]
    assert mp4(whole) == FINE
    places = st.integers(len(head) + len(parts[0]) + 1, len(whole) - 1)
    end = data.draw(places | st.integers(len(whole) - 60, len(whole) - 1) | st.sampled_from(ends))
    unfinished = mp4(whole[:end]).unfinished
    if end in ends:
        assert unfinished == ""
    elif not any(start <= end <= start + len(around) for start in ends):
        assert unfinished


def test_a_file_shorter_than_its_index_in_front_says_is_a_cut_copy() -> None:
    """Even between two fragments. An index of one fragment alone says nothing of the others."""
    parts = [fragment(number) for number in range(1, 6)]
    sizes = b"".join(struct.pack(">3I", len(part), 1000, 0x9000_0000) for part in parts)
    sidx = full(b"sidx", struct.pack(">4I2H", 1, 1000, 0, 0, 0, len(parts)), sizes)
    assert mp4(HEAD, sidx, *parts) == FINE
    verdict = mp4(HEAD, sidx, *parts[:4])
    assert verdict.unfinished.startswith(f"its media, as the index in front says, ends {len(parts[4])} bytes past")
    assert not verdict.playable
    assert not mp4(HEAD, sidx, *parts[:4], parts[4][:-1]).playable
    one = full(b"sidx", struct.pack(">4I2H", 1, 1000, 0, 0, 0, 1), sizes[:12])
    assert mp4(HEAD, one, *parts) == FINE


# Hybrid files

FRAGMENTS = b"".join(fragment(number) for number in range(1, 41))
PLACES = [
    PLACE,
    box(b"wide", bytes(8)),
    box(b"skip", bytes(8)),
    box(b"free") + box(b"free", FTYP),
    box(b"free", FTYP),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("count", [1, 5, 40])
def test_a_hybrid_file_is_held_until_it_is_closed(count: int, place: bytes) -> None:
    """While its recorder is at work, and when that has died: its fragments play, but are not what it makes of them."""
    fragments = b"".join(fragment(number) for number in range(1, count + 1))
    verdict = mp4(FTYP, place, announced(), fragments)
    assert verdict == ContainerState(
        "mp4", f"{NOT_JOINED}; it plays up to fragment {count} ({_clock(count)})", playable=True
    )
    cut = mp4(FTYP, place, announced(), fragments[:-1])
    assert cut.unfinished.startswith(NOT_JOINED)
    assert cut.playable == (count > 1)


def test_media_in_front_of_an_index_that_announces_fragments_are_those_of_an_open_hybrid_file() -> None:
    """So GStreamer begins it; at closing, the head of that ``mdat`` is made to span everything."""
    media = box(b"free") + box(b"mdat", b"\x65" * 5000)
    verdict = mp4(FTYP, media, announced(), FRAGMENTS)
    assert verdict.unfinished == f"{NOT_JOINED}; it plays up to fragment 40 (00:00:40)"
    assert verdict.playable
    assert seconds(FTYP, media, announced(total=500), FRAGMENTS) is None
    assert seconds(HEAD, FRAGMENTS) == 40
    assert seconds(FTYP, announced(total=500), FRAGMENTS) == 0.5
    assert mp4(FTYP, media, announced(), FRAGMENTS, INDEX) == FINE


def test_a_hybrid_file_that_has_no_fragment_yet_does_not_play() -> None:
    """Its recorder has just begun."""
    assert mp4(FTYP, PLACE, announced()) == ContainerState("mp4", NOT_JOINED)


@pytest.mark.parametrize("wide", [False, True])
def test_a_closed_hybrid_file_is_one_recording(wide: bool) -> None:
    """Its fragments lie in one ``mdat``, and an index of everything follows it."""
    inner = announced() + FRAGMENTS
    short = box(b"free") + box(b"mdat", inner)
    media = struct.pack(">I4sQ", 1, b"mdat", 16 + len(inner)) + inner if wide else short
    tables = full(b"stco", struct.pack(">2I", 1, len(FTYP) + 2000))
    track = box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", tables))))
    assert mp4(FTYP, media, box(b"moov", full(b"mvhd", bytes(96)), track)) == FINE
    assert mp4(FTYP, media).unfinished == "no moov box: the recorder did not close this file"


@pytest.mark.parametrize(
    "front",
    [
        FTYP + announced() + PLACE,
        FTYP + box(b"free") + announced(),
        FTYP + box(b"free", b"IsoMedia File Produced with GPAC\0") + announced(),
        FTYP + box(b"free", bytes(2000)) + announced(),
        FTYP + PLACE + box(b"uuid", bytes(30)) + announced(),
        box(b"styp", b"msdhmsdh") + FTYP + announced() + box(b"styp", b"msdhmsdh"),
    ],
)
def test_an_ordinary_fragmented_file_may_have_free_boxes(front: bytes) -> None:
    """They are no room for the head of an ``mdat``, or do not stand where that would be."""
    assert mp4(front, FRAGMENTS) == FINE
    assert mp4(front, fragment(1), PLACE, fragment(2)) == FINE


@pytest.mark.parametrize("trailer", [b"", bytes(4), bytes(range(1, 200)) * 20])
def test_an_index_at_the_end_closes_a_file_whatever_stands_in_front(trailer: bytes) -> None:
    """Hybrid recorders write none. A few KiB of something else may follow it."""
    assert mp4(FTYP, PLACE, announced(), FRAGMENTS, INDEX, trailer) == FINE


# Habits of writers

TRAILERS = [
    bytes(4),
    bytes(8),
    bytes(200),
    b"\x12\x34\x56\x78",
    b"\1\2\3\4\5\6\7\x08",
    b"SEFH\x6b\0\0\0\1\0\0\0\0\0" + bytes(30) + b"\x18\0\0\0SEFT",
    box(b"uuid", bytes.fromhex("d8fec3d61b0e483c92975828877ec481"), b"c2pa" * 50),
    b"ID3\4\0\0\0\0\0\x20" + bytes(range(1, 200)) * 20,
    b"TAG" + b"a title".ljust(125),
    b"zzzz" * 20,
]


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("index", [b"", INDEX])
@pytest.mark.parametrize("count", [1, 40])
def test_anything_short_may_follow_the_last_fragment(count: int, index: bytes, trailer: bytes) -> None:
    """As in a plain MP4: cameras and tools append data of their own."""
    fragments = b"".join(fragment(number) for number in range(1, count + 1))
    assert mp4(HEAD, fragments, index, trailer) == FINE


@pytest.mark.parametrize("rest", [b"\0", b"\0\0", b"\0\0\1", b"\0\0\1\x20", b"\0\0\1\x20mo", b"\0\0\0\x18sty"])
def test_the_beginning_of_a_box_at_the_end_is_no_trailer(rest: bytes) -> None:
    """The file goes on where this one was cut."""
    verdict = mp4(HEAD, fragment(1), rest)
    assert verdict.unfinished.startswith("it ends inside the head of a box at byte ")
    assert verdict.playable


@pytest.mark.parametrize("over", [8, 16, -8])
@pytest.mark.parametrize("end", [b"", INDEX, bytes(4)])
def test_media_whose_size_is_a_few_bytes_wrong_are_a_habit(end: bytes, over: int) -> None:
    """Where the next box begins right, or all samples are there."""
    fragments = b"".join(fragment(number, over=over) for number in range(1, 6))
    assert mp4(HEAD, fragments, end) == FINE
    assert mp4(HEAD, fragment(1), fragment(2, over=over), fragment(3), end) == FINE
    if over > 0:
        assert mp4(HEAD, fragment(1), fragment(2, over=over), end) == FINE


def test_a_cut_is_not_taken_for_that_habit() -> None:
    """The samples are not all there, or nobody says where they end."""
    assert mp4(HEAD, fragment(1), fragment(2)[:-8]).unfinished.startswith("its last mdat box ends 8 bytes past")
    assert mp4(HEAD, fragment(1, over=8), fragment(2, over=8)[:-8]).unfinished.startswith("its last mdat box ends 16")
    silent = box(b"moof", full(b"mfhd", bytes(4)), box(b"traf", bytes(60))) + box(b"mdat", b"\x65" * 99)
    assert mp4(HEAD, silent, silent[:-8]).unfinished.startswith("its last mdat box ends 8 bytes past")


def test_the_samples_of_a_track_may_be_counted_from_the_end_of_those_before() -> None:
    """So they are where neither the offset of the media nor the beginning of the fragment is stated as their base."""
    parts, share = [], 1250
    for track, start in ((1, 0), (2, 0)):
        run = full(b"trun", struct.pack(">IiII", 2, start, share, share), flags=0x201)
        parts.append(box(b"traf", full(b"tfhd", struct.pack(">I", track)), run))
    length = len(box(b"moof", full(b"mfhd", bytes(4)), *parts))
    parts[0] = parts[0].replace(struct.pack(">Ii", 2, 0), struct.pack(">Ii", 2, length + 8))
    last = box(b"moof", full(b"mfhd", bytes(4)), *parts) + box(b"mdat", b"\x65" * 5000, size=5016)
    head = FTYP + announced(tracks=2)
    assert mp4(head, fragment(tracks=2), last) == FINE
    assert mp4(head, fragment(tracks=2), last[:-1]).unfinished.startswith("its last mdat box ends 9 bytes past")


def test_media_without_a_size_end_where_their_samples_end() -> None:
    """Size 0 means up to the end, also of a file that was cut."""
    last = fragment(2)
    at = last.index(b"mdat")
    endless = last[: at - 4] + bytes(4) + last[at:]
    assert mp4(HEAD, fragment(1), endless) == FINE
    assert mp4(HEAD, fragment(1), endless[:-1]).unfinished.startswith("its last fragment ends 1 byte past the end")


@pytest.mark.parametrize("padding", [4, 16, 4000])
def test_zeros_between_the_boxes_of_an_index_are_padding(padding: int) -> None:
    """Also in a fragmented file, where the announcement of fragments follows them."""
    index = announced()
    extends = index.index(b"mvex") - 4
    inner = index[8:extends] + bytes(padding) + index[extends:]
    assert mp4(FTYP, box(b"moov", inner), FRAGMENTS) == FINE
    assert mp4(FTYP, box(b"moov", inner, bytes(padding)), FRAGMENTS) == FINE
    assert mp4(FTYP, box(b"moov", inner), FRAGMENTS[:-1]).unfinished.startswith("its last mdat box ends 1 byte")


# Holes


def test_a_fragment_of_zeros_is_not_written() -> None:
    """Reserved space at the end, a picture without a byte, and a hole."""
    whole = b"".join(fragment(number) for number in range(1, 6))
    reason = f"only zeros from byte {len(HEAD) + len(whole)} on: "
    assert mp4(HEAD, whole, bytes(9000)).unfinished.startswith(reason)
    assert mp4(HEAD, whole, fragment(6)[:4], bytes(9000)).unfinished.startswith(reason)
    assert "where its index names media" in mp4(HEAD, whole, fragment(6, filler=b"\0")).unfinished
    hole = whole[:3000] + bytes(6000) + whole[9000:]
    assert "before the fragment at byte" in mp4(HEAD, hole).unfinished


def test_an_index_at_the_end_names_fragments_that_must_be_there() -> None:
    """A hole in the middle of a copy."""
    parts = [fragment(number) for number in range(1, 41)]
    starts = [len(HEAD) + sum(map(len, parts[:count])) for count in range(40)]
    entries = b"".join(struct.pack(">QQ3B", number, start, 1, 1, 1) for number, start in enumerate(starts))
    tfra = full(b"tfra", struct.pack(">3I", 1, 0, 40), entries, version=1)
    index = box(b"mfra", tfra, full(b"mfro", struct.pack(">I", len(tfra) + 24)))
    whole = HEAD + b"".join(parts)
    assert mp4(whole, index) == FINE
    hole = whole[: starts[16]] + bytes(starts[24] - starts[16]) + whole[starts[24] :]
    assert f"only zeros at byte {starts[20]}, where its index names a fragment" in mp4(hole, index).unfinished


# Durations


def seconds(*parts: bytes) -> float | None:
    """Return the duration of these boxes in a row."""
    data = b"".join(parts)
    return duration(Reader(lambda offset, length: data[offset : offset + length], len(data)), len(data))


@pytest.mark.parametrize("tracks", [1, 2])
@pytest.mark.parametrize("end", [b"", INDEX, bytes(4)])
def test_a_fragmented_file_plays_from_its_first_fragment_to_its_last(end: bytes, tracks: int) -> None:
    """Each lasts a second here; the first need not begin at 0."""
    head = FTYP + announced(tracks=tracks)
    parts = [fragment(number, tracks=tracks) for number in range(1, 100)]
    for first, last in ((0, 1), (0, 5), (3, 9), (0, 99)):
        assert seconds(head, *parts[first:last], end) == last - first


def test_a_fragmented_file_that_is_not_closed_has_no_duration() -> None:
    """Nor one whose last fragment leaves a track out, or states no time."""
    parts = [fragment(number, tracks=2) for number in range(1, 5)]
    head = FTYP + announced(tracks=2)
    assert seconds(head, *parts[:3], parts[3][:-1]) is None
    assert seconds(FTYP, PLACE, announced(tracks=2), *parts) is None
    assert seconds(head, fragment(1), fragment(2)) is None
    assert seconds(head, *[part.replace(b"tfdt", b"free") for part in parts]) is None


def test_the_duration_of_a_long_fragmented_file_costs_a_search_from_its_end() -> None:
    """100,000 fragments in 200 GiB."""
    file = long(100_000, 2 << 20)
    assert duration(file, file.size) == 100_000
    assert file.reads < 60
    assert file.taken < 4 << 20

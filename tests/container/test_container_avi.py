"""AVI: an index that is whole decides, whatever the sizes elsewhere say; without it, they must fit."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_container_files import judged, left_open, pieces, recording, silence
from test_container_streams import AVI, HAS_INDEX, chunk

from uploader.container import ContainerState, inspect

GIB = 1 << 30
FRAMES = 60
JPEG = b"\xff\xd8" + bytes(range(1, 200)) + b"\xff\xd9"


def header(frames: int = FRAMES, flags: int = HAS_INDEX, *more: bytes, codec: bytes = b"MJPG") -> bytes:
    """The header list of one stream of pictures."""
    avih = chunk(b"avih", struct.pack("<14I", 40_000, 0, 0, flags, frames, 0, 1, 0, 320, 240, 0, 0, 0, 0))
    strh = chunk(b"strh", b"vids" + codec, bytes(48))
    return chunk(b"LIST", b"hdrl", avih, chunk(b"LIST", b"strl", strh, chunk(b"strf", bytes(40)), *more))


def pictures(frames: int = FRAMES, picture: bytes = JPEG) -> list[bytes]:
    """The chunks of so many pictures."""
    return [chunk(b"00dc", picture) for _ in range(frames)]


def index(media: Sequence[bytes], base: int = 4) -> bytes:
    """An ``idx1`` of these chunks. *base*: the offset of the first of them."""
    entries = []
    for one in media:
        entries.append(one[:4] + struct.pack("<II", 16, base) + one[4:8])
        base += len(one)
    return chunk(b"idx1", *entries)


def avi(*parts: bytes, riff: int | None = None, over: int = 0) -> bytes:
    """A RIFF of these parts; its size is *riff*, or *over* too large."""
    payload = b"AVI " + b"".join(parts)
    return b"RIFF" + struct.pack("<I", (len(payload) + over) & 0xFFFFFFFF if riff is None else riff) + payload


def movi(media: Sequence[bytes], *, size: int | None = None, over: int = 0) -> bytes:
    """The list of the media; its size is *size*, or *over* too large."""
    payload = b"movi" + b"".join(media)
    return b"LIST" + struct.pack("<I", len(payload) + over if size is None else size) + payload


MEDIA = pictures()
SIZES = st.sampled_from([-70, -8, -1, 1, 2, 8, 9, 16, 70, 220, 5000, 1 << 20, 1 << 30])


@given(SIZES | st.just(0), SIZES | st.just(0))
def test_wrong_sizes_do_not_matter_where_the_index_is_whole(riff: int, media: int) -> None:
    """Some writers add a constant to the size of RIFF or movi, or leave one out."""
    assert judged(avi(header(), movi(MEDIA, over=media), index(MEDIA), over=riff)) == AVI


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("frames", [FRAMES, 9000])
def test_sizes_that_were_never_filled_in_do_not_matter_where_the_index_is_whole(size: int, frames: int) -> None:
    """However long it is: its last entry leads to where it begins."""
    media = pictures(frames, JPEG[:20])
    assert judged(avi(header(), movi(media, size=size), index(media), riff=size)) == AVI
    assert judged(avi(header(), movi(media, size=size), index(media))) == AVI
    assert judged(avi(header(), movi(media), index(media), riff=size)) == AVI
    assert judged(avi(header(), movi(media, size=size), index(media)[:-8], riff=size)).unfinished


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("shift", [-8, -4, 0, 4])
def test_offsets_of_an_index_count_from_the_list_or_from_the_file(from_file: bool, shift: int) -> None:
    """Both are common, and some writers are a few bytes off."""
    base = len(avi(header())) + 12 if from_file else 8
    media = [chunk(b"00dc", JPEG, bytes(7 * number * number)) for number in range(60)]
    assert judged(avi(header(), movi(media), index(media, base + shift), over=220)) == AVI
    assert judged(avi(header(), movi(media), index(media, base + 10_000), over=220)).unfinished


@pytest.mark.parametrize("over", [0, 16, 220])
@given(st.data())
def test_a_cut_avi_is_held_whatever_its_sizes_are(over: int, data: st.DataObject) -> None:
    """Its index is not whole."""
    whole = avi(header(), movi(MEDIA), index(MEDIA), over=over)
    end = data.draw(st.integers(400, len(whole) - 1) | st.integers(len(whole) - 40, len(whole) - 1))
    state = judged(whole[:end])
    assert state.unfinished
    assert not state.playable


@example(a=1 << 16, b=1 << 16, c=1 << 16, odd=False)
@example(a=1 << 20, b=1 << 20, c=1 << 20, odd=True)
@given(st.integers(0, 1 << 21), st.integers(0, 70_000), st.integers(0, 5000), st.booleans())
def test_zeros_between_the_chunks_of_a_finished_avi_are_stepped_over(a: int, b: int, c: int, odd: bool) -> None:
    """Before movi, before the index and behind it; some writers align to four bytes, some to a mebibyte."""
    media = pictures(picture=JPEG[: len(JPEG) - odd])
    data = avi(header(), bytes(b), movi(media), bytes(a), index(media), bytes(c))
    assert judged(data) == AVI
    assert judged(data[:-40] if c < 40 else data[: -c - 40]).unfinished


@pytest.mark.parametrize("padding", [1, 15 << 20, 17 << 20, 900 << 20])
def test_padding_of_any_length_costs_some_dozens_of_reads(padding: int) -> None:
    """As does space that was reserved for the index and not written."""
    begun, last = avi(header(), movi(MEDIA), riff=1 << 30), index(MEDIA)
    size = len(begun) + padding + len(last)
    file = pieces((0, begun), (len(begun) + padding, last), size=size, filler=b"\0")
    assert inspect(file, size, ".avi") == AVI
    assert file.reads < 60
    file = pieces((0, begun), size=size, filler=b"\0")
    assert inspect(file, size, ".avi").unfinished
    assert file.reads < 60


def test_zeros_up_to_the_end_of_an_avi_are_not_padding() -> None:
    """Where its header announces an index; without one, nothing is missing."""
    missing = avi(header(), movi(MEDIA), bytes(300_000))
    start = len(avi(header(), movi(MEDIA)))
    assert judged(missing).unfinished.startswith(f"only zeros from byte {start} on")
    assert judged(avi(header(flags=0), movi(MEDIA), bytes(300_000))) == AVI
    assert "only zeros" in judged(avi(header(flags=0), bytes(300_000))).unfinished


def test_an_odd_chunk_without_its_padding_byte_is_followed_by_the_next_one() -> None:
    """Some writers do not pad."""
    media = [b"00dc" + struct.pack("<I", 201) + b"\x65" * 201 for _ in range(3)]
    assert len(b"".join(media)) % 2 == 1
    data = avi(header(), movi(media), index(media))
    assert judged(data) == AVI
    assert judged(data[:-1]).unfinished
    assert judged(avi(header(), b"JUNK\x05\0\0\0xxxxx", movi(MEDIA), index(MEDIA))) == AVI


def test_an_avi_of_full_size_lacks_what_its_index_names() -> None:
    """The index came first; where the last picture should be, there are zeros."""
    whole = avi(header(), movi(MEDIA), index(MEDIA))
    start = whole.rindex(b"00dc", 0, whole.rindex(b"idx1"))
    holed = whole[: start - 500] + bytes(500 + 8 + len(JPEG)) + whole[start + 8 + len(JPEG) :]
    reason = f"only zeros at byte {start}, where its idx1 chunk names a chunk: the copy is not complete"
    assert judged(holed) == ContainerState("avi", reason)


def test_black_pictures_and_silence_are_no_missing_media() -> None:
    """Their chunks have heads."""
    media = [part for _ in range(20) for part in (chunk(b"00db", bytes(90_000)), chunk(b"01wb", bytes(7000)))]
    assert judged(avi(header(codec=b"DIB "), movi(media), index(media))) == AVI
    assert judged(avi(header(codec=b"DIB ", flags=0), movi(media))) == AVI
    assert judged(silence("avi")) == AVI


@pytest.mark.parametrize("zeros", [5000, 100_000, 3_000_000])
def test_the_media_of_an_avi_without_an_index_may_not_end_in_zeros_that_no_chunk_holds(zeros: int) -> None:
    """Black or silence is in one, a copy that has stalled is not; whatever the codec is."""
    unwritten = judged(avi(header(flags=0, codec=b"DIB "), movi([*MEDIA, bytes(zeros)])))
    assert unwritten.unfinished.startswith("only zeros from byte")
    assert not unwritten.playable
    assert judged(avi(header(flags=0), movi([*MEDIA, chunk(b"01wb", bytes(zeros))]))) == AVI
    half = chunk(b"00dc", b"\x65" * 5000 + bytes(zeros))
    assert judged(avi(header(flags=0), movi([*MEDIA, half]))) == AVI


def test_media_behind_the_end_of_their_list_are_those_of_a_killed_recorder() -> None:
    """GStreamer ends RIFF and list before the media until it closes the file; others update both now and then."""
    for listed in (0, 20):
        begun = avi(header(flags=0), movi(MEDIA[:listed]))
        state = judged(begun + b"".join(MEDIA[listed:]) + MEDIA[0][:100])
        assert state.unfinished.startswith(
            "its media go on behind the end of its movi list: the recorder did not close"
        )
        assert state.playable
    assert judged(avi(header(flags=0), movi([]))).unfinished.startswith("its movi list is empty")
    closed = avi(header(), movi(MEDIA[:20]), *MEDIA[20:], index(MEDIA))
    assert judged(closed) == AVI


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_an_avi_that_was_written_to_a_pipe_plays_up_to_its_end(size: int) -> None:
    """It has neither sizes nor an index. So has one whose recorder has died."""
    piped = avi(header(flags=0), movi(MEDIA, size=size), riff=size)
    reason = "its RIFF header has no size yet: the recorder did not close this file; it plays up to byte"
    assert judged(piped) == ContainerState("avi", f"{reason} {len(piped)}", playable=True)
    assert judged(piped[:-50]) == ContainerState("avi", f"{reason} {len(piped) - 50}", playable=True)
    stalled = judged(piped + bytes(5000))
    assert not stalled.playable
    assert stalled.unfinished.startswith(f"only zeros from byte {len(piped.rstrip(bytes(1)))} on")
    assert not judged(avi(header(), movi([]), riff=size)).playable
    assert not judged(avi(header(), riff=size)).playable
    assert judged(left_open("avi")).playable


def standard(media: Sequence[int], *, base: int = 0, size: int = 1000, name: bytes = b"ix00") -> bytes:
    """An OpenDML index of the media whose content begins at these offsets."""
    entries = b"".join(struct.pack("<II", offset - base, size) for offset in media)
    return chunk(name, struct.pack("<HBBI4sQI", 2, 0, 1, len(media), b"00dc", base, 0), entries)


def opendml(riffs: int, *, name: bytes = b"ix00") -> tuple[list[tuple[int, bytes]], int]:
    """An OpenDML file of so many GiB, each with an index of its last picture: its parts, and its size."""
    index_size = len(standard([0], name=name))
    places = [number * GIB - index_size for number in range(1, riffs + 1)]
    named = b"".join(struct.pack("<QII", place, index_size, 1) for place in places)
    room = chunk(b"indx", struct.pack("<HBBI4s12x", 4, 0, 0, riffs, b"00dc"), named, bytes(16 * 4))
    begin = b"RIFF" + struct.pack("<I", GIB - 8) + b"AVI " + header(FRAMES, HAS_INDEX, room)
    parts = [(0, begin + b"LIST" + struct.pack("<I", GIB - len(begin) - 8) + b"movi" + MEDIA[0])]
    for number, place in enumerate(places):
        if number:
            parts.append(
                (number * GIB, struct.pack("<4sI4s4sI4s", b"RIFF", GIB - 8, b"AVIX", b"LIST", GIB - 20, b"movi"))
            )
        parts.append((place - 1008, b"00dc" + struct.pack("<I", 1000)))
        parts.append((place, standard([place - 1000], base=number * GIB, name=name)))
    return parts, riffs * GIB


@pytest.mark.parametrize("name", [b"ix00", b"00ix"])
@pytest.mark.parametrize("riffs", [1, 3, 17, 130])
def test_an_avi_of_many_riffs_is_checked_up_to_its_end(riffs: int, name: bytes) -> None:
    """130 GiB cost no more than some dozen reads, whole or cut."""
    parts, size = opendml(riffs, name=name)
    file = pieces(*parts, size=size)
    assert inspect(file, size, ".avi") == AVI
    assert file.reads < 40
    for cut in (1, 20, 1500, 70_000, GIB // 2, *([GIB] if riffs > 1 else [])):
        assert inspect(pieces(*parts, size=size - cut), size - cut, ".avi").unfinished, cut


def test_an_opendml_index_does_not_stand_for_an_idx1_that_was_cut_off() -> None:
    """If the RIFF is too large by at least as much as the announced idx1 takes."""
    place = len(avi(header(FRAMES, HAS_INDEX, chunk(b"indx", bytes(24 + 16))))) + 12
    begun = place + sum(map(len, MEDIA))
    named = struct.pack("<QII", begun, len(standard([0])), FRAMES)
    room = chunk(b"indx", struct.pack("<HBBI4s12x", 4, 0, 0, 1, b"00dc"), named)
    list_of = movi([*MEDIA, standard([begun - len(MEDIA[0]) + 8], size=len(JPEG))])
    whole = avi(header(FRAMES, HAS_INDEX, room), list_of, index(MEDIA))
    assert judged(whole) == AVI
    assert judged(whole[: -len(index(MEDIA))]).unfinished
    assert judged(avi(header(FRAMES, HAS_INDEX, room), list_of, over=220)) == AVI


def test_the_index_of_the_first_riff_says_nothing_of_the_others() -> None:
    """Without an OpenDML index, the sizes of those must fit."""
    first, second = avi(header(), movi(MEDIA), index(MEDIA)), chunk(b"RIFF", b"AVIX", movi(MEDIA))
    assert judged(first + second) == AVI
    assert judged(first + second[:-1]).unfinished.startswith("its RIFF number 2 ends 1 byte past the end")


@pytest.mark.parametrize("name", [b"ix00", b"00ix"])
def test_a_wrong_size_of_the_last_riff_does_not_matter_where_the_index_is_whole(name: bytes) -> None:
    """As for the first."""
    parts, size = opendml(3, name=name)
    too_large = (2 * GIB, b"RIFF" + struct.pack("<I", GIB + 212) + b"AVIX")
    assert inspect(pieces(*parts, too_large, size=size), size, ".avi") == AVI
    assert inspect(pieces(*parts, too_large, size=size - 1), size - 1, ".avi").unfinished


@pytest.mark.parametrize("riffs", [3, 40])
def test_a_recorder_that_died_in_a_later_riff_is_found(riffs: int) -> None:
    """Its index names the RIFFs before; the last one has no size."""
    parts, size = opendml(riffs)
    begun = (size, struct.pack("<4sI4s4sI4s", b"RIFF", 0xFFFFFFFF, b"AVIX", b"LIST", 0xFFFFFFFF, b"movi"))
    state = inspect(pieces(*parts, begun, size=size + 5000), size + 5000, ".avi")
    assert "has no size yet: the recorder did not close this file; it plays up to byte" in state.unfinished
    assert state.playable


def test_zeros_where_the_opendml_index_names_the_last_picture_are_found() -> None:
    """A copy has announced its size, and something has written the index alone."""
    parts, size = opendml(3)
    missing = pieces(*[part for part in parts if part[1][:4] != b"00dc"], size=size, filler=b"\0")
    reason = f"only zeros at byte {size - len(standard([0])) - 1008}, where its OpenDML index names a chunk"
    assert inspect(missing, size, ".avi").unfinished.startswith(reason)


@pytest.mark.parametrize("name", ["avi"])
@given(st.data())
def test_a_real_avi_with_wrong_sizes_is_finished_while_its_index_is_whole(name: str, data: st.DataObject) -> None:
    """And is not without its last byte."""
    whole = bytearray(recording(name))
    for place in (4, whole.index(b"movi") - 4):
        size = int.from_bytes(whole[place : place + 4], "little") + data.draw(SIZES)
        whole[place : place + 4] = size.to_bytes(4, "little")
    assert judged(bytes(whole)) == AVI
    assert judged(bytes(whole[:-1])).unfinished


@pytest.mark.parametrize("form", [b"\0\0\0l", b"\xdfd\x10,", b"\n\r\t "])
def test_a_list_without_a_name_is_not_named_in_the_reason(form: bytes) -> None:
    """The reason is one line of text that an operator can read."""
    reason = judged(chunk(b"RIFF", b"AVI ", b"LIST\xff\xff\xff\x7f", form, bytes(range(1, 99)))).unfinished
    assert reason.startswith("its last chunk ends ")
    assert reason.isprintable()

"""Matroska and WebM: the end of a file is found, however long its Clusters are, and is whole or is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_container_files import Reader, judged, left_open, pieces, recording, silence
from test_container_matroska import FINE, HEADER, INFO, TRACKS, element

from uploader.container import ContainerState, inspect

MIB, GIB = 1 << 20, 1 << 30
MEDIA = bytes(1 + number * number % 251 for number in range(5000))
OPUS = element("1654ae6b", element("86", b"A_OPUS"))  # not known to be free of zeros
UNKNOWN_SEGMENT = HEADER + bytes.fromhex("1853806701ffffffffffffff")
PAST = "past the end of the file: the copy is not complete"


def block(media: bytes = MEDIA) -> bytes:
    """A block of the first track."""
    return element("a3", b"\x81\0\0\x80", media, width=4)


def cluster(time: int, *blocks: bytes, size: int | None = -1) -> bytes:
    """A Cluster at a time, in ms."""
    return element("1f43b675", element("e7", time.to_bytes(4, "big"), width=1), *blocks, size=size)


def uint(number: str, value: int) -> bytes:
    """An element with a number of eight bytes."""
    return element(number, value.to_bytes(8, "big"), width=1)


def cues(*clusters: int) -> bytes:
    """An index of Clusters at these positions in the Segment."""
    points = [element("bb", uint("b3", 0), element("b7", uint("f7", 1), uint("f1", place))) for place in clusters]
    return element("1c53bb6b", *points)


def seek_head(**places: int) -> bytes:
    """What stands where in the Segment."""
    ids = {"cues": "1c53bb6b", "tags": "1254c367", "head": "114d9b74"}
    seeks = [element("4dbb", element("53ab", bytes.fromhex(ids[name])), uint("53ac", places[name])) for name in places]
    return element("114d9b74", *seeks)


def browser(times: int, *, blocks: int = 5, sized: bool = False) -> bytes:
    """A WebM as a browser records it: sizes are not known, there is no index and no duration."""
    media = [cluster(1000 * time, *[block()] * blocks, size=-1 if sized else None) for time in range(times)]
    return UNKNOWN_SEGMENT + INFO + TRACKS + b"".join(media)


TAGS = element("1254c367", bytes(1 for _ in range(300)))


def indexed(
    *, front: bool, over: int = 0, tags: bool = False, extra: Sequence[bytes] = (), codec: bytes = TRACKS
) -> bytes:
    """A closed file of three Clusters with Cues, before them or behind them. Its Segment is *over* too large."""
    media = [cluster(1000 * time, *[block()] * 3) for time in range(3)]
    head = len(seek_head(cues=0)) + len(INFO) + len(codec)
    room = len(cues(0, 0, 0)) if front else 0
    places = [head + room + sum(map(len, media[:number])) for number in range(3)]
    index = cues(*places)
    at = head if front else head + sum(map(len, media))
    parts = [seek_head(cues=at), INFO, codec, *([index, *media] if front else [*media, index]), *extra]
    if tags:
        parts.append(TAGS)
    payload = b"".join(parts)
    return HEADER + element("18538067", payload, size=len(payload) + over)


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("times", [1, 2, 40])
def test_a_recording_of_a_browser_is_whole_at_the_end_of_a_block(times: int, sized: bool) -> None:
    """Or of a Cluster, if that has a size; nothing more can be known."""
    whole = browser(times, sized=sized)
    assert judged(whole, ".webm") == FINE
    assert bool(judged(whole[: -len(block())]).unfinished) is sized
    assert judged(whole + cluster(9)[:3]).unfinished.startswith("it ends inside the head of an element at byte")


@pytest.mark.parametrize("rest", [bytes(4), bytes(4096), b"\xff" * 5, b"trailer", b"something else, and longer" * 9])
@pytest.mark.parametrize("sized", [False, True])
def test_what_follows_a_live_recording_is_not_judged(sized: bool, rest: bytes) -> None:
    """If it is no element of Matroska."""
    assert judged(browser(3, sized=sized) + rest) == FINE


@pytest.mark.parametrize("sized", [False, True])
@given(st.data())
def test_a_live_recording_that_was_cut_is_held(sized: bool, data: st.DataObject) -> None:
    """Wherever the cut is, but between two blocks or Clusters."""
    whole = browser(4, sized=sized)
    one, first = len(cluster(0, *[block()] * 5)), len(browser(0))
    ends = {first + one * number for number in range(1, 5)}
    if not sized:
        head = len(cluster(0))
        ends |= {first + one * number + head + len(block()) * count for number in range(4) for count in range(6)}
    end = data.draw(st.integers(40, len(whole)) | st.integers(len(whole) - 60, len(whole)) | st.sampled_from([*ends]))
    assert bool(judged(whole[:end]).unfinished) is (end not in ends), end


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("size", [3 * MIB, 30 * MIB])
def test_a_cut_inside_a_large_cluster_is_found_however_many_there_are(size: int, sized: bool) -> None:
    """200 GiB of them cost a few times the size of one."""
    blocks = size // (2 * MIB) + 1
    head = cluster(0)
    each = len(head) + blocks * 2 * MIB
    sizes = each - 12 if sized else (1 << 56) - 1
    head = head[:4] + (sizes | 1 << 56).to_bytes(8, "big") + head[12:]
    begin = UNKNOWN_SEGMENT + INFO + TRACKS
    count = 200 * GIB // each

    def content(offset: int, length: int) -> bytes:
        data = bytearray(b"\xa5" * length)
        marks = [(0, begin)]
        for number in range(max(0, (offset - len(begin)) // each), (offset + length - len(begin)) // each + 1):
            start = len(begin) + number * each
            marks.append((start, head))
            marks += [
                (start + len(head) + at * 2 * MIB, element("a3", b"\x81\0\0\x80", size=2 * MIB - 9)[:13])
                for at in range(blocks)
            ]
        for start, part in marks:
            for at, byte in enumerate(part, start - offset):
                if 0 <= at < length:
                    data[at] = byte
        return bytes(data)

    for cut, held in ((0, False), (1, True), (1_500_000, True), (each // 2, True)):
        file = Reader(content, len(begin) + count * each - cut)
        assert bool(inspect(file, file.size, ".mkv").unfinished) is held, cut
        assert file.taken < 80 * MIB
        assert file.reads < 1000


def test_a_cluster_of_thousands_of_blocks_is_walked_to_its_end() -> None:
    """Half a minute of pictures and sound, 30 MiB, whose size is not known."""
    one, count = block(bytes(1 + at % 251 for at in range(8000))), 4000
    begin = UNKNOWN_SEGMENT + INFO + TRACKS + cluster(0, size=None)
    size = len(begin) + count * len(one)

    def content(offset: int, length: int) -> bytes:
        data = begin[offset : offset + length]
        shift = max(0, offset - len(begin)) % len(one)
        return (data + (one * (2 + length // len(one)))[shift:])[:length]

    for cut, held in ((0, False), (1, True), (len(one), False), (len(one) + 1, True)):
        file = Reader(content, size - cut)
        assert bool(inspect(file, file.size, ".webm").unfinished) is held, cut
        assert file.reads < 500


@pytest.mark.parametrize("inside", [b"\x86\x81\0", b"\xe7\x80", b"\xe7\x89" + bytes(9), b"\xbf\x85" + bytes(5)])
def test_media_that_contain_the_id_of_a_cluster_are_not_taken_for_one(inside: bytes) -> None:
    """What a Cluster begins with must follow."""
    stray = block(b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff" + inside + b"\x81\x81\x81" * 5)
    whole = UNKNOWN_SEGMENT + INFO + TRACKS + cluster(0, block(), stray, block(), size=None)
    assert judged(whole) == FINE
    assert judged(whole[:-1]).unfinished.startswith("its last block ends 1 byte past")
    assert judged(whole[: -len(block()) - 3]).unfinished.startswith("its last block ends 3 bytes past")


OVERS = st.sampled_from([1, 8, 16, len(TAGS), 5000, 1 << 20])


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("tags", [True, False])
@given(OVERS)
def test_a_segment_size_that_is_too_large_does_not_matter_where_the_cues_are_whole(
    front: bool, tags: bool, over: int
) -> None:
    """And everything from the last Cluster on is there."""
    assert judged(indexed(front=front, tags=tags, over=over)) == FINE
    assert judged(indexed(front=front, tags=tags, over=over)[:-1]).unfinished


def test_cues_that_no_seek_head_names_are_found_at_the_end() -> None:
    """Behind the last Cluster."""
    media = [cluster(1000 * time, block()) for time in range(3)]
    payload = INFO + TRACKS + b"".join(media)
    payload += cues(len(INFO + TRACKS), len(INFO + TRACKS) + 2 * len(media[0]))
    data = HEADER + element("18538067", payload, size=len(payload) + 40)
    assert judged(data) == FINE
    assert judged(data[:-1]).unfinished == f"its Segment ends 41 bytes {PAST}"
    assert judged(data[: data.index(bytes.fromhex("1c53bb6b"))]).unfinished


def test_what_a_seek_head_names_may_not_be_missing() -> None:
    """Tags behind the Cues were cut off, and the Segment says that something is missing."""
    head = len(seek_head(cues=0, tags=0)) + len(INFO) + len(TRACKS)
    media = cluster(0, block())
    end = head + len(media) + len(cues(head))
    payload = seek_head(cues=head + len(media), tags=end) + INFO + TRACKS + media + cues(head)
    whole = HEADER + element("18538067", payload, TAGS)
    assert judged(whole) == FINE
    assert judged(whole[: -len(TAGS)]).unfinished == f"its Segment ends {len(TAGS)} bytes {PAST}"
    assert judged(HEADER + element("18538067", payload, TAGS, size=end + len(TAGS) + 9)) == FINE


@pytest.mark.parametrize("codec", [TRACKS, OPUS])
@given(st.data())
def test_zeros_where_the_index_in_front_names_media_are_found(codec: bytes, data: st.DataObject) -> None:
    """Whatever the codec is, down to the last block."""
    whole = indexed(front=True, codec=codec)
    end = data.draw(st.integers(len(HEADER) + 40, len(whole) - len(block()) - 20))
    assert judged(whole[:end] + bytes(len(whole) - end)).unfinished
    assert judged(whole) == FINE


@pytest.mark.parametrize("front", [False, True])
def test_zeros_that_begin_inside_the_head_of_an_element_are_found(front: bool) -> None:
    """What is left of the head looks like another element, or like none."""
    whole = indexed(front=front, codec=OPUS)
    for name in ("1c53bb6b", "1f43b675", "a3"):
        at = whole.rindex(bytes.fromhex(name), 0, len(whole) - len(block()) - 20)
        for end in range(at, at + 14):
            assert judged(whole[:end] + bytes(len(whole) - end)).unfinished, f"{name}, zeros from {end - at} on"


@pytest.mark.parametrize("sized", [False, True])
def test_more_than_a_few_zeros_behind_a_live_recording_are_missing_media(sized: bool) -> None:
    """A copy has set its size, and has not come farther; whatever the codec is."""
    whole = browser(3, sized=sized).replace(b"V_MPEG4/ISO/AVC", b"V_SOMETHING/NEW")
    assert judged(whole) == FINE
    assert judged(whole + bytes(4097)).unfinished.startswith(f"only zeros from byte {len(whole)} on")
    if sized:
        assert judged(whole[:-6000] + bytes(6000)).unfinished.startswith("only zeros from byte")


def test_silence_is_no_missing_media() -> None:
    """Its blocks have heads."""
    quiet = element("1654ae6b", element("86", b"A_PCM/INT/LIT"))
    media = cluster(0, *[block(bytes(100_000))] * 3)
    assert judged(UNKNOWN_SEGMENT + INFO + quiet + media) == FINE
    assert judged(silence("matroska", cues_to_front="1", reserve_index_space="1000")) == FINE


def test_a_killed_recording_plays_up_to_a_time() -> None:
    """That of its last Cluster; whether that is whole does not matter."""
    room = element("ec", bytes(152))
    info = element("1549a966", element("2ad7b1", b"\x0f\x42\x40"), element("ec", bytes(2)))
    killed = UNKNOWN_SEGMENT + room + info + TRACKS + cluster(0, block()) + cluster(751_000, block(), block())
    for end in (len(killed), len(killed) - 300):
        state = judged(killed[:end])
        assert state.playable
        assert state.unfinished.endswith(f"the recorder did not close this file; it plays up to 00:12:31 (byte {end})")
    stalled = judged(killed + bytes(9000))
    assert stalled.unfinished.startswith(f"only zeros from byte {len(killed)} on")
    assert not stalled.playable
    assert not judged(UNKNOWN_SEGMENT + room + info + TRACKS).playable
    assert judged(UNKNOWN_SEGMENT + room + info + TRACKS).unfinished


def test_media_behind_the_end_of_the_segment_are_those_of_a_killed_recorder() -> None:
    """It has counted them now and then, and died before the last time."""
    counted = HEADER + element("18538067", INFO, TRACKS, cluster(0, block()))
    state = judged(counted + cluster(5000, block()))
    assert state.unfinished.startswith("its media go on behind the end of its Segment: the recorder did not close")
    assert "it plays up to 00:00:05" in state.unfinished
    assert state.playable
    assert judged(counted + cluster(5000, block()) + cues(0)) == FINE


def test_cues_at_the_end_close_a_file_without_a_size() -> None:
    """They are written at closing."""
    room = element("ec", bytes(152))
    info = element("1549a966", element("2ad7b1", b"\x0f\x42\x40"), element("ec", bytes(2)))
    closed = UNKNOWN_SEGMENT + room + info + TRACKS + cluster(0, block()) + cues(100)
    assert judged(closed) == FINE
    assert judged(closed[:-1]).playable


@pytest.mark.parametrize("name", ["mkv", "webm", "mkv, index in front"])
@given(st.integers(1, 400))
def test_a_real_recording_with_a_segment_that_is_too_large_is_finished(name: str, over: int) -> None:
    """And is not without its last byte."""
    whole = bytearray(recording(name))
    at = whole.index(b"\x18\x53\x80\x67") + 4
    whole[at : at + 8] = (int.from_bytes(whole[at : at + 8], "big") + over).to_bytes(8, "big")
    assert judged(bytes(whole)) == FINE
    assert judged(bytes(whole[:-1])).unfinished


@pytest.mark.parametrize("name", ["mkv, live", "mkv, piped"])
@given(st.data())
def test_a_real_live_recording_that_was_cut_is_held(name: str, data: st.DataObject) -> None:
    """Or it ends with a Cluster."""
    whole = recording(name)
    end = data.draw(st.integers(40, len(whole) - 1) | st.integers(len(whole) - 300, len(whole) - 1))
    assert judged(whole[:end]).unfinished or whole[end : end + 4] == bytes.fromhex("1f43b675")


@pytest.mark.parametrize("name", ["mkv", "webm"])
def test_a_real_killed_recording_plays(name: str) -> None:
    """Up to its cut."""
    state = judged(left_open(name))
    assert state.playable
    assert state == ContainerState("matroska", state.unfinished, playable=True)


def test_a_file_of_known_size_costs_a_few_reads() -> None:
    """200 GiB."""
    size = 200 * GIB
    head = len(seek_head(cues=0)) + len(INFO) + len(TRACKS)
    last = size - 30 * MIB - len(HEADER) - 12
    index = cues(head, last)
    begin = (
        HEADER
        + element("18538067", size=size - len(HEADER) - 12)
        + seek_head(cues=size - len(HEADER) - 12 - len(index))
    )
    begin += INFO + TRACKS
    tail = 30 * MIB - len(index) - 12
    parts = [
        (0, begin),
        (size - 30 * MIB, element("1f43b675", size=tail) + element("e7", b"\1")),
        (size - len(index), index),
    ]
    file = pieces(*parts, size=size)
    assert inspect(file, size, ".mkv") == FINE
    assert file.reads <= 6
    assert inspect(pieces(*parts, size=size - 1), size - 1, ".mkv").unfinished
    too_large = (len(HEADER) + 4, ((size + 50) | 1 << 56).to_bytes(8, "big"))
    assert inspect(pieces(*parts, too_large, size=size), size, ".mkv") == FINE

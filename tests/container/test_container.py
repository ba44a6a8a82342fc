"""The container check on real recordings: finished ones pass, cut or half-copied ones do not, and none raises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_container_files import FTYP, KINDS, Reader, box, judged, left_open, moov, pieces, recording

from uploader.container import MAX_BYTES, MAX_READS, ContainerState, inspect
from uploader.diagnostics.video import Video

ZEROS = 64 * 1024  # so many at the end are held to be unwritten

NO_SEEK_HEAD = (
    "its Segment has no size, and the space for its SeekHead is still empty: the recorder did not close this file"
)
SELF_SIZED = ["mp4", "faststart", "hybrid", "mov", "mkv", "mkv, index in front", "webm", "avi", "wmv"]
INDEX_LAST = ["mp4", "hybrid", "mov"]


@pytest.mark.parametrize("name", KINDS)
def test_finished_recording_passes(name: str) -> None:
    """A recording that a muxer has closed passes, whatever it is called."""
    for suffix in (KINDS[name].suffix, "", ".mp4", ".bin"):
        assert judged(recording(name), suffix) == ContainerState(KINDS[name].container, "")


SHORTEST = 32  # bytes: by then it is known which container a file is


@pytest.mark.parametrize("faststart", [False, True])
def test_made_videos_pass(faststart: bool) -> None:
    """The videos of the demo are finished, and no prefix of them is."""
    data = b"".join(Video(frames=9, width=160, height=96, faststart=faststart).pieces())
    assert judged(data, ".mp4") == ContainerState("mp4", "")
    assert all(judged(data[:end], ".mp4").unfinished for end in range(SHORTEST, len(data), 997))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mp4", "no moov box: the recorder did not close this file"),
        ("mov", "no moov box: the recorder did not close this file"),
        ("faststart", "no moov box: the recorder did not close this file"),
        ("mkv", NO_SEEK_HEAD),
        ("webm", NO_SEEK_HEAD),
        ("avi", "its RIFF header has no size yet: the recorder did not close this file"),
        ("wmv", "its header has no file size yet: the recorder did not close this file"),
    ],
)
def test_a_recording_that_was_never_closed_is_unfinished(name: str, reason: str) -> None:
    """The reason names what a killed recorder left out."""
    state = judged(left_open(name), KINDS[name].suffix)
    assert (state.container, state.unfinished.partition("; ")[0]) == (KINDS[name].container, reason)


@pytest.mark.parametrize("name", ["ts", "m2ts", "mpg", "vob"])
def test_a_stream_may_end_anywhere(name: str) -> None:
    """A stream has no end marker, so what was recorded so far is complete."""
    assert judged(left_open(name), KINDS[name].suffix) == ContainerState(KINDS[name].container, "")


@pytest.mark.parametrize("name", SELF_SIZED)
@given(st.data())
def test_any_cut_is_found(name: str, data: st.DataObject) -> None:
    """A recording with a stated length is unfinished without its last bytes, once its format is known."""
    whole = recording(name)
    end = data.draw(
        st.integers(SHORTEST, len(whole) - 1)
        | st.integers(len(whole) - 64, len(whole) - 1)
        | st.integers(SHORTEST, 600)
    )
    assert judged(whole[:end], KINDS[name].suffix).unfinished


@pytest.mark.parametrize("name", INDEX_LAST)
@given(st.data())
def test_a_preallocated_copy_is_unfinished_until_its_index_is_there(name: str, data: st.DataObject) -> None:
    """Full size at once, content in order: until the last box of the index has come, zeros are in its place."""
    whole = recording(name)
    end = data.draw(st.integers(0, len(whole) - 160) | st.integers(len(whole) - 1200, len(whole) - 160))
    assert judged(whole[:end] + bytes(len(whole) - end), KINDS[name].suffix).unfinished


@pytest.mark.parametrize("name", ["mkv", "webm", "avi"])
@given(st.data())
def test_a_preallocated_copy_is_unfinished_until_its_index_begins(name: str, data: st.DataObject) -> None:
    """The same where the index is one element."""
    whole = recording(name)
    index = whole.rfind(b"idx1" if name == "avi" else b"\x1c\x53\xbb\x6b")
    end = data.draw(st.integers(0, index))
    assert judged(whole[:end] + bytes(len(whole) - end), KINDS[name].suffix).unfinished


@pytest.mark.parametrize("name", ["faststart", "mkv, index in front", "mkv, live", "ts", "m2ts", "mpg", "vob", "wmv"])
@given(st.data())
def test_an_unwritten_end_of_the_media_is_found(name: str, data: st.DataObject) -> None:
    """Where the media come last, 64 KiB of zeros show that the rest was reserved and never written."""
    whole = recording(name)
    end = data.draw(st.integers(5000, len(whole) - ZEROS))
    verdict = judged(whole[:end] + bytes(len(whole) - end), KINDS[name].suffix)
    assert "only zeros" in verdict.unfinished
    assert f"byte {len(whole[:end].rstrip(bytes(1)))} on" in verdict.unfinished


@pytest.mark.parametrize("name", ["mp4", "mkv", "avi", "wmv", "mpg", "ts"])
def test_a_video_of_zeros_is_unfinished(name: str) -> None:
    """Its space was reserved and not written yet; its name tells that it is a video."""
    verdict = judged(bytes(100_000), KINDS[name].suffix)
    assert verdict.container == ""
    assert verdict.unfinished.startswith("zeros from byte 0 to 16384: ")


@pytest.mark.parametrize("name", ["fragmented", "dash"])
def test_a_fragmented_file_may_end_between_fragments_only(name: str) -> None:
    """Also without its closing index."""
    whole = recording(name)
    boxes = list(_boxes(whole))
    index = next(start for kind, start, _ in boxes if kind == b"mfra")
    first = next(start for kind, start, _ in boxes if kind == b"moof")
    ends = {end for kind, _, end in boxes if kind != b"moof" and first < end <= index}
    assert len(ends) >= 6
    for end in {*range(28, index, 211), *ends, *(end + 4 for end in ends), *(end - 1 for end in ends)}:
        assert bool(judged(whole[:end], ".mp4").unfinished) == (end not in ends), end
    assert all(judged(whole[:end], ".mp4").unfinished for end in range(index + 1, len(whole)))


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the boxes at top level."""
    start = 0
    while start < len(data):
        end = start + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], start, end
        start = end


@given(st.binary(max_size=3000), st.sampled_from(["", ".mp4", ".mkv", "avi", ".ts", ".WMV", ".txt", "."]))
def test_random_bytes_never_raise(data: bytes, suffix: str) -> None:
    """They cost no more reads than promised."""
    assert isinstance(judged(data, suffix), ContainerState)


MAGICS = [
    *(FTYP, b"\0\0\0\x08wide", b"\0\0\0\x01mdat", b"\0\0\0\x00moov", b"RIFF\0\0\0\0AVI ", b"RIFF\xff\xff\0\0AVI LIST"),
    *(bytes.fromhex("1a45dfa3801853806701ffffffffffffff"), bytes.fromhex("1a45dfa3801853806784")),
    *(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), b"\0\0\1\xba", (b"G" + bytes(187)) * 4),
]
WORDS = st.sampled_from(
    [
        b"moov",
        b"moof",
        b"mdat",
        b"trak",
        b"mvex",
        b"free",
        b"LIST",
        b"idx1",
        b"indx",
        b"movi",
        b"hdrl",
        b"\xec",
        b"\x4d\xbb",
    ]
    + [bytes.fromhex(word) for word in ("114d9b74", "1f43b675", "1549a966", "01ffffffffffffff", "00000000", "00000001")]
)


@given(st.sampled_from(MAGICS), st.lists(WORDS | st.binary(max_size=12), max_size=120), st.binary(max_size=3))
def test_random_structures_never_raise(magic: bytes, parts: list[bytes], rest: bytes) -> None:
    """Elements of the formats in any order."""
    assert isinstance(judged(magic + b"".join(parts) + rest, ".mp4"), ContainerState)


@pytest.mark.parametrize("name", KINDS)
@given(st.data())
def test_damaged_recordings_never_raise(name: str, data: st.DataObject) -> None:
    """A real recording with changed bytes in its structure, and cut."""
    whole = bytearray(recording(name)[: data.draw(st.integers(0, 200_000))])
    places = st.integers(0, 700) | st.integers(0, max(0, len(whole) - 1))
    for place, word in data.draw(st.lists(st.tuples(places, WORDS | st.binary(min_size=1, max_size=9)), max_size=12)):
        if place + len(word) <= len(whole):
            whole[place : place + len(word)] = word
    assert isinstance(judged(bytes(whole), KINDS[name].suffix), ContainerState)


@given(st.integers(0, 1 << 64), st.integers(0, 255), st.sampled_from(MAGICS))
def test_any_stated_size_of_a_file_is_taken(size: int, filler: int, magic: bytes) -> None:
    """It never raises."""
    file = pieces((0, magic), size=size, filler=bytes([filler]))
    assert isinstance(inspect(file, size, ".mp4"), ContainerState)


def test_a_million_boxes_cost_no_more_than_the_limits() -> None:
    """The index is searched from the end. If the limits do not suffice, the file passes."""
    one = box(b"free", bytes(8184))
    assert judged(FTYP + one * 1000 + box(b"mdat", bytes(99)) + moov(), ".mp4") == ContainerState("mp4", "")
    assert judged(FTYP + one * 1000, ".mp4").unfinished == "no moov box: the recorder did not close this file"
    size = len(FTYP) + 1_000_000 * len(one)

    def content(offset: int, length: int) -> bytes:
        shift = (offset - len(FTYP)) % len(one)
        return (FTYP + one * (length // len(one) + 1) if offset == 0 else (one * (length // len(one) + 2))[shift:])[
            :length
        ]

    assert inspect(Reader(content, size), size, ".mp4") == ContainerState("mp4", "")


def test_a_read_error_passes_through() -> None:
    """The caller handles it."""

    def read(offset: int, length: int) -> bytes:
        raise OSError(5, f"no {length} bytes at {offset}")

    with pytest.raises(OSError, match="no 16384 bytes at 0"):
        inspect(read, 1 << 20, ".mp4")


@pytest.mark.parametrize("left", [0, 20, 17_000])
def test_file_that_became_shorter_is_unfinished(left: int) -> None:
    """A file with fewer bytes than stated is being written anew."""
    whole = recording("mp4")[:left]
    verdict = inspect(lambda offset, length: whole[offset : offset + length], len(recording("mp4")), ".mp4")
    assert "became shorter" in verdict.unfinished


def test_surplus_bytes_of_a_read_are_ignored() -> None:
    """Only as many bytes as were asked for are used."""
    whole = recording("mp4")
    assert inspect(lambda offset, length: whole[offset : offset + 2 * length], len(whole), ".mp4").unfinished == ""


@pytest.mark.parametrize(
    ("data", "suffix", "reason"),
    [
        (b"", ".mp4", ""),
        (b"", "", ""),
        (b"\0\0\0", ".mp4", ""),
        (b"RIF", ".AVI", ""),
        (b"RIF", ".txt", ""),
        (b"hello world" * 9, "mp4", ""),
        (bytes(99), "mp4", "zeros from byte 0 to 99: "),
        (bytes(99), ".MOV", "zeros from byte 0 to 99: "),
        (b"hello world" * 9, ".mkv", ""),
        (b"hello world" * 9, ".bin", ""),
        (bytes(99), ".bin", ""),
        (b"RIFF" + bytes(99), ".mkv", "zeros from byte 4 to 103: "),
    ],
)
def test_the_suffix_matters_only_for_unknown_content(data: bytes, suffix: str, reason: str) -> None:
    """A file of no known format is held back only when it has a video's suffix and begins with zeros."""
    verdict = judged(data, suffix)
    assert verdict.container == ""
    assert verdict.unfinished.startswith(reason)
    assert bool(verdict.unfinished) == bool(reason)


GIB = 1 << 30


@pytest.mark.parametrize(("order", "reads", "taken"), [("moov last", 5, 28_692), ("moov first", 6, 36_864)])
def test_a_recording_of_two_gigabytes_costs_a_few_reads(order: str, reads: int, taken: int) -> None:
    """Only its heads are read: the figures of docs/decisions.md."""
    index = moov(codecs=(b"avc1", b"mp4a"), table=400_000)
    media = box(b"mdat", size=2 * GIB)
    head = FTYP + (media if order == "moov last" else index + media)
    size = len(FTYP) + len(index) + 2 * GIB
    last = (size - len(index), index) if order == "moov last" else (size, b"")
    file = pieces((0, head), last, size=size)
    assert inspect(file, size, ".mp4") == ContainerState("mp4", "")
    assert (file.reads, file.taken) == (reads, taken)
    assert inspect(pieces((0, head), last, size=size - 1), size - 1, ".mp4").unfinished
    assert MAX_READS * 0.005 + MAX_BYTES / 50e6 < 12  # s, on a slow share


def test_the_reason_names_the_box_and_the_missing_bytes() -> None:
    """And what the probable cause is."""
    data = FTYP + moov() + box(b"mdat", b"\x01" * 5000, size=8 + 5000 + 10485760)
    reason = "its mdat box ends 10485760 bytes past the end of the file: the copy is not complete"
    assert judged(data, ".mp4") == ContainerState("mp4", reason)

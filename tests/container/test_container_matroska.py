"""Matroska and WebM: closed, live and killed recordings are told apart."""

from __future__ import annotations

import pytest
from test_container_files import judged, recording, silence

from uploader.container import ContainerState

FINE = ContainerState("matroska", "")
UNKNOWN = None
UNTOLD = "its Segment has no size, and its SeekHead no positions: the recorder did not close this file"
ONES = b"\xff" * 8


def element(number: str, *contents: bytes, size: int | None = -1, width: int = 8) -> bytes:
    """An EBML element: its id in hexadecimal, its size in *width* bytes; -1 is the truth, None is unknown."""
    payload = b"".join(contents)
    value = (1 << 7 * width) - 1 if size is None else len(payload) if size < 0 else size
    return bytes.fromhex(number) + (value | 1 << 7 * width).to_bytes(width, "big") + payload


HEADER = element("1a45dfa3", element("4282", b"matroska", width=1), width=1)
TRACKS = element("1654ae6b", element("86", b"V_MPEG4/ISO/AVC"))
INFO = element("1549a966", element("2ad7b1", b"\x0f\x42\x40"))
BLOCKS = element("a3", b"\x81\0\0\x80" + b"\x65\x88" * 4000)


def cluster(*contents: bytes, size: int | None = -1) -> bytes:
    """A cluster with its timestamp."""
    return element("1f43b675", element("e7", b"\x07"), *contents or (BLOCKS,), size=size)


def seek_head(*positions: bytes) -> bytes:
    """What stands where, from the Segment's beginning."""
    return element("114d9b74", *(element("4dbb", element("53ab", b"\x16"), element("53ac", at)) for at in positions))


def mkv(*parts: bytes, size: int | None = -1) -> ContainerState:
    """Check a Segment of these parts."""
    return judged(HEADER + element("18538067", *parts, size=size), ".mkv")


def test_segment_of_known_size_must_fit() -> None:
    """What follows the Segment does not matter."""
    whole = HEADER + element("18538067", INFO, TRACKS, cluster())
    assert judged(whole) == FINE
    assert judged(whole + bytes(100_000)) == FINE
    assert judged(whole + b"trailer") == FINE
    reason = "its Segment ends 300 bytes past the end of the file: the copy is not complete"
    assert judged(whole[:-300]) == ContainerState("matroska", reason)
    unsized = mkv(INFO, TRACKS, cluster(), size=0)
    assert unsized.unfinished.startswith("its Segment has size 0: the recorder did not close this file; it plays up to")


@pytest.mark.parametrize("parts", [(INFO, TRACKS), (seek_head(b"\x40"), INFO, TRACKS), (TRACKS,)])
@pytest.mark.parametrize("size", [UNKNOWN, -1])
def test_live_recording_may_end_after_any_cluster(parts: tuple[bytes, ...], size: int | None) -> None:
    """Without a size and without a reserved Void, a Segment is complete as it is."""
    assert mkv(*parts, cluster(size=size), cluster(size=size), size=UNKNOWN) == FINE


def test_a_live_recording_may_not_end_inside_a_cluster_of_known_size() -> None:
    """Nor inside a block of one of unknown size."""
    whole = HEADER + element("18538067", INFO, TRACKS, cluster(), cluster(), size=UNKNOWN)
    reason = "its last Cluster ends 300 bytes past the end of the file: the copy is not complete"
    assert judged(whole[:-300]) == ContainerState("matroska", reason)
    untold = HEADER + element("18538067", INFO, TRACKS, cluster(), cluster(size=UNKNOWN), size=UNKNOWN)
    reason = "its last block ends 300 bytes past the end of the file: the copy is not complete"
    assert judged(untold) == FINE
    assert judged(untold[:-300]) == ContainerState("matroska", reason)


def test_media_that_look_like_a_cluster_are_not_taken_for_one() -> None:
    """Four bytes are no cluster: what follows them must be one, too."""
    stray = element("a3", b"\x81\0\0\x80" + b"\x1f\x43\xb6\x75\x01\0\0\0\0\xff\xff\xff\x99" + bytes(100))
    assert mkv(INFO, TRACKS, cluster(stray), size=UNKNOWN) == FINE
    at_end = mkv(INFO, TRACKS, cluster(), b"\x1f\x43\xb6\x75", size=UNKNOWN).unfinished
    assert at_end.startswith("it ends inside the head of an element at byte ")


def test_an_unfilled_void_at_the_beginning_is_a_killed_recorder() -> None:
    """A recorder that can seek reserves a Void and fills it, and the size, in at closing."""
    room = element("ec", bytes(152))
    for duration in (element("ec", bytes(2)), element("4489", b"\x3f\x80\0\0")):  # FFmpeg; libwebm
        info = element("1549a966", element("2ad7b1", b"\x0f\x42\x40"), duration)
        assert "space for its SeekHead is still empty" in mkv(room, info, TRACKS, cluster(), size=UNKNOWN).unfinished
        assert mkv(room, info, TRACKS, cluster()) == FINE
        assert mkv(info, room, TRACKS, cluster(), size=UNKNOWN) == FINE


def test_a_void_of_a_live_muxer_is_no_sign_of_a_killed_recorder() -> None:
    """Such muxers leave no space for a duration."""
    assert mkv(element("ec", bytes(152)), INFO, TRACKS, cluster(), size=UNKNOWN) == FINE
    assert mkv(element("ec", bytes(152)), TRACKS, INFO, cluster(), size=UNKNOWN) == FINE


def test_seek_head_without_positions_is_a_killed_recorder() -> None:
    """GStreamer writes positions of all ones and replaces them at closing."""
    assert mkv(seek_head(ONES, ONES), INFO, TRACKS, cluster(), size=UNKNOWN).unfinished.startswith(UNTOLD)
    assert mkv(seek_head(b"\x50", ONES), INFO, TRACKS, cluster(), size=UNKNOWN).unfinished.startswith(UNTOLD)
    assert mkv(seek_head(ONES), INFO, TRACKS, cluster()) == FINE


def test_seek_head_may_not_point_to_zeros() -> None:
    """A preallocated copy that stalled lacks what the SeekHead names."""
    head = seek_head(b"\x01\x00\x00")
    reserved = bytes((1 << 16) + 10 - len(head))
    verdict = mkv(head, reserved)
    start = len(HEADER) + 12 + (1 << 16)
    assert (
        verdict.unfinished
        == f"only zeros at byte {start}, where its SeekHead names an element: the copy is not complete"
    )


def test_a_void_at_the_end_is_not_an_unwritten_end() -> None:
    """Editors leave a Void where something was removed."""
    assert mkv(INFO, TRACKS, cluster(), element("ec", bytes(200_000))) == FINE
    assert mkv(INFO, TRACKS, cluster(), element("ec", bytes(200_000)), size=UNKNOWN) == FINE
    assert "only zeros" in mkv(INFO, TRACKS, cluster(), bytes(200_000)).unfinished
    assert "only zeros" in mkv(INFO, TRACKS, cluster(), element("ed", bytes(200_000))).unfinished


@pytest.mark.parametrize("codec", [b"A_PCM/INT/LIT", b"V_UNCOMPRESSED", b"V_PRORES", b"V_SOMETHING"])
def test_zeros_of_media_that_may_be_zeros_pass(codec: bytes) -> None:
    """PCM silence and black raw video may end in zeros, and so may an unknown codec; they lie in a block."""
    tracks, quiet = element("1654ae6b", element("86", codec)), element("a3", b"\x81\0\0\x80" + bytes(200_000))
    assert mkv(INFO, tracks, cluster(BLOCKS, quiet)) == FINE
    assert "only zeros" in mkv(INFO, tracks, cluster(), bytes(200_000)).unfinished


def test_recorded_silence_passes() -> None:
    """A real recording of PCM silence is finished."""
    assert judged(silence("matroska"), ".mkv") == FINE
    assert judged(silence("matroska", live="1"), ".mkv") == FINE


@pytest.mark.parametrize("name", ["mkv", "mkv, live", "webm"])
def test_every_beginning_of_a_recording_is_unfinished(name: str) -> None:
    """As long as there is no first cluster, live or not."""
    whole = recording(name)
    for end in range(5, whole.find(b"\x18\x53\x80\x67") + 13):
        assert judged(whole[:end], ".mkv").unfinished, end
        assert judged(whole[:end] + bytes(100_000), ".mkv").unfinished, end


def test_an_ebml_file_without_a_segment_passes() -> None:
    """It is no Matroska file."""
    assert judged(HEADER + element("12345678", b"something else" * 9)) == FINE

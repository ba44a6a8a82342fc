"""Reads the structure of a video file: whether its recorder has closed it, and how long it plays.

A size and a time that no longer change do not prove that a file is finished: a recorder may pause, and a copy onto a
share may set the whole size first and then stall. Containers tell more: they hold lengths that must fit the file, and
fields that are filled in at the very end. Only a few structures are read; the kind of file is found from its first
bytes, and the suffix is only a hint.

    mp4.py        MP4 and MOV: mp4_boxes, mp4_index, mp4_fragmented and mp4_fragments
    matroska.py   Matroska and WebM: ebml reads the elements, matroska_end finds the last one
    riff.py       AVI: riff_chunks walks the chunks, riff_index reads the indexes
    mxf.py        MXF: mxf_klv reads the packets, mxf_metadata the duration
    asf.py        ASF and WMV
    flv.py        FLV
    mpeg.py       MPEG-TS and MPEG-PS
    endings.py    a file that its recorder never closed: does it play up to its end
    reader.py     bounded reads, and the search from the end of a file

Each module says what it can detect and what it cannot. In doubt a file counts as closed: one that is unknown, odd, or
would need too many reads. A gate that holds back a finished recording would be as bad as no gate.

The duration is what the container states, in seconds. The media are not read, and nothing is added up:

    MP4, MOV         mvhd; if it states none, the longest track's tkhd or mdhd; in a fragmented file
                     mehd, or the times of the first and the last fragment
    Matroska, WebM   Duration x TimestampScale in Info; none if the Segment has no size
    MXF              the longest track of the material package; none if neither header nor footer is closed and complete
    AVI              strh of the longest stream, dmlh for the frames of all RIFFs; else avih
    ASF, WMV         play duration less preroll; none with the broadcast flag
    MPEG-TS, PS, FLV none

No bytes make it fail; only what *read* raises passes through. A check costs at most ``MAX_READS`` reads and
``MAX_BYTES`` bytes (``reader``), and holds about a mebibyte of them in memory. Only a long row of fragments or
clusters needs more than a few dozen reads. An MP4 of 2 GiB costs about 25 reads and 130 KiB, as its index is asked
where some pictures lie.

Touches: nothing: bytes are read through a function that is passed in.
Imports: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from uploader.container import asf, flv, matroska, mp4, mpeg, mxf, riff
from uploader.container.reader import (
    MAX_BYTES,
    MAX_READS,
    BecameShorter,
    ContainerReader,
    Playable,
    Read,
    TooLong,
    is_zero,
)

__all__ = ["LONGEST", "MAX_BYTES", "MAX_READS", "ContainerState", "Read", "duration", "inspect"]

LONGEST: Final = 10 * 86400.0  # s; a longer duration is a recorder's fault, or a field that was never filled in

_SMALLEST: Final = 32  # bytes; the first structure of every container is at least as long


@dataclass(frozen=True, slots=True)
class ContainerState:
    """The result of a check."""

    container: str  # "mp4", "matroska", "avi", "mpeg-ts", "mpeg-ps", "asf", "flv", "mxf", or "" when unknown
    unfinished: str  # "" when it is closed or cannot be checked; else the reason, one clause for an operator
    playable: bool = False  # unfinished, but what is there is whole, or plays up to its end: ``reader.Playable``


class _Family(NamedTuple):
    name: str
    begins: Callable[[bytes], bool]  # whether a file with these first bytes is of this family
    unfinished: Callable[[ContainerReader], str | Playable]
    duration: Callable[[ContainerReader], float | None]  # in seconds, as stated, however odd; None: none is stated


_MXF: Final = _Family("mxf", mxf.begins, mxf.unfinished, mxf.duration)
_FAMILIES: Final = (
    _Family("mp4", mp4.begins, mp4.unfinished, mp4.duration),
    _Family("matroska", matroska.begins, matroska.unfinished, matroska.duration),
    _Family("avi", riff.begins, riff.unfinished, riff.duration),
    _Family("asf", asf.begins, asf.unfinished, asf.duration),
    _Family("mpeg-ts", mpeg.begins_ts, mpeg.unfinished, mpeg.duration),
    _Family("mpeg-ps", mpeg.begins_ps, mpeg.unfinished, mpeg.duration),
    _Family("flv", flv.begins, flv.unfinished, flv.duration),
    _MXF,
)

_SUFFIXES: Final = {
    *("mp4", "m4v", "mov", "qt", "3gp", "3g2"),
    *("mkv", "mk3d", "webm"),
    *("avi",),
    *("ts", "mts", "m2ts", "m2t", "mpg", "mpeg", "vob", "m2p"),
    *("wmv", "asf"),
    *("flv", "f4v", "mxf"),
}


def inspect(read: Read, size: int, suffix: str) -> ContainerState:
    """Check a file of *size* bytes through *read*.

    *suffix*: of its name, with or without the dot, in any case. It matters only when the first bytes belong to no known
    container. An empty file counts as closed. An ``OSError`` of *read* passes through.
    """
    source = ContainerReader(read, size)
    suffix = suffix.lower().lstrip(".")
    name = ""
    try:
        head = source.head()
        family = _family(head)
        if family is None and suffix == "mxf" and mxf.begins_behind_run_in(source):
            family = _MXF
        if family:
            name = family.name
            found = family.unfinished(source)
            return (
                ContainerState(name, found)
                if isinstance(found, str)
                else ContainerState(name, found.reason, playable=True)
            )
        return ContainerState(name, _without_magic(head, suffix))
    except TooLong:
        return ContainerState(name, "")
    except BecameShorter:
        return ContainerState(name, "it became shorter while it was checked: it is being written anew")


def duration(read: Read, size: int) -> float | None:
    """Return the seconds that a file of *size* bytes plays, as its container states it. *read* reads from the file.

    None when it states nothing, or nothing plausible: more than 0, at most ``LONGEST``. None too when it is unknown,
    became shorter, or would need too many reads. An ``OSError`` of *read* passes through.
    """
    source = ContainerReader(read, size)
    try:
        family = _family(source.head())
        seconds = family.duration(source) if family else None
    except (TooLong, BecameShorter):
        return None
    return seconds if seconds is not None and 0 < seconds <= LONGEST else None  # NaN is neither


def _family(head: bytes) -> _Family | None:
    """Return the kind of container that begins with these bytes; None when it is unknown."""
    return next((family for family in _FAMILIES if family.begins(head)), None)


def _without_magic(head: bytes, suffix: str) -> str:
    """Return the reason for a file with a video suffix whose first bytes belong to no known container.

    An unknown container alone is no reason: the server decides whether it plays, and recordings of unknown kinds are
    not held back. Zeros in place of its first structure are a reason.
    """
    if suffix not in _SUFFIXES or len(head) <= _SMALLEST or not is_zero(head[_SMALLEST:]):
        return ""
    start = len(head.rstrip(b"\0"))
    return f"zeros from byte {start} to {len(head)}: the recorder or the copy has not written its beginning yet"

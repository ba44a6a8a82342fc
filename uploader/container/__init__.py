"""The gate's eye: says from a file's structure whether its recorder has closed it. Pure.

Size and time standing still do not show that a file is finished: a recorder may pause, a copy onto a share may
announce the whole size first and stall. Containers tell more: they carry lengths that must fit the file, and
places that are filled in at the very end. Only heads are read, by content first and by suffix only as a hint.

What is judged: MP4 and MOV (``mp4``), Matroska and WebM (``matroska``), AVI (``riff``), MPEG-TS and MPEG-PS
(``mpeg``), ASF and WMV (``asf``); each module says what it can tell and what it cannot. Of a doubt the file has the
benefit: what is unknown, odd, or would take too long to look through counts as closed, for a gate that holds a
finished recording back is as bad as none.

Must never do I/O of its own, decode media, or fail on any bytes: whatever *read* raises passes through, and
nothing else comes out. An answer costs at most ``MAX_READS`` reads and ``MAX_BYTES`` bytes (``reader``); an MP4 of
2 GiB costs 4 reads and 24 KiB with its index at the end, 5 and 32 KiB with it in front.

Touches: nothing: bytes are read through a function that is passed in.
Imports: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from uploader.container import asf, matroska, mp4, mpeg, riff
from uploader.container.reader import MAX_BYTES, MAX_READS, BecameShorter, ContainerReader, Read, TooLong, is_zero

__all__ = ["MAX_BYTES", "MAX_READS", "ContainerState", "Read", "inspect"]

_SMALLEST: Final = 32  # bytes; no container's first structure is shorter


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What a file's structure says of it."""

    container: str  # "mp4", "matroska", "avi", "mpeg-ts", "mpeg-ps", "asf", or "" when unknown
    unfinished: str  # "" when closed or not to be judged; else the reason, one clause for a person


class _Family(NamedTuple):
    name: str
    begins: Callable[[bytes], bool]  # is this, by its first bytes, one of ours?
    unfinished: Callable[[ContainerReader], str]


_FAMILIES: Final = (
    _Family("mp4", mp4.begins, mp4.unfinished),
    _Family("matroska", matroska.begins, matroska.unfinished),
    _Family("avi", riff.begins, riff.unfinished),
    _Family("asf", asf.begins, asf.unfinished),
    _Family("mpeg-ts", mpeg.begins_ts, mpeg.unfinished),
    _Family("mpeg-ps", mpeg.begins_ps, mpeg.unfinished),
)

_SUFFIXES: Final = {
    *("mp4", "m4v", "mov", "qt", "3gp", "3g2"),
    *("mkv", "mk3d", "webm"),
    *("avi",),
    *("ts", "mts", "m2ts", "m2t", "mpg", "mpeg", "vob", "m2p"),
    *("wmv", "asf"),
}


def inspect(read: Read, size: int, suffix: str) -> ContainerState:
    """Judge a file of *size* bytes that *read* reads.

    *suffix*: of its name, with or without the dot, in any case. It matters only when the first bytes are those of
    no container. An empty file is not judged. OSError of *read* passes through.
    """
    source = ContainerReader(read, size)
    name = ""
    try:
        head = source.head()
        for name, begins, unfinished in _FAMILIES:
            if begins(head):
                return ContainerState(name, unfinished(source))
        name = ""
        return ContainerState(name, _without_magic(head, suffix.lower().lstrip(".")))
    except TooLong:
        return ContainerState(name, "")
    except BecameShorter:
        return ContainerState(name, "it became shorter while it was looked at: somebody is writing it anew")


def _without_magic(head: bytes, suffix: str) -> str:
    """What is wrong with a file that begins like no container, if its suffix promises one.

    That it is none is no reason: whether it plays is for the server to say, and a recording of a kind that is not
    known here must not be held back. Zeros where its head belongs are.
    """
    if suffix not in _SUFFIXES or len(head) <= _SMALLEST or not is_zero(head[_SMALLEST:]):
        return ""
    start = len(head.rstrip(b"\0"))
    return f"zeros from byte {start} to {len(head)}: the recorder or the copy has not written its beginning yet"

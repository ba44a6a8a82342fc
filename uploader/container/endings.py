"""Judges the end of a file that its recorder never closed, and has what all checks say about such files."""

from __future__ import annotations

from typing import Final

from uploader.container.reader import SAMPLE, ZEROS, ContainerReader, Playable, only_zeros, zeros_from

NOT_CLOSED: Final = "the recorder did not close this file"
NOT_COPIED: Final = "the copy is not complete"


def open_end(source: ContainerReader, media: int, fault: str, place: str = "") -> str | Playable:
    """Return the finding for a file with the *fault* that its recorder never closed it.

    It is ``Playable``, unless its last ``SAMPLE`` bytes are zeros: then space was reserved for more. *media*: where its
    media begin. *place*: up to where it plays; its last byte, if that is not known.
    """
    begin = max(media, source.size - ZEROS)
    tail = source.at(begin, ZEROS)
    written = len(tail.rstrip(b"\0"))
    if len(tail) - written >= SAMPLE or not written:
        zeros = zeros_from(source, media, source.size)
        return only_zeros(begin + written if zeros is None else zeros)
    return Playable(f"{fault}; it plays up to {place or f'byte {source.size}'}")


def clock_time(seconds: float) -> str:
    """Return a time within a recording, like "00:12:31"."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}"

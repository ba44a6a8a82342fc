"""Checks FLV: Adobe's Video File Format Specification (version 10.1), annex E.

A file is a header and a row of tags, each followed by its own size. Nothing else is written at closing, so a file is
complete where a tag ends.

Detected: an end inside a tag, if the sizes behind the first tags are those that they should be. Such a file is
``Playable``: its recorder died, or it was cut, and it plays up to there. Zeros at the end.

Not detected: a cut between two tags.

Reads: 3.
"""

from __future__ import annotations

from typing import Final

from uploader.container.endings import open_end
from uploader.container.reader import SAMPLE, ContainerReader, Playable, is_zero

_HEAD: Final = 11  # bytes of a tag before its content
_TYPES: Final = frozenset({8, 9, 18})  # sound, picture, script
_FIRST: Final = 3  # tags whose sizes are compared, to learn whether this writer writes them


def begins(head: bytes) -> bool:
    """True when the file begins with the header of an FLV."""
    return head[:4] == b"FLV\x01" and int.from_bytes(head[5:9], "big") >= 9


def unfinished(source: ContainerReader) -> str | Playable:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    start = int.from_bytes(source.at(5, 4), "big") + 4
    if start > source.size:
        return "it ends inside its header: the copy is not complete"
    if start == source.size:
        return "it has no tags yet: the recorder did not close this file"
    fault = "it ends inside a tag: the recorder did not close this file, or the copy is not complete"
    if _ends_with_a_tag(source):
        return ""
    if source.size - start < _HEAD:
        return fault
    if is_zero(source.at(source.size - SAMPLE, SAMPLE)):
        return open_end(source, start, fault)
    offset = start
    for _ in range(_FIRST):
        end = _tag_end(source, offset)
        if end is None or end > source.size:
            break
        if int.from_bytes(source.at(end - 4, 4), "big") != end - 4 - offset:
            return ""  # this writer has sizes of its own
        offset = end
    if offset == start:
        return fault if _tag_end(source, start) else ""
    return open_end(source, start, fault)


def duration(_: ContainerReader) -> None:
    """Return None: what the script tag states was often written before the recording."""


def _tag_end(source: ContainerReader, start: int) -> int | None:
    """Return where a tag and its size end; None when there is no tag."""
    head = source.at(start, _HEAD)
    if len(head) < _HEAD or head[0] & 0x1F not in _TYPES or head[8:] != bytes(3):
        return None
    return start + _HEAD + int.from_bytes(head[1:4], "big") + 4


def _ends_with_a_tag(source: ContainerReader) -> bool:
    """True when the last four bytes are the size of a tag that ends there; a few zeros may follow as padding."""
    tail = source.at(max(0, source.size - SAMPLE), SAMPLE)
    written = source.size - len(tail) + len(tail.rstrip(b"\0"))
    for end in {source.size, *range(written, min(written + 4, source.size))}:  # a size may end in zeros
        start = end - 4 - int.from_bytes(source.at(end - 4, 4), "big")
        if _tag_end(source, start) == end:
            return True
    return False

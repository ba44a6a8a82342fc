"""Reads ASF and WMV: the objects of Microsoft's Advanced Systems Format specification (revision 01.20.05).

Detected: the header's broadcast flag, which by definition means that the file is still being created; a file size in
the header that is 0 or beyond the end of the file; a Data object without a size, or past the end of the file; 64 KiB of
zeros at the end of the size that the header states.

Not detected: anything in a file without file properties within the first ``_HEADER`` bytes of its header; what follows
the stated size. A saved stream of broadcast packets (asf_stream, http) does not begin with a header, and is unknown.
Packets are not read.
"""

from __future__ import annotations

from typing import Final

from uploader.container.reader import ContainerReader, is_zero, only_zeros, past_the_end, zeros_from

_HEADER_OBJECT: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_FILE_PROPERTIES: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_DATA: Final = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_HEADER: Final = 16 * 1024  # bytes of the header that are searched
_OBJECTS: Final = 64
_HEAD: Final = 24  # bytes of GUID and size at the start of every object
_FIRST_OBJECT: Final = 30
_PROPERTIES: Final = 92  # bytes of the file properties, up to and including the flags
_BROADCAST: Final = 1

_NOT_CLOSED: Final = "the recorder did not close this file"
_NOT_COPIED: Final = "the copy is not complete"


def begins(head: bytes) -> bool:
    """True when the file begins with an ASF header object."""
    return head[:16] == _HEADER_OBJECT


def unfinished(source: ContainerReader) -> str:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    header = _size(source, 0)
    if source.size < _FIRST_OBJECT or header > source.size:
        return past_the_end("header object", max(header, _FIRST_OBJECT), source)
    properties = _properties(source, header)
    if properties is None:
        return ""
    announced = int.from_bytes(properties[40:48], "little")
    if int.from_bytes(properties[88:92], "little") & _BROADCAST:
        return f"its header says that it is still being created (broadcast flag): {_NOT_CLOSED}"
    if not announced:
        return f"its header has no file size yet: {_NOT_CLOSED}"
    if announced > source.size:
        return past_the_end("content, by its header,", announced, source)
    return _of_data(source, header, announced)


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that the file properties state: the play duration includes the preroll (3.2).

    None when there are none, and with the broadcast flag: then these fields are invalid.
    """
    properties = _properties(source, _size(source, 0))
    if properties is None or len(properties) < _PROPERTIES:
        return None
    if int.from_bytes(properties[88:92], "little") & _BROADCAST:
        return None
    play, preroll = (int.from_bytes(properties[start : start + 8], "little") for start in (64, 80))
    return play / 1e7 - preroll / 1e3  # 100 ns, ms


def _of_data(source: ContainerReader, start: int, announced: int) -> str:
    """Check the Data object, which follows the header."""
    head = source.at(start, _HEAD)
    if is_zero(head):
        return only_zeros(start)
    if len(head) < _HEAD:
        return f"no Data object after its header: {_NOT_COPIED}"
    if head[:16] != _DATA:
        return ""
    size = _size(source, start)
    if size == 0:
        return f"its Data object has no size yet: {_NOT_CLOSED}"
    if start + size > source.size:
        return past_the_end("Data object", start + size, source)
    zeros = zeros_from(source, start, announced)
    return only_zeros(zeros) if zeros is not None else ""


def _properties(source: ContainerReader, header: int) -> bytes | None:
    """Return the file properties object up to its flags; None when the header has none."""
    offset, end = _FIRST_OBJECT, min(header, _HEADER)
    for _ in range(_OBJECTS):
        if offset + _PROPERTIES > end:
            return None
        if source.at(offset, 16) == _FILE_PROPERTIES:
            return source.at(offset, _PROPERTIES)
        size = _size(source, offset)
        if size < _HEAD:
            return None
        offset += size
    return None


def _size(source: ContainerReader, start: int) -> int:
    """Return the size of the object at *start*, including its head."""
    return int.from_bytes(source.at(start + 16, 8), "little")

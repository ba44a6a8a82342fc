"""Reads ASF and WMV: the objects of Microsoft's Advanced Systems Format specification (revision 01.20.05).

**An index behind the Data object that is whole decides**: it is written at closing. Then the sizes and the broadcast
flag in the header may be anything.

Detected: the header's broadcast flag, which by definition means that the file is still being created; a file size in
the header that is 0 or beyond the end of the file; a Data object without a size, or past the end of the file; an index
that is cut; a last packet that is all zeros, or 64 KiB of zeros at the end of the size that the header states.

Not detected: anything in a file without file properties within the first ``_HEADER`` bytes of its header; what follows
the stated size. A saved stream of broadcast packets (asf_stream, http) does not begin with a header, and is unknown. A
file without an index whose header was never filled in is ``Playable``: its recorder died, or has written to a pipe.
FFmpeg ends with an index or the marker of an ended stream there, too; what it has finished is closed.

Reads: 2 to 4. Where the header is odd, the last ``_TAIL`` bytes are searched for an index.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from uploader.container.endings import NOT_CLOSED, NOT_COPIED, clock_time, open_end
from uploader.container.reader import ContainerReader, Playable, is_zero, only_zeros, past_the_end, zeros_from

_HEADER_OBJECT: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_FILE_PROPERTIES: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_DATA: Final = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_INDEXES: Final = (
    bytes.fromhex("90080033b1e5cf1189f400a0c90349cb"),  # simple index
    bytes.fromhex("d329e2d6da35d111903400a0c90349be"),  # index
    bytes.fromhex("f803b1fead12644c840f2a1d2f7ad48c"),  # media object index
    bytes.fromhex("d03fb73c4a0c0348953dedf7b6228f0c"),  # timecode index
)
_HEADER: Final = 16 * 1024  # bytes of the header that are searched
_OBJECTS: Final = 64
_HEAD: Final = 24  # bytes of GUID and size at the start of every object
_FIRST_OBJECT: Final = 30
_PROPERTIES: Final = 104  # bytes of the file properties object
_BROADCAST: Final = 1
_FIRST_PACKET: Final = 50  # bytes of the Data object before its packets
_LARGEST_PACKET: Final = 64 * 1024
_END_OF_STREAM: Final = b"$E\x08\0" + bytes(6) + b"\x08\0"  # of MS-WMSP; FFmpeg ends what it writes to a pipe with it
_TAIL: Final = 256 * 1024


class _Header(NamedTuple):
    """What the file properties (3.2) and the Data object (5.1) say."""

    size: int  # of the file
    broadcast: bool
    packet: int  # bytes; 0 when packets differ
    data: int  # offset of the Data object
    data_size: int


def begins(head: bytes) -> bool:
    """True when the file begins with an ASF header object."""
    return head[:16] == _HEADER_OBJECT


def unfinished(source: ContainerReader) -> str | Playable:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    data = _size(source, 0)
    if source.size < _FIRST_OBJECT or data > source.size:
        return past_the_end("header object", max(data, _FIRST_OBJECT), source)
    properties = _properties(source, data)
    if properties is None:
        return only_zeros(data) if is_zero(source.at(data, _HEAD)) else ""
    header = _header(properties, data, _size(source, data) if source.at(data, 16) == _DATA else -1)
    fault = _of_header(source, header)
    if header.data_size >= 0 and _is_indexed(source, header, searched=bool(fault)):
        return _of_last_packet(source, header)
    if not fault:
        return _of_data(source, header) or _of_last_packet(source, header)
    begun = header.data_size >= 0 and source.size > data + _FIRST_PACKET + header.packet
    return open_end(source, data, fault, _place(source, header)) if fault.endswith(NOT_CLOSED) and begun else fault


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that the file properties state: the play duration includes the preroll (3.2).

    None when there are none, and with the broadcast flag: then these fields are invalid.
    """
    properties = _properties(source, _size(source, 0))
    if properties is None or int.from_bytes(properties[88:92], "little") & _BROADCAST:
        return None
    play, preroll = (int.from_bytes(properties[start : start + 8], "little") for start in (64, 80))
    return play / 1e7 - preroll / 1e3  # 100 ns, ms


def _header(properties: bytes, data: int, data_size: int) -> _Header:
    """Read the file properties. *data_size*: -1 when there is no Data object at *data*."""
    size = int.from_bytes(properties[40:48], "little")
    flags, smallest, largest = (int.from_bytes(properties[at : at + 4], "little") for at in (88, 92, 96))
    packet = smallest if smallest == largest and smallest <= _LARGEST_PACKET else 0
    return _Header(size, bool(flags & _BROADCAST), packet, data, data_size)


def _of_header(source: ContainerReader, header: _Header) -> str:
    """Check the sizes and the flag."""
    if header.broadcast:
        return f"its header says that it is still being created (broadcast flag): {NOT_CLOSED}"
    if not header.size:
        return f"its header has no file size yet: {NOT_CLOSED}"
    if header.size > source.size:
        return past_the_end("content, by its header,", header.size, source)
    head = source.at(header.data, _HEAD)
    begun = head.rstrip(b"\0")
    if head and begun != _DATA and _DATA.startswith(begun):
        return only_zeros(header.data)
    if len(head) < _HEAD:
        return f"no Data object after its header: {NOT_COPIED}"
    if header.data_size == 0:
        return f"its Data object has no size yet: {NOT_CLOSED}"
    if header.data + header.data_size > source.size:
        return past_the_end("Data object", header.data + header.data_size, source)
    return ""


def _is_indexed(source: ContainerReader, header: _Header, *, searched: bool) -> bool:
    """True when a whole index follows the Data object. *searched*: also where its size does not lead.

    Then also when the file ends with the marker that is sent at the end of a stream.
    """
    start = header.data + header.data_size
    if header.data_size and source.at(start, 16) in _INDEXES:
        return _is_whole(source, start)
    if not searched:
        return False
    begin = max(header.data, source.size - _TAIL)
    tail = source.at(begin, _TAIL)
    places = (begin + tail.rfind(index) for index in _INDEXES if index in tail)
    return tail[-len(_END_OF_STREAM) :] == _END_OF_STREAM or any(_is_whole(source, place) for place in places)


def _is_whole(source: ContainerReader, start: int) -> bool:
    """True when the object at *start* lies within the file."""
    size = _size(source, start)
    return size >= _HEAD and start + size <= source.size


def _of_data(source: ContainerReader, header: _Header) -> str:
    """Check a file whose sizes fit and that has no whole index: one that is cut, and zeros at the end."""
    start = header.data + header.data_size
    rest = source.at(start, 16) if header.data_size > 0 else b""
    if rest and any(index.startswith(rest) for index in _INDEXES):
        return past_the_end("index", start + max(_HEAD, _size(source, start)), source)
    zeros = zeros_from(source, header.data, header.size) if header.data_size >= 0 else None
    return only_zeros(zeros) if zeros is not None else ""


def _of_last_packet(source: ContainerReader, header: _Header) -> str:
    """Return the reason for a Data object whose last packet is all zeros; a packet has a head."""
    packets = (header.data_size - _FIRST_PACKET) // header.packet if header.packet else 0
    start = header.data + _FIRST_PACKET + (packets - 1) * header.packet
    if packets <= 0 or start + header.packet > source.size or not is_zero(source.at(start, header.packet)):
        return ""
    zeros = zeros_from(source, header.data, start + header.packet)
    return only_zeros(start if zeros is None else zeros)


def _place(source: ContainerReader, header: _Header) -> str:
    """Say up to where a file plays: the time of its last whole packet (5.2.2); "" when packets differ in size."""
    if not header.packet:
        return ""
    first = header.data + _FIRST_PACKET
    head = source.at(first + ((source.size - first) // header.packet - 1) * header.packet, 32)
    start = 1 + (head[0] & 0x0F) if head and head[0] & 0x80 else 0  # error correction data
    if len(head) < start + 2 + 12 + 4:
        return ""
    widths = (0, 1, 2, 4)
    start += 2 + sum(widths[head[start] >> shift & 3] for shift in (1, 3, 5))  # sequence, padding, packet length
    return f"{clock_time(int.from_bytes(head[start : start + 4], 'little') / 1000)} (byte {source.size})"


def _properties(source: ContainerReader, header: int) -> bytes | None:
    """Return the file properties object; None when the header has none."""
    offset, end = _FIRST_OBJECT, min(header, _HEADER)
    for _ in range(_OBJECTS):
        if offset + _PROPERTIES > end:
            return None
        if source.at(offset, 16) == _FILE_PROPERTIES:
            properties = source.at(offset, _PROPERTIES)
            return properties if len(properties) == _PROPERTIES else None
        size = _size(source, offset)
        if size < _HEAD:
            return None
        offset += size
    return None


def _size(source: ContainerReader, start: int) -> int:
    """Return the size of the object at *start*, including its head."""
    return int.from_bytes(source.at(start + 16, 8), "little")

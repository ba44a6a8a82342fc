"""Reads the structures of MXF: SMPTE ST 377-1. ``mxf`` judges them.

A file is a row of KLV packets: a key of 16 bytes, a length of 1 to 9 bytes (BER), a value. It is divided into
partitions, each of which begins with a packet that tells its kind and its status: a header, any number of bodies, a
footer. A Random Index Pack (RIP) at the very end names them all; it is optional. Before the header there may be a
run-in of less than 64 KiB; all offsets count from the header.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from uploader.container.reader import ContainerReader, pieces_from_end

RUN_IN: Final = 64 * 1024  # bytes before the header, at most: 6.5
HEADER, BODY, FOOTER = 2, 3, 4  # kinds of partitions: byte 13 of the key
KEY_SIZE: Final = 16
SMALLEST_RIP: Final = 33  # bytes of a Random Index Pack with one entry

_CLOSED: Final = frozenset({2, 4})  # byte 14 of the key: 1 open incomplete, 2 closed incomplete, 3 and 4 complete
_COMPLETE: Final = 4
_UL: Final = b"\x06\x0e\x2b\x34"  # what every key begins with
_PACK: Final = b"\x06\x0e\x2b\x34\x02\x05\x01"  # byte 7 is the version of the register
_PARTITION: Final = b"\x0d\x01\x02\x01\x01"
_RIP: Final = 0x11  # in the place of a partition's kind
_LONGEST_BER: Final = 8  # bytes of a length after the first one
_HEAD: Final = KEY_SIZE + 1 + _LONGEST_BER
_PACK_SIZE: Final = 88  # bytes of a partition pack without its list of essence containers: 7.1
_LARGEST_RIP: Final = 1024 * 1024  # bytes; 87,000 partitions
_ENTRY: Final = 12  # bytes of an entry of the RIP


class Packet(NamedTuple):
    """A KLV packet."""

    key: bytes
    start: int
    value: int  # offset of the value
    end: int

    @property
    def is_rip(self) -> bool:
        """True for a Random Index Pack."""
        return _pack_kind(self.key) == _RIP


class Partition(NamedTuple):
    """The pack at the beginning of a partition. Offsets are those of the file."""

    kind: int
    closed: bool
    complete: bool  # closed, and all values of its metadata are final
    packet: Packet
    footer: int | None  # where the footer begins; None: not known
    header_bytes: int  # of metadata behind the pack
    index_bytes: int  # of index tables behind them


def is_partition(key: bytes) -> bool:
    """True when a packet with this key is a partition pack."""
    return _pack_kind(key) in (HEADER, BODY, FOOTER)


def begins_packet(data: bytes) -> bool:
    """True when *data* is the beginning of a packet, however short, or empty."""
    return data[:4] == _UL[: len(data)]


def packet_at(source: ContainerReader, start: int) -> Packet | None:
    """Read the head of the packet at *start*; None when there is none, or the file ends inside its head."""
    head = source.at(start, _HEAD)
    if len(head) <= KEY_SIZE or head[:4] != _UL:
        return None
    first, width = head[KEY_SIZE], 0
    length = first
    if first & 0x80:
        width = first & 0x7F
        length = int.from_bytes(head[KEY_SIZE + 1 : KEY_SIZE + 1 + width], "big")
        if not 0 < width <= _LONGEST_BER or len(head) < KEY_SIZE + 1 + width:
            return None
    value = start + KEY_SIZE + 1 + width
    return Packet(head[:KEY_SIZE], start, value, value + length)


def partition_at(source: ContainerReader, start: int, header: int) -> Partition | None:
    """Read the partition pack at *start*; None when there is none, or it is cut. *header*: where the header begins."""
    packet = packet_at(source, start)
    if packet is None or not is_partition(packet.key):
        return None
    value = source.at(packet.value, _PACK_SIZE)
    if packet.end > source.size or len(value) < _PACK_SIZE:
        return None
    footer, header_bytes, index_bytes = (int.from_bytes(value[at : at + 8], "big") for at in (24, 32, 40))
    status = packet.key[14]
    return Partition(
        packet.key[13],
        status in _CLOSED,
        status == _COMPLETE,
        packet,
        header + footer if footer else None,
        header_bytes,
        index_bytes,
    )


def header_start(head: bytes) -> int | None:
    """Return where the header begins in the first bytes of a file; None when it is no MXF."""
    found = head.find(_PACK)
    while found >= 0:
        if _pack_kind(head[found : found + KEY_SIZE]) == HEADER:
            return found
        found = head.find(_PACK, found + 1)
    return None


def rip_of(source: ContainerReader, header: int) -> list[int] | None:
    """Return where the partitions begin, by a RIP that ends with the file; None when there is none, or it is odd."""
    length = int.from_bytes(source.at(source.size - 4, 4), "big")
    if not KEY_SIZE + 1 + 4 <= length <= min(_LARGEST_RIP, source.size - header):
        return None
    packet = packet_at(source, source.size - length)
    if packet is None or not packet.is_rip or packet.end != source.size:
        return None
    data = source.at(packet.value, packet.end - 4 - packet.value)
    starts = [header + int.from_bytes(data[at + 4 : at + _ENTRY], "big") for at in range(0, len(data), _ENTRY)]
    within = len(data) % _ENTRY == 0 and all(header <= start < packet.start for start in starts)
    return starts if starts and within else None


def last_footer(source: ContainerReader, header: int, limit: int) -> Partition | None:
    """Search the last *limit* bytes for a footer's pack."""
    for start, data in pieces_from_end(source, max(header, source.size - limit), KEY_SIZE):
        found = data.rfind(_PACK)
        while found >= 0:
            if _pack_kind(data[found : found + KEY_SIZE]) == FOOTER:
                return partition_at(source, start + found, header)
            found = data.rfind(_PACK, 0, found)
    return None


def last_packet(source: ContainerReader, header: int, limit: int) -> Packet | None:
    """Search the last *limit* bytes for the last packet of all."""
    for start, data in pieces_from_end(source, max(header, source.size - limit), _HEAD):
        found = data.rfind(_UL)
        while found >= 0:
            key = data[found : found + KEY_SIZE]
            if len(key) == KEY_SIZE and 1 <= key[4] <= 4 and 1 <= key[8] <= 0x0F:  # 4 bytes may be media
                return packet_at(source, start + found)
            found = data.rfind(_UL, 0, found)
    return None


def packets(source: ContainerReader, start: int) -> Iterator[Packet]:
    """Yield the packets from *start* on, up to one that is missing or ends past the end of the file."""
    while (packet := packet_at(source, start)) is not None:
        yield packet
        if packet.end >= source.size:
            return
        start = packet.end


def _pack_kind(key: bytes) -> int | None:
    """Return the kind of a pack of the file's structure; None when the key is another one."""
    return key[13] if len(key) == KEY_SIZE and key[:7] == _PACK and key[8:13] == _PARTITION else None

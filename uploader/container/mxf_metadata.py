"""Reads the duration from the metadata of an MXF: SMPTE ST 377-1, annex B.

A material package has tracks; each has an edit rate and a sequence, which has a duration in units of that rate. The
package describes what is played.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from uploader.container.mxf_klv import Packet, Partition, packet_at
from uploader.container.reader import ContainerReader

_LARGEST: Final = 512 * 1024  # bytes of metadata that are read
_SET: Final = bytes.fromhex("060e2b34025301")  # a local set; byte 7 is the version of the register
_STRUCTURAL: Final = bytes.fromhex("0d01010101")
_MATERIAL_PACKAGE, _SEQUENCE, _TRACK = 0x36, 0x0F, 0x3B  # byte 14 of the key
_UID, _TRACKS, _EDIT_RATE, _OF_TRACK, _DEFINITION, _LENGTH = 0x3C0A, 0x4403, 0x4B01, 0x4803, 0x0201, 0x0202
_DEFINITIONS: Final = bytes.fromhex("01030202")  # bytes 8 to 11 of a data definition; byte 12: 1 picture, 2 sound


class _Set(NamedTuple):
    kind: int
    items: dict[int, bytes]


def duration(source: ContainerReader, partition: Partition) -> float | None:
    """Return the seconds of the longest track of picture or sound; None when one of them states none."""
    sets = {item.items.get(_UID, b""): item for item in _sets(source, partition)}
    packages = [item for item in sets.values() if item.kind == _MATERIAL_PACKAGE]
    if len(packages) != 1:
        return None
    found: list[float | None] = []
    for reference in _references(packages[0].items.get(_TRACKS, b"")):
        track = sets.get(reference)
        sequence = sets.get(track.items.get(_OF_TRACK, b"")) if track and track.kind == _TRACK else None
        if track and sequence and sequence.kind == _SEQUENCE and _is_media(sequence.items.get(_DEFINITION, b"")):
            found.append(_seconds(track.items.get(_EDIT_RATE, b""), sequence.items.get(_LENGTH, b"")))
    stated = [seconds for seconds in found if seconds is not None]
    return max(stated) if stated and len(stated) == len(found) else None


def _is_media(definition: bytes) -> bool:
    """True for the data definitions of picture and sound; timecode is none."""
    return definition[8:12] == _DEFINITIONS and definition[12:13] in (b"\1", b"\2")


def _seconds(rate: bytes, length: bytes) -> float | None:
    """Return how long a sequence is; None when its length is not known (-1)."""
    units = int.from_bytes(length, "big", signed=True)
    numerator, denominator = int.from_bytes(rate[:4], "big"), int.from_bytes(rate[4:8], "big")
    if len(rate) != 8 or len(length) != 8 or units < 0 or not numerator:
        return None
    return units * denominator / numerator


def _references(batch: bytes) -> Iterator[bytes]:
    """Yield the identifiers in a batch: their number and size, of 4 bytes each, then the identifiers."""
    for start in range(8, len(batch) - 15, 16):
        yield batch[start : start + 16]


def _sets(source: ContainerReader, partition: Partition) -> Iterator[_Set]:
    """Yield the sets of a partition's metadata; none when they are too long, or cut."""
    start, end = partition.packet.end, partition.packet.end + partition.header_bytes
    if not 0 < partition.header_bytes <= _LARGEST or end > source.size:
        return
    source.at(start, end - start)  # one read for all of them
    while start < end and (packet := packet_at(source, start)) is not None:
        if packet.key[:7] == _SET and packet.key[8:13] == _STRUCTURAL:
            yield _Set(packet.key[14], dict(_items(source, packet)))
        start = packet.end


def _items(source: ContainerReader, packet: Packet) -> Iterator[tuple[int, bytes]]:
    """Yield the items of a local set: tag and length of two bytes each, and the value."""
    data, start = source.at(packet.value, packet.end - packet.value), 0
    while start + 4 <= len(data):
        tag, length = int.from_bytes(data[start : start + 2], "big"), int.from_bytes(data[start + 2 : start + 4], "big")
        yield tag, data[start + 4 : start + 4 + length]
        start += 4 + length

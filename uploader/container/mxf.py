"""Checks MXF: SMPTE ST 377-1. Recorders, broadcast servers and cameras (XDCAM, P2, OP-Atom) write it.

A file is closed when its header or its footer says so (6.2.4), and it is there up to its end. A recorder that writes to
a tape or a pipe leaves an open header; its footer closes it. So does a file that grows while it is edited: an open
header, a body every minute, and at the end a footer, or a header that is written anew.

Detected: a file whose header is open and which has no closed footer; a footer that a header or the Random Index Pack
(RIP) names and that is missing or zeros; an end inside the footer or the RIP.

Not detected: a cut exactly before the RIP, which is optional, or in a closed file that names no footer, between two of
its packets; what follows the RIP; zeros within the essence. A file that is open is ``Playable``.

Reads: about 6, and one for each 4 KiB of the footer if there is no RIP. A file that is open is searched for a footer:
up to ``_SEARCHED`` bytes from its end. The duration takes one read of the metadata (``mxf_metadata``).
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from uploader.container import mxf_metadata
from uploader.container.endings import NOT_CLOSED, NOT_COPIED, open_end
from uploader.container.mxf_klv import (
    FOOTER,
    KEY_SIZE,
    RUN_IN,
    SMALLEST_RIP,
    Partition,
    begins_packet,
    header_start,
    last_footer,
    last_packet,
    packets,
    partition_at,
    rip_of,
)
from uploader.container.reader import ContainerReader, Playable, is_zero, past_the_end

_SEARCHED: Final = 16 * 1024 * 1024  # bytes at the end that are searched: the footer's metadata and index tables
_LOOKED_AT: Final = 4  # partitions that are looked at of those that the RIP names last
_WALKED: Final = 32  # packets that are walked from a header which names no footer


def begins(head: bytes) -> bool:
    """True when the file begins with the header of an MXF, without a run-in."""
    return header_start(head[:KEY_SIZE]) == 0


def begins_behind_run_in(source: ContainerReader) -> bool:
    """True when there is a header behind a run-in. For files that are called MXF: others may contain one."""
    return header_start(source.at(0, RUN_IN + KEY_SIZE)) is not None


def unfinished(source: ContainerReader) -> str | Playable:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    start = _start(source)
    header = partition_at(source, start, start)
    if header is None:
        return f"it ends inside its header partition: {NOT_COPIED}"
    starts = rip_of(source, start)
    if starts is not None:
        return _of_rip(source, header, starts)
    if header.footer is not None:
        return _of_named_footer(source, header, header.footer)
    footer = last_footer(source, start, _SEARCHED)
    if footer is not None and (footer.closed or header.closed):
        return _behind_footer(source, footer)
    return _without_footer(source, header) if header.closed else _open(source, header)


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that the metadata of a closed and complete header or footer state."""
    start = _start(source)
    header = partition_at(source, start, start)
    if header is None:
        return None
    if header.complete:
        return mxf_metadata.duration(source, header)
    last = partition_at(source, (rip_of(source, start) or [start])[-1], start)
    return mxf_metadata.duration(source, last) if last and last.complete and last.kind == FOOTER else None


def _start(source: ContainerReader) -> int:
    """Return where the header begins."""
    found = header_start(source.head())
    return found if found is not None else header_start(source.at(0, RUN_IN + KEY_SIZE)) or 0


def _of_rip(source: ContainerReader, header: Partition, starts: list[int]) -> str | Playable:
    """Check a file with a whole RIP, which names partitions at *starts*."""
    closed = header.closed
    for start in starts[-_LOOKED_AT:]:
        if is_zero(source.at(start, KEY_SIZE)):
            return f"only zeros at byte {start}, where its Random Index Pack names a partition: {NOT_COPIED}"
        named = partition_at(source, start, header.packet.start)
        closed = closed or (named is not None and named.kind == FOOTER and named.closed)
    footer = None if closed else last_footer(source, header.packet.start, _SEARCHED)
    return "" if closed or (footer and footer.closed) else _open(source, header)


def _of_named_footer(source: ContainerReader, header: Partition, start: int) -> str | Playable:
    """Check a file without a whole RIP, whose header says that the footer is at *start*."""
    if start + KEY_SIZE > source.size:
        return past_the_end("footer partition, by its header,", start + KEY_SIZE, source)
    if is_zero(source.at(start, KEY_SIZE)):
        return f"only zeros at byte {start}, where its header names its footer: {NOT_COPIED}"
    footer = partition_at(source, start, header.packet.start)
    if footer is None and (packet := next(packets(source, start), None)) and packet.end > source.size:
        return past_the_end("footer partition", packet.end, source)
    footer = footer or last_footer(source, header.packet.start, _SEARCHED)
    if footer is None:
        return f"no footer at byte {start}, where its header names it: {NOT_COPIED}"
    return _behind_footer(source, footer) if header.closed or footer.closed else _open(source, header)


def _behind_footer(source: ContainerReader, footer: Partition) -> str:
    """Walk from the footer to the end of the file: the metadata and index tables, and the RIP, if there is one."""
    end = footer.packet.end
    for packet in packets(source, end):
        if packet.end > source.size:
            return past_the_end("last packet", packet.end, source)
        if packet.is_rip:
            ends_in_zeros = is_zero(source.at(packet.end - 4, 4))  # its length, which it ends with
            return f"its Random Index Pack ends in zeros: {NOT_COPIED}" if ends_in_zeros else ""
        end = packet.end
    announced = footer.packet.end + footer.header_bytes + footer.index_bytes
    if announced > source.size:
        return past_the_end("footer partition", announced, source)
    rest = source.at(end, SMALLEST_RIP)
    written = rest.rstrip(b"\0")
    if begins_packet(written) and (written or len(rest) == SMALLEST_RIP):
        return f"no whole packet at byte {end}, behind its footer: {NOT_COPIED}"
    return ""


def _without_footer(source: ContainerReader, header: Partition) -> str:
    """Check a file whose header is closed and names no footer: its last packet must end where the file ends."""
    walked = list(islice(packets(source, header.packet.start), _WALKED))
    last = walked[-1] if len(walked) < _WALKED else last_packet(source, header.packet.start, _SEARCHED)
    if last is None:
        return ""  # one packet of essence that is longer than what is searched
    if last.end > source.size:
        return past_the_end("last packet", last.end, source)
    rest = source.at(last.end, KEY_SIZE + 9)
    if is_zero(rest):
        return (
            f"only zeros from byte {last.end} on: the recorder or the copy has reserved this space and not written it"
        )
    return f"it ends inside the head of its last packet: {NOT_COPIED}" if 0 < len(rest) <= KEY_SIZE else ""


def _open(source: ContainerReader, header: Partition) -> str | Playable:
    """Return the finding for a file that neither header nor footer closes."""
    fault = f"its header partition is open, and no footer closes it: {NOT_CLOSED}"
    if header.packet.end + header.header_bytes + header.index_bytes >= source.size:
        return fault
    return open_end(source, header.packet.end, fault)

"""Checks MPEG transport and program streams: ISO/IEC 13818-1, and the 192-byte packets of Blu-ray and AVCHD.

Detected: 64 KiB of zeros at the end. No packet and no pack is all zeros, so this space was reserved and not written.

Not detected: a cut. A stream has neither an index nor an end, so it is complete wherever its writer stops. For the same
reason it states no duration.
"""

from __future__ import annotations

from typing import Final

from uploader.container.reader import ContainerReader, only_zeros, zeros_from

_SYNC: Final = 0x47
_PACKETS: Final = ((188, 0), (192, 4), (204, 0))  # length, offset of the sync byte; 204: with Reed-Solomon bytes
_LEAST, _MOST = 3, 16  # packets: needed at least, checked at most; each must begin with a sync byte
_PACK: Final = b"\x00\x00\x01\xba"  # 13818-1, 2.5.3.4


def begins_ts(head: bytes) -> bool:
    """True when the file begins with packets of a transport stream."""
    return any(_is_in_step(head[start::length]) for length, start in _PACKETS)


def _is_in_step(beginnings: bytes) -> bool:
    return len(beginnings) >= _LEAST and set(beginnings[:_MOST]) == {_SYNC}


def begins_ps(head: bytes) -> bool:
    """True when the file begins with a pack of a program stream."""
    return head[:4] == _PACK


def unfinished(source: ContainerReader) -> str:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    zeros = zeros_from(source, 0, source.size)
    return only_zeros(zeros) if zeros is not None else ""


def duration(_: ContainerReader) -> None:
    """Return None: a stream states no duration, and timestamps may jump."""

"""The bounded reads that every check goes through: the limits, and the search from the end of a file."""

from __future__ import annotations

import pytest
from test_container_files import Reader, pieces

from uploader.container.reader import (
    FEW,
    FIRST_PIECE,
    LARGEST_PIECE,
    MAX_BYTES,
    MAX_READS,
    SMALLEST_READ,
    ContainerReader,
    forward_is_cheaper,
    pieces_from_end,
)

GIB = 1 << 30


@pytest.mark.parametrize("size", [0, 1, FIRST_PIECE, FIRST_PIECE + 1, 9 * LARGEST_PIECE + 5])
def test_a_file_is_searched_from_its_end_without_a_gap(size: int) -> None:
    """Each piece goes on into the one before it, none is larger than a mebibyte, and each is read once."""
    file = Reader(lambda offset, length: bytes((offset + at) % 251 for at in range(length)), size)
    border, overlap = size, 16
    for begin, data in pieces_from_end(ContainerReader(file, size), 0, overlap):
        assert begin + len(data) == min(border + overlap, size)
        assert len(data) <= LARGEST_PIECE + overlap
        assert data[0] == begin % 251
        border = begin
    assert border == 0
    assert file.taken <= size + overlap * file.reads + SMALLEST_READ


def test_a_search_from_the_end_ends_within_the_limits() -> None:
    """A file of 200 GiB is not read as a whole, and something is left for other reads."""
    file = pieces(size=200 * GIB)
    assert sum(1 for _ in pieces_from_end(ContainerReader(file, file.size), 0, 16)) > 200
    assert MAX_BYTES * 0.9 < file.taken < MAX_BYTES - 8 * LARGEST_PIECE


@pytest.mark.parametrize("gib", [1, 20, 200])
@pytest.mark.parametrize("count", [1, 10, 100, 1000, 10_000, 100_000, 1_000_000])
def test_the_cheaper_way_to_the_end_costs_no_more_than_the_limits(gib: int, count: int) -> None:
    """Up to 200 GiB, whatever the number of structures."""
    source = ContainerReader(pieces(size=gib * GIB), gib * GIB)
    average = gib * GIB / count
    if forward_is_cheaper(source, 0, average):
        assert count < max(MAX_READS, FEW + 1)
    else:
        assert average < MAX_BYTES * 0.9

"""Finds the numbers of ledger lines by a key of 64 bits, so that 200,000 lines need not be in memory.

Arrays instead of objects: 12 bytes a line, and 1 to 4 for the table in front of them. Equal keys do not prove equal
values: the caller checks each line that it is given.
"""

from __future__ import annotations

from array import array
from typing import Final

SMALLEST_TABLE: Final = 1024  # places in an empty index
GROWTH: Final = 4  # the table grows by this factor when there are more lines than places
KEY_MASK: Final = 2**64 - 1


class Index:
    """A hash table with chains: each place has the newest line whose key belongs there, each line the one before."""

    def __init__(self) -> None:
        self._heads = array("I", bytes(4 * SMALLEST_TABLE))
        self._keys = array("Q")
        self._before = array("I")

    def add(self, key: int) -> None:
        """Add the *key* of the next line: 0 ≤ key < 2^64. Lines count from 1."""
        keys, heads = self._keys, self._heads
        keys.append(key)
        place = key % len(heads)
        self._before.append(heads[place])
        heads[place] = len(keys)
        if len(keys) > len(heads):
            self._grow()

    def find(self, key: int) -> list[int]:
        """Return the numbers of all lines with this *key*, newest first."""
        keys, before, numbers = self._keys, self._before, []
        number = self._heads[key % len(self._heads)]
        while number:
            if keys[number - 1] == key:
                numbers.append(number)
            number = before[number - 1]
        return numbers

    def key_of(self, number: int) -> int:
        """Return the key of line *number*."""
        return self._keys[number - 1]

    def _grow(self) -> None:
        size = len(self._heads) * GROWTH
        heads, before = array("I", bytes(4 * size)), self._before
        for at, key in enumerate(self._keys):
            place = key % size
            before[at] = heads[place]
            heads[place] = at + 1
        self._heads = heads


def key_of_value(value: object) -> int:
    """Make a key of a text, a number or a tuple of these. It is valid in this process only."""
    return hash(value) & KEY_MASK

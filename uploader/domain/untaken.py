"""Counts by suffix the files of a folder that no include pattern takes, so that none is overlooked in silence. Pure.

Whole scans count, events do not: a file is counted once, however often it is written to. Memory is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

SUFFIXES_TOLD_APART: Final = 30  # suffixes; the files of all further ones are counted together
SUFFIXES_REPORTED: Final = 100  # suffixes that are reported for one folder since the start
NO_SUFFIX, OTHER_SUFFIXES = "no suffix", "other suffixes"  # in place of a suffix


class Untaken:
    """The files of one folder that no include pattern takes."""

    def __init__(self) -> None:
        self.at_last_scan: Mapping[str, int] = {}
        """Files by suffix, the most frequent first."""
        self._now: Counter[str] = Counter()
        self._reported: set[str] = set()

    def begin(self) -> None:
        """Begin to count anew: a scan begins."""
        self._now = Counter()

    def add(self, found: Mapping[str, int]) -> None:
        """Add the files of a part of the scan, by suffix; the empty suffix stands for none."""
        for suffix, files in found.items():
            name = suffix or NO_SUFFIX
            known = name in self._now or len(self._now) < SUFFIXES_TOLD_APART
            self._now[name if known else OTHER_SUFFIXES] += files

    def end(self) -> Iterator[tuple[str, int]]:
        """End the scan, and yield each suffix that no scan has seen before, with its number of files."""
        self.at_last_scan = in_order(self._now)
        for suffix, files in self.at_last_scan.items():
            if suffix not in self._reported and len(self._reported) < SUFFIXES_REPORTED:
                self._reported.add(suffix)
                yield suffix, files


def in_order(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts, the highest first, equal ones by name; ``OTHER_SUFFIXES`` comes last."""
    return dict(sorted(counts.items(), key=lambda item: (item[0] == OTHER_SUFFIXES, -item[1], item[0])))


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of several counts, in order."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return in_order(total)


def in_words(counts: Mapping[str, int], most: int = 5) -> str:
    """Name at most *most* suffixes with their numbers of files: ``12 .mxf, 3 with no suffix and 2 others``."""
    named = list(in_order(counts).items())
    words = [f"{files} {suffix if suffix.startswith('.') else f'with {suffix}'}" for suffix, files in named[:most]]
    rest = sum(files for _, files in named[most:])
    return ", ".join(words) + (f" and {rest} others" if rest else "")


def what_to_do(suffix: str) -> str:
    """Say what makes the files of this suffix taken, and what makes them silent."""
    pattern = f'"*{suffix}"' if suffix.startswith(".") else "their names"
    return f"to send them, add {pattern} to include; to say nothing of them, add it to exclude"

"""Remembers what went wrong with an upload's requests, and how often, until the file is sent. Pure.

A lost answer leads to a doubt, the doubt to a new record, and the last error then speaks of the doubt only. What an
operator needs is the first cause: "answered 504, 6 times".
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from uploader.domain import errors

FILES_REMEMBERED: Final = 1000  # files; the one whose first failure was longest ago is forgotten first
_HINTS: Final = (
    (re.compile(r"answered 504\b"), "raise the proxy's read time-out (nginx: proxy_read_timeout), or lower chunk_size"),
    (re.compile(r"answered 502\b"), "the proxy lost the server behind it: look into the log of the proxy"),
    (re.compile(r"no progress for"), "the line or the server stands still; a firewall or a wrong MTU does the same"),
)


class Causes:
    """The failures of requests, by file."""

    def __init__(self) -> None:
        self._seen: dict[str, Counter[str]] = {}

    def note(self, path: str, error: errors.UploaderError) -> None:
        """Note a request of this file that failed, if *error* is one: what follows from it is not the cause."""
        if isinstance(error, errors.AnswerLost | errors.ChunkCut | errors.CallFailed):
            self._seen.setdefault(path, Counter())[error.what] += 1
            if len(self._seen) > FILES_REMEMBERED:
                del self._seen[next(iter(self._seen))]

    def of(self, path: str) -> str:
        """Return what has failed most often, how often, and what helps; empty when nothing is known."""
        if path not in self._seen:
            return ""
        ((what, times),) = self._seen[path].most_common(1)
        hint = next((f": {text}" for pattern, text in _HINTS if pattern.search(what)), "")
        return f"{what}, {times} times{hint}" if times > 1 else f"{what}{hint}"

    def forget(self, path: str) -> None:
        """Forget a file: it was sent, or its upload has ended."""
        self._seen.pop(path, None)

"""A descriptor that threads may be busy with: nobody closes it under them.

A call that hangs cannot be called back, and a number that was closed is given out again: a thread that comes back to
it would read another file, or write into another connection. So it is closed when the last who holds it lets go.
Must never be used by its number outside of ``held``.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


class SharedFd:
    """Owns a descriptor. ``close`` may come at any time, from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._holders = 1  # whoever made it, until ``close``
        self._closed = False

    @classmethod
    def copy_of(cls, fd: int) -> SharedFd:
        """A second descriptor of what *fd* has open, which outlives it."""
        return cls(os.dup(fd))

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Hold the descriptor open. Raises ``BrokenPipeError`` when it was closed before."""
        with self._lock:
            if self._closed:
                raise BrokenPipeError("closed")
            self._holders += 1
        try:
            yield self._fd
        finally:
            self._let_go()

    def close(self) -> None:
        """Give it up: nobody holds it from now on, and the last who does closes it. Once is enough."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            self._holders -= 1
            last = not self._holders
        if last:
            os.close(self._fd)

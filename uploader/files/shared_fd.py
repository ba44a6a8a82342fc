"""A file descriptor that several threads use; it is closed only when none of them uses it any more.

A call that hangs cannot be stopped, and the kernel gives the number of a closed descriptor out again. A thread that
returned to such a number would read another file, or write into another connection. So the descriptor is closed by the
last holder. Use its number only inside ``held``.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Iterator

WaitWritable = Callable[[], Awaitable[None]]  # returns when a socket takes more bytes


class SharedFd:
    """Owns a descriptor. ``close`` may come at any time, from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._holders = 1  # the owner, until ``close``
        self._closed = False

    @classmethod
    def copy_of(cls, fd: int) -> SharedFd:
        """Duplicate *fd*; the copy stays open when *fd* is closed."""
        return cls(os.dup(fd))

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Hold the descriptor open, and yield its number. Raises ``BrokenPipeError`` after ``close``."""
        with self._lock:
            if self._closed:
                raise BrokenPipeError("closed")
            self._holders += 1
        try:
            yield self._fd
        finally:
            self._let_go()

    def close(self) -> None:
        """Refuse new holders; the descriptor is closed when the last one has ended. May be called again."""
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

"""Reads, hashes and sends parts of a file: blocking calls that run on a share's threads.

``os.sendfile`` gives pages of the page cache to the socket; nothing is copied into this process. The hash reads the
same pages, at the same time on another thread, so the disk is read once. ``recording.py`` says what each proves.

A call waits for the peer at most ``SOCKET_WAITS`` × ``SOCKET_WAIT`` ms, since a share has few threads.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from typing import Final, Protocol

from uploader.files.shared_fd import SharedFd

HASH_READ_SIZE: Final = 256 * 1024  # bytes read and hashed at a time: stays in the processor's cache
# times that one call waits for space in the socket's buffer: returning to the event loop costs more than these waits
SOCKET_WAITS: Final = 8
SOCKET_WAIT: Final = 5  # ms, each: a peer on a fast network has taken some bytes by then

_NOT_MADE_FOR_IT: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW})
_OF_THE_CONNECTION: Final = frozenset(
    {
        *(errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT),
        *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENOBUFS),
    }
)


class Hash(Protocol):
    """The part of a ``hashlib`` hash that is used here."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add *data*."""

    def hexdigest(self) -> str:
        """Return the digest of all that was added, in hexadecimal."""

    def copy(self) -> Hash:
        """Return an independent hash of the same bytes."""


class CutShort(Exception):  # noqa: N818 - it names what happened
    """The file ended before the position that it was to be read up to."""


class CannotPass(Exception):  # noqa: N818 - as above
    """File or socket do not support ``sendfile``; nothing was sent."""


_per_thread = threading.local()


def _buffer() -> memoryview:
    """Return a buffer of the calling thread: a call that was given up may still be writing into its own."""
    if not hasattr(_per_thread, "buffer"):
        _per_thread.buffer = memoryview(bytearray(HASH_READ_SIZE))
    buffer: memoryview = _per_thread.buffer
    return buffer


def pass_on(file: SharedFd, socket: SharedFd, start: int, count: int) -> int:
    """Send up to *count* bytes from *start* on; return how many the socket took, 0 when its buffer is full.

    *socket* is non-blocking. Raises ``CutShort`` when the file has no bytes there, ``CannotPass``, ``OSError``.
    """
    sent = waits = 0
    with file.held() as source, socket.held() as target:
        poll = select.poll()
        poll.register(target, select.POLLOUT)
        while sent < count:
            try:
                went = os.sendfile(target, source, start + sent, count - sent)
            except OSError as error:
                if not sent and error.errno in _NOT_MADE_FOR_IT:
                    raise CannotPass from None
                if error.errno != errno.EAGAIN:
                    raise
                waits += 1
                if waits > SOCKET_WAITS or not poll.poll(SOCKET_WAIT):
                    break
                continue
            if not went:
                raise CutShort
            sent += went
    return sent


def hash_up(file: SharedFd, digest: Hash, start: int, count: int) -> None:
    """Hash *count* bytes from *start* on. Raises ``CutShort``, ``OSError``."""
    view = _buffer()
    with file.held() as source:
        while count:
            got = os.preadv(source, [view[: min(count, len(view))]], start)
            if not got:
                raise CutShort
            digest.update(view[:got])
            start, count = start + got, count - got


def read_block(file: SharedFd, digest: Hash, start: int, block: bytearray) -> int:
    """Read from *start* on into *block*, and hash it; return how many bytes. Raises ``CutShort``, ``OSError``."""
    view = memoryview(block)
    with file.held() as source:
        got = os.preadv(source, [view], start)
    if not got:
        raise CutShort
    digest.update(view[:got])
    return got


def is_of_the_connection(error: OSError) -> bool:
    """True when ``sendfile`` failed because of the socket, not the file. Local files do not raise these errors."""
    return error.errno in _OF_THE_CONNECTION or isinstance(error, ConnectionError)

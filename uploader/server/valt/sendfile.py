"""The socket beneath an aiohttp connection, for bytes that go to it straight from a file.

aiohttp has no way to send a file with a request, so its transport is stepped around: only while nothing of its own
waits to be written, only on a plain connection, and by a descriptor of our own, so that a thread which is late writes
into nobody else's connection. Must never be used beside ``writer.write``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any, Final, Self

from aiohttp import ClientConnectionResetError
from aiohttp.abc import AbstractStreamWriter

from uploader.files.shared_fd import SharedFd

UNSENT_LIMIT: Final = 128 * 1024  # bytes that the kernel keeps beyond what is on its way; by itself it takes megabytes


def connection(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket whose kernel takes hardly more than the wire does, for ``TCPConnector(socket_factory=…)``.

    Else the last byte of a chunk is handed over long before it leaves: on an uplink of 10 Mbit/s four megabytes are
    three seconds, in which a broken line leaves a chunk in doubt that nobody has seen, and nothing seems to move.
    """
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    with contextlib.suppress(OSError):  # a kernel that does not know it sends all the same
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LIMIT)
    return made


class SocketWriter:
    """The way to the peer, past the event loop. A context manager; left by an error, it cuts the connection."""

    def __init__(self, transport: asyncio.Transport, handle: SharedFd) -> None:
        self._transport = transport
        self.handle = handle

    @classmethod
    async def of(cls, writer: AbstractStreamWriter) -> SocketWriter | None:
        """Return the outlet of a request's connection; None where there is none: TLS, or a writer of a test."""
        transport: asyncio.Transport | None = getattr(writer, "transport", None)
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return None
        peer = transport.get_extra_info("socket")
        if peer is None or transport.is_closing():
            return None
        transport.set_write_buffer_limits(0)  # so that drain returns when everything has gone
        try:
            await writer.drain()
        finally:
            transport.set_write_buffer_limits()
        if transport.is_closing() or transport.get_write_buffer_size():
            return None
        return cls(transport, SharedFd.copy_of(peer.fileno()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._cut()
        self.handle.close()

    def check(self) -> None:
        """Raise ``ClientConnectionResetError`` when aiohttp has given the connection up."""
        if self._transport.is_closing():
            raise ClientConnectionResetError("Cannot write to closing transport")

    async def writable(self) -> None:
        """Return when the socket can take more, or has failed."""
        self.check()
        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        with self.handle.held() as fd:
            loop.add_writer(fd, wake)
            try:
                await ready
            finally:
                loop.remove_writer(fd)
        self.check()

    def _cut(self) -> None:
        """End the connection under a thread that may still be writing into it."""
        with self.handle.held() as fd, socket.socket(fileno=os.dup(fd)) as peer, contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)

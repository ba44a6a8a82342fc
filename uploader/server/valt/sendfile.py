"""The socket beneath an aiohttp connection, for bytes that are sent straight from a file.

aiohttp cannot use sendfile for a part of a request, so this bypasses its transport: only while the transport has
nothing left to write, only on a plain connection, and on a duplicate of the descriptor, so that a late thread cannot
write into another connection. It is not used at the same time as ``writer.write``: their bytes would be mixed up.
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

UNSENT_LIMIT: Final = 128 * 1024  # bytes not yet sent that the kernel accepts; its default is megabytes


def connection(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket with a small send buffer (``UNSENT_LIMIT``), for ``TCPConnector(socket_factory=…)``.

    With a large one the kernel takes the last byte of a chunk long before it is sent: on an uplink of 10 Mbit/s four
    megabytes take three seconds. A connection that breaks then leaves a chunk in doubt that the server has not seen,
    and progress seems to stop.
    """
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    with contextlib.suppress(OSError):  # a kernel without this option works, too
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LIMIT)
    return made


class SocketWriter:
    """The socket of a connection, for threads. A context manager: an exception that leaves it cuts the connection."""

    def __init__(self, transport: asyncio.Transport, handle: SharedFd) -> None:
        self._transport = transport
        self.handle = handle

    @classmethod
    async def of(cls, writer: AbstractStreamWriter) -> SocketWriter | None:
        """Return the writer for a request's connection; None if it cannot be used: TLS, a closing one, a test's."""
        transport: asyncio.Transport | None = getattr(writer, "transport", None)
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return None
        peer = transport.get_extra_info("socket")
        if peer is None or transport.is_closing():
            return None
        transport.set_write_buffer_limits(0)  # so that drain returns when everything is written
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
        """Raise ``ClientConnectionResetError`` when aiohttp has closed the connection."""
        if self._transport.is_closing():
            raise ClientConnectionResetError("Cannot write to closing transport")

    async def writable(self) -> None:
        """Return when the socket accepts more bytes, or has failed. Raises as ``check`` does."""
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
        """Shut the connection down, so that a thread that still writes to it stops."""
        with self.handle.held() as fd, socket.socket(fileno=os.dup(fd)) as peer, contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)

"""An HTTP proxy on the loopback: CONNECT for https, requests with a whole URL for http, with or without a log-in."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PIECE = 64 * 1024


@dataclass
class ConnectProxy:
    """What it does, and what it has seen. *user* and *password*: the log-in it wants; none when *user* is empty.

    *refuses*: the status with which it answers every request, 0 for none; *breaks*: it closes without an answer.
    """

    user: str = ""
    password: str = ""
    refuses: int = 0
    breaks: bool = False
    silent: bool = False
    page: bytes = b"<html><title>squid: Access Denied</title></html>"
    url: str = ""
    lines: list[str] = field(default_factory=list)  # the first lines of the requests, without what follows a "?"
    heads: list[str] = field(default_factory=list)  # their headers
    clear: bytearray = field(default_factory=bytearray)  # what has passed through tunnels, as it was sent
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._pass_on(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, _, rest = head.decode("latin-1").partition("\r\n")
        method, target, version = first.split(" ")
        self.lines.append(f"{method} {target.partition('?')[0]}")
        self.heads.append(rest)
        if self.silent:
            await asyncio.Event().wait()
        if self.breaks:
            return
        status = self._refusal(rest)
        if status:
            extra = "Proxy-Authenticate: Basic realm=x\r\n" if status == 407 else ""
            answer = f"HTTP/1.1 {status} No\r\nContent-Length: {len(self.page)}\r\n{extra}Connection: close\r\n\r\n"
            writer.write(answer.encode() + self.page)
            await writer.drain()
            return
        parts = urlsplit(target if method != "CONNECT" else f"//{target}")
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            kept = "\r\n".join(line for line in rest.split("\r\n") if not line.lower().startswith("proxy-"))
            far_writer.write(f"{method} {path} {version}\r\nConnection: close\r\n{kept}".encode("latin-1"))
        both = [
            asyncio.create_task(self._copy(reader, far_writer)),
            asyncio.create_task(self._copy(far_reader, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            far_writer.close()

    def _refusal(self, head: str) -> int:
        if self.refuses:
            return self.refuses
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        given = [line for line in head.split("\r\n") if line.lower() == f"proxy-authorization: basic {wanted}".lower()]
        return 407 if self.user and f"Basic {wanted}" not in "".join(given) else 0

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            self.clear += piece
            writer.write(piece)
            await writer.drain()


@asynccontextmanager
async def connect_proxy(proxy: ConnectProxy | None = None) -> AsyncIterator[ConnectProxy]:
    """Serve as a proxy."""
    here = proxy or ConnectProxy()
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0)
    here.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield here
    finally:
        server.close()
        for task in tuple(here.tasks):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*here.tasks, return_exceptions=True)

"""Runs a real nginx before a server, in a process of its own with its own configuration, folder and port.

Nothing of the system's nginx is used but the program: ``Nginx`` writes the whole configuration. A test adds what is
special about its set-up (``Front``), and may change the behaviour while nginx runs with a ``switch``: a file whose
presence the configuration asks for at each request.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trustme
from machine import needs
from process import PROCESS_TIMEOUT, until

HOST: Final = "127.0.0.1"

CONFIGURATION: Final = """
daemon off;
@user@
worker_processes @workers@;
worker_shutdown_timeout 5s;
pid @folder@/pid;
error_log @folder@/error.log;
events { worker_connections 512; }
http {
    log_format calls '$msec $connection $request_method $uri $status $upstream_status';
    access_log @folder@/access.log calls;
    client_body_temp_path @folder@/temporary-body;
    proxy_temp_path @folder@/temporary-proxy;
    fastcgi_temp_path @folder@/temporary-fastcgi;
    uwsgi_temp_path @folder@/temporary-uwsgi;
    scgi_temp_path @folder@/temporary-scgi;
    default_type application/octet-stream;
    types { text/html html; video/mp4 mp4; }
    ssl_certificate @folder@/certificate.pem;
    ssl_certificate_key @folder@/certificate.pem;
    @http@
    server {
        listen 127.0.0.1:@port@ reuseport @listen@;
        @server@
        location / {
            @location@
            @pass@
        }
    }
}
"""
PASS_ON: Final = "proxy_pass @upstream@; proxy_set_header Host $http_host;"


@dataclass(frozen=True)
class Front:
    """What is special about an nginx: directives for places of its configuration.

    In each of them ``@folder@``, ``@upstream@`` and ``@second-port@`` (a free port beside nginx's own) are replaced.
    """

    http: str = ""  # in ``http``: zones, further servers
    server: str = ""  # in the server that is called
    location: str = ""  # where calls are passed on
    pass_on: str = PASS_ON  # how
    listen: str = "ssl"  # parameters of its port; without ``ssl`` it speaks plain HTTP
    workers: int = 1

    @property
    def scheme(self) -> str:
        """How it is called."""
        return "https" if "ssl" in self.listen.split() else "http"


@dataclass(frozen=True)
class Line:
    """One line of nginx's access log: a request that has ended."""

    at: float  # Unix seconds of its end
    connection: int  # its number
    method: str
    path: str  # without the query, which holds the token
    status: int
    upstream: str  # the status of the server behind it; "-" when it was not asked

    @property
    def passed(self) -> bool:
        """True when the request was passed on."""
        return self.upstream != "-"


class Nginx:
    """A running nginx. ``running`` starts and ends it."""

    def __init__(self, folder: Path, front: Front, upstream: str, certificate: trustme.LeafCert) -> None:
        folder.mkdir()
        self.folder, self.front, self.upstream = folder, front, upstream
        self._held = [_reserved() for _ in range(2)]
        self.port, self.second_port = (int(held.getsockname()[1]) for held in self._held)
        self.url = f"{front.scheme}://{HOST}:{self.port}"
        self.master: asyncio.subprocess.Process | None = None
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "certificate.pem"))

    def _text(self) -> str:
        front = self.front
        text = CONFIGURATION
        for name, value in {
            "user": "user root;" if os.geteuid() == 0 else "",  # else its workers could not reach the test's folder
            "workers": str(front.workers),
            "http": front.http,
            "server": front.server,
            "location": front.location,
            "pass": front.pass_on,
            "listen": front.listen,
            "port": str(self.port),
            "second-port": str(self.second_port),
            "upstream": self.upstream,
            "folder": str(self.folder),
        }.items():
            text = text.replace(f"@{name}@", value)
        return text

    def configure(self, front: Front | None = None) -> None:
        """Write the configuration; *front* replaces the one before."""
        self.front = self.front if front is None else front
        (self.folder / "nginx.conf").write_text(self._text())

    async def start(self) -> None:
        """Start it, and return when it listens."""
        self.configure()
        program = needs("nginx", "nginx-light")
        log = str(self.folder / "error.log")
        self.master = await asyncio.create_subprocess_exec(
            *(program, "-e", log, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            process_group=0,
        )
        await until(lambda: self._ended() or bool(self.workers()), "nginx listens")
        assert not self._ended(), (self.folder / "error.log").read_text()

    def _ended(self) -> bool:
        return self.master is None or self.master.returncode is not None

    def workers(self) -> set[int]:
        """Return the process ids of its workers. They are there once it listens."""
        assert self.master is not None
        with suppress(OSError):
            children = Path(f"/proc/{self.master.pid}/task/{self.master.pid}/children").read_text()
            return {int(pid) for pid in children.split()} if (self.folder / "pid").exists() else set()
        return set()

    async def reload(self) -> None:
        """Read the configuration again, as ``nginx -s reload`` does; return when its new workers are there."""
        before = self.workers()
        assert self.master is not None
        self.master.send_signal(signal.SIGHUP)
        await until(lambda: bool(self.workers() - before), "nginx has new workers")

    async def kill_workers(self) -> None:
        """Kill its workers; return when their successors are there."""
        before = self.workers()
        for pid in before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await until(lambda: bool(self.workers()) and not self.workers() & before, "nginx has new workers")

    async def stop(self) -> None:
        """End it at once, with all its workers."""
        if self.master is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.master.pid, signal.SIGKILL)  # no other process is in its group
            async with asyncio.timeout(PROCESS_TIMEOUT):
                await self.master.wait()
            (self.folder / "pid").unlink(missing_ok=True)

    def close(self) -> None:
        """Let its ports go."""
        for held in self._held:
            held.close()

    def switch(self, name: str, *, on: bool = True) -> None:
        """Make or remove the file *name*, for which the configuration may ask: ``if (-f @folder@/name) {…}``."""
        file = self.folder / name
        file.touch() if on else file.unlink(missing_ok=True)

    def requests(self, path: str = "") -> list[Line]:
        """Return the requests that have ended, those whose path contains *path*, in the order of their ends."""
        log = self.folder / "access.log"
        rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        lines = [Line(float(row[0]), int(row[1]), row[2], row[3], int(row[4]), row[5]) for row in rows]
        return [line for line in lines if path in line.path]


def _reserved() -> socket.socket:
    """Take a free port. It stays free for a program that listens with ``reuseport``, and closed until one does."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((HOST, 0))
    return held


@asynccontextmanager
async def running(
    folder: Path, front: Front, upstream: str, authority: trustme.CA, **certificate: Any
) -> AsyncIterator[Nginx]:
    """Run nginx before *upstream*; in the end, end every process of it.

    *certificate*: of what ``issue_cert`` of trustme takes, and ``names``; it is for 127.0.0.1 by default.
    """
    names = certificate.pop("names", (HOST,))
    nginx = Nginx(folder, front, upstream, authority.issue_cert(*names, **certificate))
    try:
        await nginx.start()
        yield nginx
    finally:
        await nginx.stop()
        nginx.close()

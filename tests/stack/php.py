"""Runs a real PHP behind nginx: php-cgi as a FastCGI server, with ``receiver.php`` as its application.

It takes no configuration of the system. Each setting that matters is given on its command line.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from machine import needs
from nginx import Front
from process import PROCESS_TIMEOUT, until

RECEIVER: Final = Path(__file__).parent / "receiver.php"
WORKERS: Final = 3

SETTINGS: Final = {
    "cgi.force_redirect": "0",
    "date.timezone": "UTC",
    "display_errors": "0",
    "log_errors": "0",
}
VARIABLES: Final = {
    "SCRIPT_FILENAME": str(RECEIVER),
    "REQUEST_METHOD": "$request_method",
    "REQUEST_URI": "$request_uri",
    "REQUEST_SCHEME": "$scheme",
    "QUERY_STRING": "$query_string",
    "CONTENT_TYPE": "$content_type",
    "CONTENT_LENGTH": "$content_length",
    "SERVER_PROTOCOL": "$server_protocol",
    "HTTP_HOST": "$http_host",
    "REDIRECT_STATUS": "200",
}


@dataclass
class Php:
    """A FastCGI server of several processes. ``settings`` are those of php.ini that differ from ``SETTINGS``."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    master: asyncio.subprocess.Process | None = None

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "socket"

    @property
    def records(self) -> Path:
        """Where its application keeps what it gets."""
        return self.folder / "records"

    def front(self, words: str = "transferred", location: str = "") -> Front:
        """Return an nginx that passes calls on to it, and serves the videos itself. *words*: see ``receiver.php``."""
        variables = {**VARIABLES, "STACK_FOLDER": str(self.records), "STACK_WORDS": words}
        lines = " ".join(f"fastcgi_param {name} {value};" for name, value in variables.items())
        videos = f"location /distribution/ {{ alias {self.records}/; }}"
        return Front(server=videos, location=location, pass_on=f"fastcgi_pass unix:{self.socket}; {lines}")

    async def start(self) -> None:
        """Start it, and return when it listens."""
        self.socket.unlink(missing_ok=True)
        self.records.mkdir(parents=True, exist_ok=True)
        settings = {**SETTINGS, "upload_tmp_dir": str(self.folder), **self.settings}
        options = [part for name, value in settings.items() for part in ("-d", f"{name}={value}")]
        self.master = await asyncio.create_subprocess_exec(
            *(needs("php-cgi", "php-cgi"), "-n", *options, "-b", str(self.socket)),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            process_group=0,
            env={"PHP_FCGI_CHILDREN": str(WORKERS), "PHP_FCGI_MAX_REQUESTS": "0", "PATH": os.environ["PATH"]},
        )
        await until(lambda: self.socket.exists() and len(self.workers()) == WORKERS, "PHP listens")

    def workers(self) -> set[int]:
        """Return the process ids of its workers."""
        assert self.master is not None
        with suppress(OSError):
            return {
                int(pid) for pid in Path(f"/proc/{self.master.pid}/task/{self.master.pid}/children").read_text().split()
            }
        return set()

    def kill_workers(self) -> None:
        """Kill its workers; it starts new ones."""
        for pid in self.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def kill(self) -> None:
        """Kill all of it."""
        if self.master is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.master.pid, signal.SIGKILL)  # no other process is in its group
            async with asyncio.timeout(PROCESS_TIMEOUT):
                await self.master.wait()

    def switch(self, name: str, *, on: bool = True) -> None:
        """Make or remove the file *name* that the application looks for: ``hold`` or ``notice``."""
        file = self.records / name
        file.touch() if on else file.unlink(missing_ok=True)

    def held(self) -> dict[str, str]:
        """Return the sha256 of what is held of each record, by its name. There must not be two of a name."""
        found: dict[str, str] = {}
        for file in self.records.glob("*.json"):
            name = json.loads(file.read_text())["name"]
            assert name not in found, f"two records of {name}"
            video = file.with_suffix(".mp4")
            found[name] = hashlib.sha256(video.read_bytes() if video.exists() else b"").hexdigest()
        return found


@asynccontextmanager
async def php_at(folder: Path, **settings: str) -> AsyncIterator[Php]:
    """Run PHP with these settings of php.ini; in the end, end every process of it."""
    php = Php(folder, settings)
    try:
        await php.start()
        yield php
    finally:
        await php.kill()

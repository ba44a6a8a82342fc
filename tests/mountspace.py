"""A mount table of the daemon's own: what is mounted and taken away there, the machine never sees.

The daemon is started in a mount namespace of its own (in a user namespace too, when the tests do not run as root), and
what is mounted is mounted in there, by ``nsenter``. All of it is gone with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from machine import missing
from process import COMMAND, PROCESS_TIMEOUT, Process, Site, until

ROOT = os.geteuid() == 0
UNSHARE = ("unshare", "-m") if ROOT else ("unshare", "-rm")


def need_mounts() -> None:
    """Go on only where a process may have a mount table of its own."""
    if not all(map(shutil.which, ("unshare", "nsenter", "mount", "umount"))):
        missing("unshare", "util-linux")
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody have a mount table of his own")


def need_fuse() -> None:
    """Go on only where a folder can be shown again through FUSE."""
    need_mounts()
    if not ROOT or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("a FUSE mount takes root and /dev/fuse")
    if not shutil.which("bindfs"):
        missing("bindfs", "bindfs")


@dataclass
class Space:
    """The daemon, and its mount table."""

    site: Site
    daemon: Process
    servers: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def _inside(self) -> list[str]:
        more = [] if ROOT else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self.daemon.pid), "-m", *more]

    async def do(self, *command: str | Path) -> None:
        """Run a command in there, which must succeed."""
        run = await asyncio.create_subprocess_exec(*self._inside, *map(str, command), stdout=PIPE, stderr=PIPE)
        out, err = await run.communicate()
        assert run.returncode == 0, (command, out, err)

    async def mount(self, *arguments: str | Path) -> None:
        """Mount something in there."""
        await self.do("mount", *arguments)

    async def umount(self, point: Path) -> None:
        """Take a mount away, at once even if it is in use."""
        await self.do("umount", "-l", point)

    async def show(self, source: Path, point: Path) -> asyncio.subprocess.Process:
        """Show *source* at *point* through FUSE; the process that serves it."""
        server = await asyncio.create_subprocess_exec(
            *self._inside, "bindfs", "-f", str(source), str(point), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
        self.servers.append(server)
        table = Path(f"/proc/{self.daemon.pid}/mountinfo")
        await until(lambda: f" {point} " in table.read_text() or server.returncode is not None, "the FUSE mount")
        assert server.returncode is None
        return server


@contextlib.asynccontextmanager
async def at_work_apart(site: Site, *arguments: str | Path) -> AsyncIterator[Space]:
    """The daemon of *site* at work in a mount namespace of its own."""
    daemon = await site.launch(*(arguments or ("run", "-c", site.config)), program=(*UNSHARE, *COMMAND))
    space = Space(site, daemon)
    try:
        await daemon.event("started")
        yield space
    finally:
        for server in space.servers:
            with contextlib.suppress(ProcessLookupError):
                server.send_signal(signal.SIGCONT)
        daemon.send(signal.SIGKILL)
        await daemon.ended()
        for server in space.servers:
            with contextlib.suppress(ProcessLookupError):
                server.terminate()
            async with asyncio.timeout(PROCESS_TIMEOUT):
                await server.wait()

"""Runs the daemon in a mount namespace of its own, in which tests mount and unmount without changing the machine.

When the tests do not run as root, it is in a user namespace of its own, too. Tests mount with ``nsenter``. The
namespace ends with the daemon.
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
    """Skip the test where a process cannot have a mount namespace of its own."""
    if not all(map(shutil.which, ("unshare", "nsenter", "mount", "umount"))):
        missing("unshare", "util-linux")
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")


def need_fuse() -> None:
    """Skip the test where a folder cannot be mounted through FUSE."""
    need_mounts()
    if not ROOT or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("a FUSE mount needs root and /dev/fuse")
    if not shutil.which("bindfs"):
        missing("bindfs", "bindfs")


@dataclass
class Space:
    """The daemon and its mount namespace."""

    site: Site
    daemon: Process
    servers: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def _inside(self) -> list[str]:
        more = [] if ROOT else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self.daemon.pid), "-m", *more]

    async def do(self, *command: str | Path) -> None:
        """Run a command in the namespace; it must succeed."""
        run = await asyncio.create_subprocess_exec(*self._inside, *map(str, command), stdout=PIPE, stderr=PIPE)
        out, err = await run.communicate()
        assert run.returncode == 0, (command, out, err)

    async def mount(self, *arguments: str | Path) -> None:
        """Mount something in the namespace."""
        await self.do("mount", *arguments)

    async def umount(self, point: Path) -> None:
        """Unmount *point* at once, even if it is in use."""
        await self.do("umount", "-l", point)

    async def show(self, source: Path, point: Path) -> asyncio.subprocess.Process:
        """Mount *source* at *point* through FUSE. Returns the process that serves it."""
        server = await asyncio.create_subprocess_exec(
            *self._inside, "bindfs", "-f", str(source), str(point), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
        self.servers.append(server)
        table = Path(f"/proc/{self.daemon.pid}/mountinfo")
        await until(lambda: f" {point} " in table.read_text() or server.returncode is not None, "the FUSE mount")
        assert server.returncode is None
        return server


@contextlib.asynccontextmanager
async def at_work_in_namespace(site: Site, *arguments: str | Path) -> AsyncIterator[Space]:
    """Run the daemon of *site* in a mount namespace of its own."""
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

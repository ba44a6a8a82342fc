"""The product behind a real nginx: a ``Site`` whose server is called through it, and what must be true at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trustme
from nginx import Front, Nginx, running
from process import Ended, Process, Site, at_work, sha256, until
from warm import Warm

from uploader.testing.simulator import CallName, RecordView, Settings

SMALL: Final = 20_000  # bytes: one chunk
LARGE: Final = 200_000  # bytes: three chunks of 64 KiB and a short one
CHUNKS: Final = 4  # in LARGE


@dataclass
class Stack:
    """A site, and the nginx through which its server is called."""

    site: Site
    nginx: Nginx
    ca: Path
    warm: Warm
    sent: dict[str, str] = field(default_factory=dict)  # the sha256 of each recording, by the name of its record

    def configure(self, *, url: str = "", **tables: str) -> None:
        """Write the configuration; *url*: another address than nginx's. Recordings are deleted once they are proven."""
        server = f'url = "{url or self.nginx.url}"\nca_file = "{self.ca}"'
        self.site.configure(server=server, **({"watch": 'after_upload = "delete"'} | tables))

    async def run(self, command: str, *arguments: str | Path) -> Ended:
        """Run a command of the product to its end."""
        return await self.warm.run(self.site, command, *arguments)

    def record(self, count: int = 1, size: int = SMALL) -> list[Path]:
        """Put recordings into the folder."""
        first = len(self.sent)
        paths = [self.site.record(f"{number}.mp4", size) for number in range(first, first + count)]
        self.sent |= {path.stem: sha256(path) for path in paths}
        return paths

    def kept(self) -> set[str]:
        """Return the names of the recordings that are still in the folder."""
        return {path.stem for path in self.site.recordings.iterdir()}

    def arrived(self) -> None:
        """Every recording is one finished record with equal bytes, nothing else is on the server, and none is left."""
        self.holds(self.site.simulator.records())
        self.done()

    def holds(self, records: list[RecordView]) -> None:
        """Every recording is one of these records, finished, with equal bytes; there are no others.

        Except for empty records that were given up: the daemon was stopped before it has deleted them.
        """
        orphans = {orphan["record"] for orphan in self.site.stored()["orphans"]}
        assert [record.sha256 for record in records if record.id in orphans and record.sha256 is not None] == []
        held = sorted((record.name, record.sha256, record.status) for record in records if record.id not in orphans)
        assert held == sorted((name, digest, "ready") for name, digest in self.sent.items())

    def done(self) -> None:
        """Every recording has its line in the ledger and is deleted, and no upload is unfinished."""
        assert len(self.site.ledger()) == len(self.sent)
        assert self.site.stored()["uploads"] == []
        assert self.kept() == set()

    def proofs(self) -> set[str]:
        """Return by what the recordings were proven."""
        return {line["upload"]["proof"] for line in self.site.ledger()}

    def calls(self, name: CallName) -> int:
        """Return how often the server behind nginx has answered this call."""
        return sum(call.name == name for call in self.site.simulator.calls)

    async def chunks(self, count: int) -> None:
        """Wait until the server has answered so many chunks."""
        await until(lambda: self.calls("upload") >= count, f"{count} chunks")

    async def passed(self, count: int) -> None:
        """Wait until so many chunks have been answered through nginx, by whatever server is behind it."""
        await until(lambda: len(self.nginx.requests("/videos/")) >= count, f"{count} chunks")

    async def finished(self, daemon: Process, *, cleared: bool = False) -> Ended:
        """Wait until every recording is finished, and stop the daemon. *cleared*: and no orphan is left to delete."""
        for name in self.sent:
            await daemon.event("upload-finished", path=str(self.site.recordings / f"{name}.mp4"))
        if cleared:
            await until(lambda: not self.site.orphans(), "the orphans are deleted")
        ended = await daemon.stop()
        assert ended.code == 0
        return ended


@asynccontextmanager
async def stacked(
    folder: Path,
    warm: Warm,
    front: Front | None = None,
    settings: Settings | None = None,
    *,
    probed: bool = True,
    certificate: dict[str, Any] | None = None,
    **tables: str,
) -> AsyncIterator[Stack]:
    """Put nginx between a site and its server. *tables* as in ``Stack.configure``, *certificate* as in ``running``."""
    authority = trustme.CA()
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with (
        at_work(folder, settings, probed=probed) as site,
        running(folder / "nginx", front or Front(), site.url, authority, **(certificate or {})) as nginx,
    ):
        site.simulator.change(public_url=nginx.url)
        stack = Stack(site, nginx, ca, warm)
        stack.configure(**tables)
        yield stack


def events_of(ended: Ended, *names: str) -> list[dict[str, Any]]:
    """Return the log events of these *names* in what a process has written."""
    lines = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] in names]


def outages(ended: Ended) -> list[str]:
    """Return the beginnings and the ends of outages that a process has reported, in order."""
    return [line["event"] for line in events_of(ended, "outage-began", "outage-ended")]

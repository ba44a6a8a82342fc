"""The daemon's memory with a huge file and a long history, and an unread log."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from fakes import a_finish
from process import MIB, Site, at_work, probed_state, sha256, until

from uploader.store.ledger import Ledger

GIB = 1024 * MIB
KNOWN = 5000  # files that were sent before
ENOUGH = 130 * MIB  # of the 100 GiB: more chunks than fit into the limit
LIMIT = 100_000_000  # bytes of memory, at the most, at any time


class Lines:
    """The lines of a ledger, gathered without a disk."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def size(self, name: str) -> int | None:
        """Hold nothing yet."""
        del name
        return None

    def append(self, name: str, content: bytes) -> None:
        """Gather one."""
        del name
        self.lines.append(content)


def with_a_history(site: Site, folder: Path, count: int) -> None:
    """Let *count* small files in *folder* be known as sent."""
    (folder / "sent").mkdir(parents=True)
    lines = Lines()
    ledger = Ledger(lines)  # type: ignore[arg-type]  # all of a disk that it needs
    for number in range(count):
        path = folder / "sent" / f"recording {number:05}.mp4"
        path.write_bytes(b"seen")
        mtime = path.stat().st_mtime_ns
        ledger.append(a_finish(str(path), f"record-{number}", size=4, mtime_ns=mtime))
    site.state.mkdir(mode=0o700)
    (site.state / "ledger.jsonl").write_bytes(b"".join(lines.lines))
    (site.state / "state.json").write_bytes(probed_state())


def peak_memory(process: int) -> int:
    """The most that a process has held so far, in bytes, by the kernel's own count."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


async def test_a_file_of_100_gib_and_a_long_history_take_little_memory(tmp_path: Path) -> None:
    """Below 100 MB at the peak: neither a file nor the history is held in memory."""
    async with at_work(tmp_path, probed=False, upload='chunk_size = "16 MiB"', watch='rescan = "1s"') as site:
        with_a_history(site, site.recordings, KNOWN)
        with (site.recordings / "largest.ts").open("wb") as file:  # of a kind whose end says nothing
            file.write(os.urandom(MIB))  # a beginning that somebody has written
            file.truncate(100 * GIB)
        daemon = await site.start("run")

        def sent() -> int:
            return sum(call.received for call in site.simulator.calls if call.name == "upload")

        await until(lambda: sent() >= ENOUGH, "enough of it is sent")
        peak = peak_memory(daemon.pid)
        assert len(site.simulator.records()) == 1
        assert daemon.events("upload-parked") == []
        daemon.process.kill()
        assert peak < LIMIT, f"{peak / MIB:.0f} MiB"


async def test_an_unread_log_delays_no_upload(tmp_path: Path) -> None:
    """The pipe is full after a few lines: later ones are dropped, and every recording arrives."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        async with at_work(tmp_path) as site:
            files = [site.record(f"{number}.mp4", 100_000) for number in range(12)]
            daemon = await site.start("run", stderr=writer, environ={"VALT_UPLOADER_LOG__LEVEL": "debug"})
            await until(lambda: len(site.ledger()) == len(files), "every file is sent")
            assert len(os.read(reader, 65_536).splitlines()) < len(files)  # one page, which the first lines have taken
            assert sorted(record.sha256 or "" for record in site.simulator.records()) == sorted(map(sha256, files))
            assert (await daemon.stop()).code == 0
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_full_disk_under_the_log_delays_no_upload(tmp_path: Path) -> None:
    """Every line is refused with ENOSPC; nothing else is, and the exit code is that of an orderly end."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - it is no file
            daemon = await site.start("run", stderr=full)
            await until(lambda: len(site.ledger()) == 1, "the file is sent")
            assert (await daemon.stop()).code == 0
        assert [record.sha256 for record in site.simulator.records()] == [sha256(file)]

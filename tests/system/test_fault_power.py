"""The power fails: what a disk holds at the very moment at which the server hears of an act, and nothing later.

The state lies on an ext4 of its own, in a file; a copy of that file, taken while it is mounted, is what a disk holds
after a power cut. The journal is replayed as at the next boot, and then the state is read. Root and a loop device only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_stats import FaultStats
from machine import needs, works
from process import COMMAND, PROCESS_TIMEOUT, Site, at_work, leave_probed, sha256

from uploader.domain.model import State
from uploader.store.codec import StateSnapshot, decode_state
from uploader.store.ledger import chain
from uploader.testing.simulator import Fault
from uploader.testing.simulator.server import SeenCall

SIZE = "8M"  # of the disk


def program(name: str) -> str:
    """Where a program of e2fsprogs is."""
    return needs(name, "e2fsprogs")


def run(*command: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run a program."""
    return subprocess.run(command, capture_output=True, timeout=PROCESS_TIMEOUT)


@dataclass
class Disk:
    """A disk in a file, and what it held at moments worth remembering."""

    image: Path
    moments: list[tuple[SeenCall, Path]]
    stats: FaultStats

    @property
    def room(self) -> tuple[str, ...]:
        """How to start a program that alone sees it mounted, where the state folder is."""
        return "unshare", "-m", "sh", "-c", f'mount -o loop "{self.image}" "$0" && chmod 0700 "$0" && exec "$@"'

    def remember(self, call: SeenCall) -> None:
        """Keep what it holds while the server has done *call* and has not answered."""
        self.moments.append((call, self.snapshot(f"{len(self.moments)}.img")))

    def snapshot(self, name: str) -> Path:
        """Copy what it holds now."""
        return Path(shutil.copyfile(self.image, self.image.with_name(name)))


@pytest.fixture
def disk(tmp_path: Path, stats: FaultStats) -> Disk:
    """An empty disk; skipped where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    for name in ("mkfs.ext4", "e2fsck", "debugfs"):
        program(name)
    folder = tmp_path / "disk"
    (folder / "tried").mkdir(parents=True)
    disk = Disk(folder / "state.img", [], stats)
    holds = tmp_path / "holds"
    leave_probed(holds, "6.7.2")
    made = run(program("mkfs.ext4"), "-q", "-F", "-m", "0", "-d", holds, disk.image, SIZE)
    assert made.returncode == 0, made.stderr
    if not works(needs("unshare", "util-linux"), *disk.room[1:], str(folder / "tried"), "true"):
        pytest.skip("this machine lets nobody mount a file: it has no loop device")
    return disk


def after_power_cut(image: Path, stats: FaultStats) -> tuple[StateSnapshot, list[str]]:
    """Boot: what the state says, and the paths that the ledger says are done."""
    stats["power cuts"] += 1
    mended = run(program("e2fsck"), "-fy", image)
    assert mended.returncode in {0, 1}, mended.stdout
    state, ledger = (
        run(program("debugfs"), "-R", f"cat {name}", image).stdout for name in ("state.json", "ledger.jsonl")
    )
    return decode_state(state), [facts.path for facts, _, _ in chain(ledger.splitlines())]


def expected(call: SeenCall, saved: StateSnapshot) -> str:
    """Say what is missing in the state after a power cut at the moment of *call*; empty when it is all there."""
    upload = saved.uploads[0] if saved.uploads else None
    match call.name:
        case "create":
            good = upload is not None and upload.state is State.CREATING
        case "upload":
            end = int((call.content_range or "").partition("-")[2].partition("/")[0]) + 1
            good = upload is not None and (upload.state, upload.doubt_end) == (State.IN_DOUBT, end)
            good = good and upload is not None and upload.ids is not None and upload.ids.record == call.record
        case "delete":
            good = call.record in {orphan.record for orphan in saved.orphans}
        case _:
            good = True
    return "" if good else f"{call} and the state says {saved}"


async def through_it_all(site: Site, disk: Disk) -> None:
    """Send a file, with a doubt in its middle that costs a record, and keep what the disk holds at every call."""
    site.state.mkdir()
    file = site.record("a.mp4")
    site.simulator.faults.append(Fault(call="upload", kind="lose-answer", skip=1))
    site.simulator.on_call = disk.remember
    daemon = await site.start("run", program=(*disk.room, str(site.state), *COMMAND))
    await daemon.event("orphan-cleared")
    await daemon.event("upload-finished", path=str(file))
    end = disk.snapshot("end.img")
    assert after_power_cut(end, disk.stats)[1] == [str(file)]
    disk.stats.count_arrivals(site, [sha256(file)])


async def test_a_power_cut_at_any_call_finds_its_save_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    """Intent, marks and orphan are on the disk, not only in its cache, before the server is called."""
    async with at_work(tmp_path, probed=False) as site:
        await through_it_all(site, disk)
    calls = [call.name for call, _ in disk.moments]
    assert (calls.count("create"), calls.count("upload"), calls.count("delete")) == (2, 6, 1)
    found = [expected(call, after_power_cut(image, disk.stats)[0]) for call, image in disk.moments]
    assert [what for what in found if what] == []

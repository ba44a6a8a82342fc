"""A state folder as a power cut, a disk, a person or a program has left it: one folder of ``fixtures/state`` each.

What cannot be believed ends with exit 78 and a hint, and nothing is written; what can is read on, by every version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_stats import FaultStats
from process import Site, at_work, sha256
from warm import Warm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

FIXTURES = Path(__file__).parents[1] / "fixtures" / "state"
WHOLE_BEFORE = "the save before it, state.json.1, is whole: copy it to state.json and start again"
PUT_BACK = "ledger.jsonl: line {}; put the whole file back from a copy; it is never rewritten"
NOT_BELIEVED = {
    "torn": f"state.json is damaged: it is not JSON: .*; {WHOLE_BEFORE}",
    "empty": f"state.json is damaged: it is empty; {WHOLE_BEFORE}",
    "nul-filled": f"state.json is damaged: it is empty; {WHOLE_BEFORE}",
    "nul-tail": f"state.json is damaged: it is not JSON: .*; {WHOLE_BEFORE}",
    "bit-flipped": f"state.json is damaged: its checksum does not match its content; {WHOLE_BEFORE}",
    "both-torn": "state.json is damaged: .*; state.json.1 is damaged, too; put state.json back from a copy",
    "impossible": rf"state.json is damaged: uploads\[2\].offset: expected a whole number, .*; {WHOLE_BEFORE}",
    "foreign": "state.json is damaged: it is not a state file of valt-uploader; put state.json back from a copy",
    "foreign-list": "state.json is damaged: it is not a JSON object; put state.json back from a copy",
    "binary": "state.json is damaged: it is not JSON: .*; put state.json back from a copy",
    "newer": "state.json: it was written by a newer valt-uploader .version 2; .*; install that version again, or newer",
    "missing": f"state.json is missing, but state.json.1 is there; {WHOLE_BEFORE}",
    "missing-but-for-the-ledger": "state.json is missing, but ledger.jsonl is there; put state.json back from a copy",
    "ledger-changed": PUT_BACK.format("2: the line before it was changed"),
    "ledger-without-a-line": PUT_BACK.format("2: it says it is line 3; a line was added or taken out"),
    "ledger-nul-filled": PUT_BACK.format("2: it is empty"),
}
READ = {"whole": 3, "left-over": 3, "ledger-torn": 3}  # lines of the ledger


def contents(folder: Path) -> dict[str, bytes]:
    """What a folder holds, but for the lock, which names whoever had it last."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock" and path.is_file()}


async def refused(site: Site, warm: Warm, stats: FaultStats, *commands: str) -> set[str]:
    """Run each command; each must refuse the state with exit 78 and make no call. Returns their output."""
    before, said = contents(site.state), set()
    for command in commands:
        ended = await warm.run(site, command)
        assert (ended.code, ended.out, len(ended.complaints)) == (78, "", 1), ended
        said |= set(ended.complaints)
        assert contents(site.state) == before
    assert not site.simulator.calls
    stats["bad states"] += 1
    return {complaint.replace(f"{site.state}/", "") for complaint in said}


async def test_each_folder_of_fixtures_is_used_by_a_test() -> None:
    """None is left out."""
    assert {path.name for path in FIXTURES.iterdir()} == NOT_BELIEVED.keys() | READ.keys()


@pytest.mark.parametrize("name", NOT_BELIEVED)
async def test_an_invalid_state_is_refused_and_left_alone(
    tmp_path: Path, warm: Warm, stats: FaultStats, name: str
) -> None:
    """Exit 78 with what is wrong and what to do, for the daemon and every command that reads it."""
    async with at_work(tmp_path, probed=False) as site:
        site.record("a.mp4", 1000)
        shutil.copytree(FIXTURES / name, site.state)
        (complaint,) = await refused(site, warm, stats, "run", "status")
        assert re.fullmatch(f"error: .*{NOT_BELIEVED[name]}.*", complaint), complaint


@pytest.mark.parametrize("name", READ)
async def test_a_valid_state_of_every_version_is_read(tmp_path: Path, warm: Warm, name: str) -> None:
    """Every upload and ledger line is there; leftovers of a crash are ignored."""
    async with at_work(tmp_path, probed=False) as site:
        shutil.copytree(FIXTURES / name, site.state)
        before = contents(site.state)
        status = await warm.run(site, "status", "--json")
        assert status.code == 0, status
        shown, saved = json.loads(status.out), json.loads(before["state.json"])
        assert (shown["counts"]["done"], len(shown["uploads"])) == (READ[name], len(saved["uploads"]))
        assert (await warm.run(site, "ledger", "--verify")).code == 0
        assert contents(site.state) == before


async def test_the_next_start_clears_away_what_a_power_cut_left(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """Half of a ledger line, which was never confirmed, is cut off; half of a save is overwritten."""
    async with at_work(tmp_path, probed=False) as site:
        shutil.copytree(FIXTURES / "ledger-torn", site.state)
        (site.state / "state.json.tmp").write_bytes(b"half")
        file = site.record("new.mp4", 1000)
        assert (await warm.run(site, "once")).code == 0
        stats["bad states"] += 1
        stats.count_arrivals(site, [sha256(file)])
        assert [line["upload"]["path"] for line in site.ledger()][3:] == [str(file)]
        assert (await warm.run(site, "ledger", "--verify")).code == 0
        assert {path.name for path in site.state.iterdir()} == {"state.json", "state.json.1", "ledger.jsonl", "lock"}


# Links, and what is no file


def linked(path: Path) -> None:
    """A link to a state that is whole in itself."""
    outside = path.parent.parent / "outside"
    shutil.copy(FIXTURES / "whole" / path.name, outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("make", [linked, os.mkfifo, os.mkdir], ids=["link", "FIFO", "folder"])
@pytest.mark.parametrize("name", ["state.json", "ledger.jsonl"])
async def test_a_state_must_consist_of_regular_files(
    tmp_path: Path, warm: Warm, stats: FaultStats, name: str, make: Callable[[Path], None]
) -> None:
    """A link is not followed, and a FIFO is neither waited for nor taken for an empty file."""
    async with at_work(tmp_path, probed=False) as site:
        shutil.copytree(FIXTURES / "whole", site.state)
        (site.state / name).unlink()
        make(site.state / name)
        (complaint,) = await refused(site, warm, stats, "run", "status")
        assert f"{name} cannot be read: " in complaint


@pytest.mark.parametrize("name", ["lock", "state.json.tmp", "state.json.1", "control.sock"])
async def test_no_link_in_the_state_folder_is_followed_for_writing(
    tmp_path: Path, warm: Warm, stats: FaultStats, name: str
) -> None:
    """A link under a name that the daemon writes is refused or replaced, and its target stays."""
    async with at_work(tmp_path, probed=False) as site:
        shutil.copytree(FIXTURES / "ledger-torn", site.state)
        (site.state / name).unlink(missing_ok=True)
        outside = tmp_path / "outside"
        outside.write_bytes(b"somebody's")
        (site.state / name).symlink_to(outside)
        site.record("a.mp4", 1000)
        ended = await warm.run(site, "once")
        assert ended.code == (73 if name == "lock" else 0), ended
        assert outside.read_bytes() == b"somebody's"
        stats["bad states"] += 1


async def test_a_state_folder_that_others_can_write_to_is_refused(tmp_path: Path, warm: Warm) -> None:
    """Exit 73, although it is the user's own: another user may have put a state into it."""
    async with at_work(tmp_path, probed=False) as site:
        site.state.mkdir()
        site.state.chmod(0o1777)
        ended = await warm.run(site, "once")
        assert (ended.code, ended.complaints) == (
            73,
            [f"error: {site.state}: others can write to the state folder; chmod 0700 {site.state}"],
        )
        assert list(site.state.iterdir()) == []


async def test_only_the_owner_can_read_the_state_from_the_first_start_on(tmp_path: Path, warm: Warm) -> None:
    """0700 and 0600 while it runs, the control socket too, whatever the umask was."""
    async with at_work(tmp_path, probed=False) as site:
        site.record("a.mp4", 1000)
        before = os.umask(0)
        try:
            daemon = await site.start("run")
        finally:
            os.umask(before)
        await daemon.event("upload-finished")
        modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (site.state, *site.state.iterdir())}
        names = ("state.json", "state.json.1", "ledger.jsonl", "lock", "control.sock")
        assert modes == {"state": 0o700, **dict.fromkeys(names, 0o600)}


async def test_a_state_folder_with_other_content_keeps_its_mode(tmp_path: Path, warm: Warm) -> None:
    """With /var/lib as the state folder, root does not close it to all other users."""
    async with at_work(tmp_path, probed=False) as site:
        site.state.mkdir()
        site.state.chmod(0o755)
        (site.state / "another program's").touch()
        assert (await warm.run(site, "once")).code == 0
        assert stat.S_IMODE(site.state.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_commands_of_root_leave_files_that_the_daemon_can_use(tmp_path: Path, warm: Warm) -> None:
    """``once`` by root on the folder of a daemon of another user, which can read and write all of it."""
    async with at_work(tmp_path, probed=False) as site:
        site.state.mkdir(mode=0o700)
        os.chown(site.state, 10_001, 10_001)
        site.record("a.mp4", 1000)
        assert (await warm.run(site, "once")).code == 0
        owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in site.state.iterdir()}
        assert set(owners.values()) == {(10_001, 10_001)}, owners

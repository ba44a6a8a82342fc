"""A file is sent when it stands still, with the content that it then has."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import MemoryDisk, VirtualClock, a_finish, an_upload, until
from shares import identify, share_of

from uploader import files
from uploader.diagnostics.video import Video
from uploader.domain import errors, events
from uploader.domain.completeness import CompletenessRules
from uploader.domain.model import ActionBy, LastError, Sighting, Snapshot, State, WriteState
from uploader.files import MountedShare, Shares
from uploader.stages.context import StageContext
from uploader.stages.known import KnownFiles
from uploader.stages.lease import Leases
from uploader.stages.queues import Queues, SightingBatch
from uploader.stages.settle import BUG_PAUSE, Settle
from uploader.store import Store

SETTLE = 10.0  # s
GATE_TIMEOUT, LONGEST = 600.0, 60.0  # s


VIDEO = b"".join(Video(frames=3, width=64, height=64).pieces())  # its index behind the pictures, as recorders leave it
MOOVLESS = VIDEO[: VIDEO.rindex(b"moov") - 4]


class Bench:
    """The settle stage alone, over real files and a clock that the test advances."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock()
        self.heard: list[events.Event] = []
        bus = events.Bus()
        bus.listen(self.heard.append)
        self.store = Store(MemoryDisk(), self.clock, bus)
        self.queues = Queues(self.clock)
        self.rules = CompletenessRules(SETTLE, gate=True, gate_timeout=GATE_TIMEOUT, longest_look_interval=LONGEST)
        self.share = share_of(folder)
        shares = Shares(lambda _: self.share)
        context = StageContext(self.store, Leases(self.store), shares, self.queues, self.clock, bus)
        self.settle = Settle(context, lambda _: self.rules)

    async def see(self, *paths: Path) -> None:
        """A scan shows these files."""
        sightings = [files.look(str(path), str(self.folder)) for path in paths]
        await self.settle.take(SightingBatch(str(self.folder), tuple(sighting for sighting in sightings if sighting)))

    @property
    def reason(self) -> str:
        """Why the one file that is waited for is waited for."""
        (candidate,) = self.settle.candidates.values()
        return candidate.reason

    async def after(self, seconds: float) -> bool:
        """Let time pass and every look that is due be made; whether something has settled."""
        await self.clock.advance(seconds)
        await until(lambda: not self.settle.busy and self.settle._looks.soonest() != 0)
        return not self.queues.settled.empty()


@asynccontextmanager
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """The stage at work."""
    table = Bench(tmp_path)
    work = asyncio.create_task(table.settle.run())
    try:
        yield table
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await table.store.close()


async def test_a_still_file_settles_after_its_settle_time(tmp_path: Path) -> None:
    """Not before ``settle`` has passed between two equal looks, and with the identity it had then."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    async with bench(tmp_path) as table:
        await table.see(path)
        assert not await table.after(0)
        assert not await table.after(SETTLE - 0.1)
        assert await table.after(0.1)
        settled = table.queues.settled.get_nowait()
        assert (settled.path, settled.root) == (str(path), str(tmp_path))
        assert settled.identity == await identify(path)
        assert str(path) not in table.settle.candidates


@pytest.mark.parametrize("mtime", [0, 86400 * 365 * 120], ids=["1970", "2089"])
async def test_mtime_is_compared_with_no_clock(tmp_path: Path, mtime: int) -> None:
    """A file from the future or from 1970 settles like any other, as clocks of shares may be wrong."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    os.utime(path, (mtime, mtime))
    async with bench(tmp_path) as table:
        await table.see(path)
        assert not await table.after(0)
        assert await table.after(SETTLE)


async def test_a_file_whose_ctime_moves_all_the_time_is_sent(tmp_path: Path) -> None:
    """Its rights are set, or hard links to it are made, more often than ``settle`` is long."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    async with bench(tmp_path) as table:
        await table.see(path)
        settled = await table.after(0)
        for number in range(20):
            if settled:
                break
            if number % 2:
                path.chmod(0o600 + number)
            else:
                os.link(path, tmp_path / f"link {number}")
            settled = await table.after(SETTLE / 2)
        assert settled
        assert table.queues.settled.get_nowait().unplayable == ""
        assert table.clock.monotonic() - 1000.0 <= 5 * SETTLE


async def test_an_unfinished_file_whose_ctime_moves_is_parked_in_the_end(tmp_path: Path) -> None:
    """``gate_timeout`` counts from its last write, not from the last change of its metadata."""
    path = tmp_path / "a.mp4"
    path.write_bytes(MOOVLESS)
    async with bench(tmp_path) as table:
        await table.see(path)
        settled = await table.after(0)
        for number in range(200):
            if settled:
                break
            path.chmod(0o600 + number % 8)
            settled = await table.after(SETTLE / 2)
        assert settled
        assert "moov" in table.queues.settled.get_nowait().unplayable
        assert table.clock.monotonic() - 1000.0 >= GATE_TIMEOUT


@pytest.mark.parametrize("written", [False, True])
async def test_a_file_whose_mtime_moves_all_the_time_is_sent_when_its_bytes_stand_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    """After ``gate_timeout`` it is read twice, and sent if it was the same; while its middle is written it waits."""
    path, data = tmp_path / "a.mp4", bytearray(VIDEO + struct.pack(">I4s", 400_000, b"free") + bytes(399_992))
    path.write_bytes(data)
    async with bench(tmp_path) as table:
        await table.see(path)
        settled, hashes, sha256 = await table.after(0), 0, table.share.sha256

        async def counting(name: str) -> str:
            nonlocal hashes
            hashes += 1
            return await sha256(name)

        monkeypatch.setattr(table.share, "sha256", counting)
        for number in range(300):
            if settled:
                break
            os.utime(path, (1000 + number, 1000 + number))
            if written:
                data[200_000] = number % 251
                path.write_bytes(data)
            settled = await table.after(SETTLE / 2)
        waited = table.clock.monotonic() - 1000.0
        assert settled is not written
        if settled:
            assert GATE_TIMEOUT <= waited <= GATE_TIMEOUT + 4 * SETTLE
            assert hashes == 2
        else:
            assert "its mtime" in table.reason
            assert hashes <= 2 * waited / GATE_TIMEOUT


async def test_a_slow_writer_is_waited_for(tmp_path: Path) -> None:
    """As long as the file grows between two looks, the settle time starts again."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    async with bench(tmp_path) as table:
        for number in range(12):
            with path.open("ab") as file:
                file.write(b"x" * 1000)
            await table.see(path)
            assert not await table.after(SETTLE / 2), number
        assert len([event for event in table.heard if isinstance(event, events.FileStillChanging)]) > 2
        assert not await table.after(SETTLE / 2 - 0.1)
        assert await table.after(SETTLE)
        assert table.queues.settled.get_nowait().identity.size == 12_000


async def test_a_change_between_scans_is_found_by_the_next_look(tmp_path: Path) -> None:
    """The second look decides, not the scan."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"first")
    async with bench(tmp_path) as table:
        await table.see(path)
        await table.after(0)
        path.write_bytes(b"second content")
        assert not await table.after(SETTLE)
        assert await table.after(SETTLE)
        assert table.queues.settled.get_nowait().identity.size == len(b"second content")


async def test_a_rewritten_end_is_a_change(tmp_path: Path) -> None:
    """With equal size and mtime: a recorder fills a preallocated file."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0" * 5000)
    os.utime(path, (1000, 1000))
    async with bench(tmp_path) as table:
        await table.see(path)
        await table.after(0)
        path.write_bytes(b"\0" * 4999 + b"x")
        os.utime(path, (1000, 1000))
        assert not await table.after(SETTLE)
        assert await table.after(SETTLE)


async def test_an_event_starts_the_settle_time_at_once(tmp_path: Path) -> None:
    """The file is looked at soon, not only at the next look."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"first")
    async with bench(tmp_path) as table:
        await table.see(path)
        await table.after(0)
        await table.after(SETTLE * 0.4)
        path.write_bytes(b"second content")
        await table.see(path)
        assert not await table.after(0.01)
        assert not await table.after(SETTLE - 0.1)
        assert await table.after(0.1)


async def test_a_file_that_is_gone_is_no_longer_waited_for(tmp_path: Path) -> None:
    """It is missing at a look; that a scan does not show it proves nothing."""
    one, two = tmp_path / "1.mp4", tmp_path / "2.mp4"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    async with bench(tmp_path) as table:
        await table.see(one, two)
        await table.after(0)
        await table.see()
        assert set(table.settle.candidates) == {str(one), str(two)}
        two.unlink()
        assert await table.after(SETTLE)
        assert not table.settle.candidates


async def test_an_unreadable_file_waits_with_its_reason(tmp_path: Path) -> None:
    """It is tried again at intervals, even if ``settle`` is zero, and delays no other file."""
    path, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    path.write_bytes(b"content")
    other.write_bytes(b"other")
    tries: list[str] = []

    async def refuse(path: str) -> Snapshot:
        if path == str(other):
            return await snapshot(path)
        tries.append(path)
        raise errors.ShareNotReady("a.mp4 cannot be read now: Permission denied")

    async with bench(tmp_path) as table:
        table.rules = replace(table.rules, settle=0.0)
        snapshot, table.share.snapshot = table.share.snapshot, refuse  # type: ignore[method-assign]  # a share that says so
        await table.see(path, other)
        assert await table.after(5)
        assert table.queues.settled.get_nowait().path == str(other)
        assert "Permission denied" in table.reason
        assert 2 <= len(tries) <= 10
        table.share.snapshot = snapshot  # type: ignore[method-assign]
        assert await table.after(2)


async def test_an_empty_file_is_not_sent(tmp_path: Path) -> None:
    """It waits while it is open for writing; then it settles as unplayable."""
    path = tmp_path / "a.mp4"
    async with bench(tmp_path) as table:
        with path.open("wb"):
            await table.see(path)
            assert not await table.after(0)
            assert not await table.after(10 * SETTLE)
        assert await table.after(LONGEST)
        assert table.queues.settled.get_nowait().unplayable == "the file is empty; it is sent when it has content"


async def test_a_file_that_is_open_for_writing_is_held_back(tmp_path: Path) -> None:
    """A copy may stall for longer than ``settle``."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    async with bench(tmp_path) as table:
        with path.open("ab"):
            await table.see(path)
            assert not await table.after(0)
            for _ in range(10):
                assert not await table.after(SETTLE)
            assert table.reason == "a process on this host still has it open for writing"
        with path.open("rb"):  # who only reads is no reason
            assert await table.after(LONGEST)


async def test_done_marker_is_waited_for(tmp_path: Path) -> None:
    """The file is sent when its marker lies beside it, and not before."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    async with bench(tmp_path) as table:
        table.rules = replace(table.rules, done_marker="{stem}.done")
        await table.see(path)
        assert not await table.after(0)
        assert not await table.after(10 * SETTLE)
        assert table.reason == f"it waits for its marker {tmp_path}/a.done"
        (tmp_path / "a.done").touch()
        assert await table.after(LONGEST)


async def test_an_unfinished_container_settles_as_unplayable_after_gate_timeout(tmp_path: Path) -> None:
    """A recorder that died leaves no moov box."""
    path = tmp_path / "a.mp4"
    path.write_bytes(MOOVLESS)
    async with bench(tmp_path) as table:
        await table.see(path)
        assert not await table.after(0)
        assert not await table.after(GATE_TIMEOUT - 1)
        assert "moov" in table.reason
        assert await table.after(1)
        assert "moov" in table.queues.settled.get_nowait().unplayable


async def test_a_container_finished_within_gate_timeout_is_sent(tmp_path: Path) -> None:
    """The file settles anew and is checked again."""
    path = tmp_path / "a.mp4"
    path.write_bytes(MOOVLESS)
    async with bench(tmp_path) as table:
        await table.see(path)
        assert not await table.after(0)
        assert not await table.after(GATE_TIMEOUT / 2)
        path.write_bytes(VIDEO)
        await table.see(path)
        assert not await table.after(SETTLE / 4)
        assert await table.after(SETTLE)
        assert table.queues.settled.get_nowait().unplayable == ""


async def test_without_the_gate_no_container_is_checked(tmp_path: Path) -> None:
    """``gate = false``."""
    path = tmp_path / "a.mp4"
    path.write_bytes(MOOVLESS)
    async with bench(tmp_path) as table:
        table.rules = replace(table.rules, gate=False)
        await table.see(path)
        assert not await table.after(0)
        assert await table.after(SETTLE)


async def test_files_that_need_no_upload_are_not_waited_for(tmp_path: Path) -> None:
    """Sent, being sent, or parked; one that has changed since, or came back, is."""
    upload, finish = an_upload(), a_finish(path="/rec/done.mp4")
    clock = VirtualClock()
    store = Store(MemoryDisk(), clock, events.Bus())
    store.put(upload)
    missing = LastError("it is not there", ActionBy.FILE)
    store.put(an_upload(State.PARKED, path="/rec/missing.mp4", last_error=missing))
    store.put(an_upload(State.PARKED, path="/rec/refused.mp4"))
    await store.finish(finish)
    size, mtime_ns = upload.identity.size, upload.identity.mtime_ns
    expected = [
        ("/rec/a.mp4", size, mtime_ns, True),
        ("/rec/a.mp4", size + 1, mtime_ns, False),
        ("/rec/a.mp4", size, mtime_ns + 1, False),
        ("/rec/done.mp4", finish.size, finish.mtime_ns, True),
        ("/rec/done.mp4", finish.size, finish.mtime_ns + 1, False),
        ("/rec/missing.mp4", size, mtime_ns, False),
        ("/rec/refused.mp4", size, mtime_ns, True),
        ("/rec/new.mp4", 1, 1, False),
    ]
    for path, seen_size, seen_mtime, answer in expected:
        assert KnownFiles(store, ()).is_new(Sighting(path, "/rec", seen_size, seen_mtime)) is not answer, path
    await store.close()


async def test_a_bug_in_a_container_parser_holds_only_its_file_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is shown, after the gate's time it is parked with it, and the others settle."""
    real = MountedShare.write_state

    async def stumbles(self: MountedShare, path: str, *, gate: bool) -> WriteState:
        if path.endswith("bad.mp4"):
            raise ZeroDivisionError
        return await real(self, path, gate=gate)

    monkeypatch.setattr(MountedShare, "write_state", stumbles)
    bad, good = tmp_path / "bad.mp4", tmp_path / "good.mp4"
    bad.write_bytes(b"content")
    good.write_bytes(b"content")
    async with bench(tmp_path) as table:
        await table.see(bad, good)
        await table.after(0)
        assert await table.after(SETTLE)
        assert table.queues.settled.get_nowait().path == str(good)
        assert "unexpected bug in this program (ZeroDivisionError)" in table.reason
        for _ in range(20):
            await table.after(LONGEST)
        settled = table.queues.settled.get_nowait()
        assert settled.path == str(bad)
        assert "unexpected bug in this program (ZeroDivisionError)" in settled.unplayable


async def test_a_bug_while_a_file_is_looked_at_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is held back with the reason, and looked at again later; the others settle."""
    real, stumbling = MountedShare.snapshot, True

    async def stumbles(self: MountedShare, path: str) -> Snapshot:
        if stumbling and path.endswith("bad.mp4"):
            raise ZeroDivisionError
        return await real(self, path)

    monkeypatch.setattr(MountedShare, "snapshot", stumbles)
    bad, good = tmp_path / "bad.mp4", tmp_path / "good.mp4"
    bad.write_bytes(b"content")
    good.write_bytes(b"content")
    async with bench(tmp_path) as table:
        await table.see(bad, good)
        await table.after(0)
        assert await table.after(SETTLE)
        assert table.queues.settled.get_nowait().path == str(good)
        assert "unexpected bug in this program" in table.reason
        stumbling = False
        await table.after(BUG_PAUSE)
        assert await table.after(SETTLE)
        assert table.queues.settled.get_nowait().path == str(bad)


async def test_a_file_that_is_being_enqueued_is_not_found_again(tmp_path: Path) -> None:
    """From settled to enqueued it is known at every moment; other content is found."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    async with bench(tmp_path) as table:
        await table.see(path)
        await table.after(0)
        assert await table.after(SETTLE)
        await table.see(path)
        assert len([event for event in table.heard if isinstance(event, events.FileFound)]) == 1
        assert table.settle.known.anything(str(path))
        path.write_bytes(b"other content")
        await table.see(path)
        assert len([event for event in table.heard if isinstance(event, events.FileFound)]) == 2

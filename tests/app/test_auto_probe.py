"""The probe that the daemon runs by itself: before the first chunk, once for all, and never in anybody's way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, chunked, content_of, ready_at_once, sha256, spans

from uploader.diagnostics.trial import PROBE_RECORD_NAME
from uploader.domain import events
from uploader.domain.retry import CAPABILITIES_VALID_FOR, MINUTE
from uploader.testing.simulator import Fault, Semantics, Settings

DATA = content_of(4 * CHUNK + 9)
CHUNKED = [Semantics.OFFSET, Semantics.STRICT, Semantics.BLUEIMP, Semantics.APPEND]


def unknown(folder: Path, settings: Settings | None = None, **more: Any) -> Rig:
    """A server that was never probed."""
    return Rig(folder, settings or ready_at_once(), probed=False, **more)


@pytest.mark.parametrize("semantics", CHUNKED)
async def test_a_server_is_probed_before_it_gets_its_first_chunk(tmp_path: Path, semantics: Semantics) -> None:
    """Then the file goes in chunks, and no record of the probe is left."""
    async with unknown(tmp_path, Settings(semantics=semantics, processing=0.0)) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        (probed,) = rig.seen(events.ServerProbed)
        assert (probed.chunks, probed.transcodes, probed.version) == (True, False, "6.7.2")
        assert (rig.record.sha256, spans(rig.record)) == (sha256(DATA), chunked(len(DATA)))
        assert rig.store.orphans == {}
        assert {record.name for record in rig.records} == {"a"}


async def test_one_probe_serves_all_workers_and_small_files_do_not_wait_for_it(tmp_path: Path) -> None:
    """Four large files and a small one: the small one is finished while the probe is held up."""
    async with unknown(tmp_path) as rig:
        stall = rig.fault("upload", "stall", times=1)
        await rig.start()
        paths = [rig.write(f"{number}.mp4", DATA + bytes([number])) for number in range(4)]
        await rig.scan()
        async with asyncio.timeout(10):
            await stall.standing.wait()
        small = await rig.drop("small.mp4", b"small")
        await rig.finished(small)
        assert rig.seen(events.UploadFinished, path=paths[0]) == []
        stall.release()
        await rig.finished(*paths)
        assert len(rig.seen(events.ServerProbed)) == 1
        assert {spans(record)[0] for record in rig.records if record.name != "small"} == {(0, CHUNK)}


async def test_small_files_need_no_probe(tmp_path: Path) -> None:
    """A file that goes in one request is proven by its size."""
    async with unknown(tmp_path) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", b"small"))
        assert rig.seen(events.ServerProbeBegan) == []


async def test_a_probe_that_fails_lets_files_go_whole(tmp_path: Path) -> None:
    """In one request, and its record is removed."""
    async with unknown(tmp_path) as rig:
        rig.simulator.faults.append(Fault(call="upload", kind="status", status=400, body='{"data":"no"}'))
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        assert len(rig.seen(events.ServerProbeFailed)) == 1
        assert (rig.record.sha256, spans(rig.record)) == (sha256(DATA), [(0, len(DATA))])
        assert [record.name for record in rig.records] == ["a"]


async def test_without_a_probe_files_go_whole(tmp_path: Path) -> None:
    """``probe = "never"``: a server whose way with chunks was not seen gets none."""
    async with unknown(tmp_path, server={"probe": "never"}) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", DATA))
        assert rig.seen(events.ServerProbeBegan) == []
        assert spans(rig.record) == [(0, len(DATA))]


async def test_what_was_found_out_is_asked_again_when_it_is_old(tmp_path: Path) -> None:
    """After 30 days the server may be another one."""
    async with Rig(tmp_path) as rig:
        rig.build()
        rig.store.learn(probed_at=rig.clock.now() - CAPABILITIES_VALID_FOR - 1)
        await rig.store.commit()
        await rig.restart()
        await rig.finished(await rig.drop("a.mp4", DATA))
        assert len(rig.seen(events.ServerProbed)) == 1


async def test_what_was_found_out_is_asked_again_when_the_version_changes(tmp_path: Path) -> None:
    """A server of another version is another server."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", DATA))
        assert rig.seen(events.ServerProbed) == []
        rig.become(replace(rig.simulator.settings, version="7.0.0"))
        rig.simulator._api.forget_passes()
        await rig.finished(await rig.drop("b.mp4", DATA[::-1]))
        await rig.finished(await rig.drop("c.mp4", DATA[1:]))
        (probed,) = rig.seen(events.ServerProbed)
        assert probed.version == "7.0.0"


async def test_a_kill_in_the_middle_of_a_probe_leaves_records_that_are_known(tmp_path: Path) -> None:
    """They are deleted soon after the next start, also if they hold a video."""
    async with unknown(tmp_path) as rig:
        stall = rig.fault("upload", "stall", skip=1, times=1)
        await rig.start()
        rig.write("a.mp4", DATA)
        await rig.scan()
        async with asyncio.timeout(10):
            await stall.standing.wait()
        left = [record.id for record in rig.records if record.name == PROBE_RECORD_NAME]
        rig.fault("delete", "status", status=500, times=len(left))  # a process that is killed calls nothing any more
        await rig.kill()
        stall.release()
        assert left
        assert {orphan.record for orphan in rig.saved().orphans if orphan.probe} == set(left)
        await rig.start()
        began = rig.clock.monotonic()
        await rig.until(lambda: not set(left) & {record.id for record in rig.records}, "they are deleted")
        assert rig.clock.monotonic() - began < 5 * MINUTE


async def test_a_slow_probe_keeps_its_records_until_it_is_over(tmp_path: Path) -> None:
    """A server needs longer to process a video than any request may be in doubt; its record is not deleted before."""
    async with unknown(tmp_path, server={"doubt_settle": "1s"}) as rig:
        stall = rig.fault("details", "stall", times=1)
        await rig.start()
        rig.write("a.mp4", DATA)
        await rig.scan()
        async with asyncio.timeout(10):
            await stall.standing.wait()
        before = rig.clock.monotonic()
        await rig.until(lambda: rig.clock.monotonic() > before + 60, "its records would be due if it were dead")
        assert rig.seen(events.OrphanCleared) == []
        assert {orphan.record for orphan in rig.store.orphans.values()} == {record.id for record in rig.records}
        stall.release()
        await rig.event(events.ServerProbed)
        assert [orphan for orphan in rig.store.orphans.values() if orphan.probe] == []

"""kill -9 at random moments: every file ends as one finished record with equal bytes, whatever the receiver is."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest
from fault_stats import FaultStats
from process import MIB, PROCESS_TIMEOUT, Process, Site, at_work, sha256, until

from uploader.testing.simulator import Fault, Semantics, Settings

KILLS = 5
LONGEST = 1.5  # seconds until a daemon is killed that has little to do
FILES = 5
SIZES = (3 * MIB, 10 * MIB)  # bytes: the smallest and the largest file
RATE = 24 * MIB  # bytes per second of each request: slow enough to be hit in its middle


def receiver(semantics: str) -> Settings:
    """A server that is ready at once, of one of the kinds that there are."""
    return Settings(semantics=Semantics(semantics), processing=0.0)


async def killed(site: Site, chance: random.Random, stats: FaultStats) -> None:
    """Start the daemon, and kill it after a random number of requests and a random moment more."""
    requests = len(site.simulator.calls) + chance.randint(2, 20)
    enough = asyncio.Event()

    def count(_: object) -> None:
        if len(site.simulator.calls) >= requests:
            enough.set()

    site.simulator.on_call = count
    daemon = await site.start("run")
    done = asyncio.create_task(everything_done(daemon, site))
    reached = asyncio.create_task(enough.wait())
    await asyncio.wait({done, reached}, timeout=LONGEST, return_when=asyncio.FIRST_COMPLETED)
    for task in (done, reached):
        task.cancel()
    await asyncio.gather(done, reached, return_exceptions=True)
    await asyncio.sleep(chance.uniform(0, 0.05))  # the random moment; nothing is waited for
    daemon.process.kill()
    stats["kills at random"] += (await daemon.ended()).code == -signal.SIGKILL


async def everything_done(daemon: Process, site: Site) -> None:
    """Return when every file is in the ledger, and no orphan is left but those that wait for a day."""
    while len(site.ledger()) < FILES or site.stored()["uploads"] or site.orphans():
        await asyncio.sleep(0.05)
        assert daemon.process.returncode is None


@pytest.mark.parametrize("semantics", ["offset", "append"])
async def test_nothing_is_lost_or_doubled_by_kill_9(
    tmp_path: Path, stats: FaultStats, semantics: str, request: pytest.FixtureRequest
) -> None:
    """One finished record for each file, no acknowledged range sent twice into one record, orphans cleared away.

    Each run takes sizes and moments of its own; a failure shows the seed that gives the same ones again.
    """
    seed = request.config.getoption("--kill-seed")
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    print(f"the same kills again: pytest --kill-seed {seed} '{request.node.nodeid}'")  # noqa: T201 - shown when it fails
    chance = random.Random(seed)  # noqa: S311 - not a secret
    soon = 'ready_timeout = "1s"'  # for which a doubt about the last chunk is left open
    upload = f'workers = 2\nchunk_size = "{chance.choice([64, 256, 1024])} KiB"\n{soon}'
    async with at_work(tmp_path, receiver(semantics), upload=upload) as site:
        site.simulator.faults.append(Fault(call="upload", kind="slow", rate=RATE, times=None))
        files = [site.record(f"{number}.mp4", chance.randint(*SIZES), seed=seed) for number in range(FILES)]
        for _ in range(KILLS):
            await killed(site, chance, stats)
        last = await site.start("run")
        async with asyncio.timeout(3 * PROCESS_TIMEOUT):  # each new start of an upload is later
            await everything_done(last, site)
        assert (await last.stop()).code == 0
        stats.count_arrivals(site, map(sha256, files))
        records = site.records()
        assert sorted(record.sha256 or "" for record in records) == sorted(sha256(file) for file in files)
        assert sorted(line["upload"]["path"] for line in site.ledger()) == sorted(str(file) for file in files)
        assert {line["upload"]["record"] for line in site.ledger()} == {record.id for record in records}
        taken = [
            (call.record, call.content_range)
            for call in site.simulator.calls
            if call.name == "upload" and call.status == 201
        ]
        assert len(taken) == len(set(taken))


async def killed_at(site: Site, fault: Fault, stats: FaultStats) -> None:
    """Start the daemon, and kill it while the server stands still because of *fault*."""
    site.simulator.faults.append(fault)
    daemon = await site.start("run")
    async with asyncio.timeout(PROCESS_TIMEOUT):
        await fault.standing.wait()
    daemon.process.kill()
    stats["kills"] += (await daemon.ended()).code == -signal.SIGKILL
    fault.release()


async def test_a_record_whose_answer_was_lost_in_a_kill_is_found_again(tmp_path: Path, stats: FaultStats) -> None:
    """Killed between the call and its answer: the record is adopted or deleted."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        await killed_at(site, Fault(call="create", kind="stall"), stats)
        assert len(site.simulator.records()) == 1
        again = await site.start("run")
        finished = await again.event("upload-finished")
        await until(lambda: len(site.records()) == 1, "the other record is found, and deleted after a day")
        stats.count_arrivals(site, [sha256(file)])
        (record,) = site.records()
        assert (record.id, record.sha256) == (finished["record"], sha256(file))


async def test_a_last_chunk_that_had_landed_is_not_sent_again(tmp_path: Path, stats: FaultStats) -> None:
    """Killed before its answer arrived: the server is asked and has all of it."""
    async with at_work(tmp_path, receiver("append"), upload='chunk_size = "whole"') as site:
        file = site.record("a.mp4")
        await killed_at(site, Fault(call="upload", kind="stall"), stats)
        again = await site.start("run")
        resolved = await again.event("doubt-resolved")
        assert resolved["outcome"] == "the last chunk had landed"
        await again.event("upload-finished")
        stats.count_arrivals(site, [sha256(file)])
        (record,) = site.simulator.records()
        assert (record.sha256, record.requests) == (sha256(file), 1)


async def test_a_chunk_in_doubt_is_never_appended_twice(tmp_path: Path, stats: FaultStats) -> None:
    """Killed after a middle chunk, which may have landed or not: the file starts over on another record."""
    async with at_work(tmp_path, receiver("append")) as site:
        file = site.record("a.mp4")
        await killed_at(site, Fault(call="upload", kind="stall", skip=1), stats)
        again = await site.start("run")
        over = await again.event("upload-started-over")
        await again.event("orphan-cleared", record=over["orphan"])
        finished = await again.event("upload-finished")
        stats.count_arrivals(site, [sha256(file)])
        (record,) = site.simulator.records()
        assert (record.id, record.sha256) == (finished["record"], sha256(file))

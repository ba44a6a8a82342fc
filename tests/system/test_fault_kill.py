"""kill -9 at every place that matters: round each save, each request and each removal, one after the other.

``test_kill.py`` kills at random; here each place has a name (``failpoints``), and a place that is no longer come to
fails the test. The first life is ended there; the second must end with one finished record and nothing beside it.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from fault_stats import FaultStats
from process import at_work, sha256
from warm import Warm, place

from uploader.testing.simulator import Fault, Semantics, Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

SIZE = 150_000  # bytes: two chunks of 64 KiB and a short one
SAVES = (
    "creating",
    "sending",
    "in-doubt",
    "in-doubt at the end",
    "verifying",
    "finishing",
    "done",
)
STEPS = ("torn", "written", "synced", "kept", "durable")  # of one save; every save has its first and its last one below
PLACES = (
    *(f"save {state}: {step}" for state in SAVES for step in ("begun", "named")),
    *(f"save in-doubt at the end: {step}" for step in STEPS),
    *(f"ledger: {step}" for step in ("begun", "torn", "written", "synced")),
    *(f"{call}: {when}" for call in ("login", "create", "details") for when in ("before", "after")),
    *(f"chunk {number}: {when}" for number in (2, 3) for when in ("before", "moving", "marked", "gone", "answered")),
    *(f"removal: {step}" for step in ("begun", "aside", "gone")),
)
OF_AN_ORPHAN = (
    "save queued with an orphan: begun",
    "save queued with an orphan: named",
    "delete: before",
    "delete: after",
    "save done: named",
)
IN_RECOVERY = (  # killed again while it finds out what the first kill has left
    "create: before > find: before",
    "create: after > find: after",
    "create: after > save empty with an orphan: begun",
    "create: after > save empty with an orphan: named",
    "chunk 2: gone > details: before",
    "chunk 2: gone > save queued with an orphan: begun",
    "chunk 2: answered > save queued with an orphan: named > delete: after",
    "chunk 3: gone > details: after > details: after",
    "ledger: synced > removal: aside > removal: gone",
)


async def broken_by(name: str, folder: Path, warm: Warm, stats: FaultStats, settings: Settings, *faults: Fault) -> str:
    """Kill the daemon at each place of *name* in turn, start it again, and say which promise is broken, if any."""
    soon = 'ready_timeout = "1s"'  # for which a doubt about the last chunk is left open
    async with at_work(folder, settings, watch='after_upload = "delete"', upload=soon) as site:
        file = site.record("a.mp4", SIZE)
        digest = sha256(file)
        site.simulator.faults += faults
        for number, life in enumerate(name.split(" > ")):
            try:
                killed = await warm.run(site, "run", plan={"kill": life})
            except AssertionError as error:
                return f"it never came to {life}: {error}"
            if killed.code != -signal.SIGKILL:
                return f"exit {killed.code} before it was killed: {killed.err}"
            stats["kills"] += 1
            stats["kills in recovery"] += number > 0
        again = await warm.run(site, "once")
        stats.count_arrivals(site, [digest])
        if again.code != 0:
            return f"the next start ended with {again.code}: {again.out}{again.err}"
        records = site.records()
        if [(record.sha256, record.status) for record in records] != [(digest, "ready")]:
            return f"the server holds {records}: {again.err}"
        if [line["upload"]["record"] for line in site.ledger()] != [records[0].id]:
            return f"the ledger holds {site.ledger()}"
        stored = site.stored()
        if stored["uploads"] or site.orphans() or file.exists() or any(site.recordings.iterdir()):
            return f"left behind: {stored}, {list(site.recordings.iterdir())}"
        taken = [(call.record, call.content_range) for call in site.simulator.calls if call.status == 201]
        return "" if len(taken) == len(set(taken)) else f"sent twice: {taken}"


async def broken(
    places: tuple[str, ...], folder: Path, warm: Warm, stats: FaultStats, semantics: str, *faults: Fault
) -> dict[str, str]:
    """Kill at each of *places*, and collect what that breaks."""
    settings = Settings(semantics=Semantics(semantics), processing=0.0)
    found = await asyncio.gather(
        *(
            broken_by(name, place(folder, number), warm, stats, settings, *map(_copy, faults))
            for number, name in enumerate(places)
        )
    )
    return {name: what for name, what in zip(places, found, strict=True) if what}


def _copy(fault: Fault) -> Fault:
    return Fault(call=fault.call, kind=fault.kind, skip=fault.skip)


@pytest.mark.parametrize("semantics", ["offset", "append"])
async def test_a_kill_at_any_place_does_no_harm(tmp_path: Path, warm: Warm, stats: FaultStats, semantics: str) -> None:
    """One finished record with equal bytes, one ledger line, no orphan, and the file disposed of."""
    assert await broken(PLACES, tmp_path, warm, stats, semantics) == {}


@pytest.mark.parametrize("semantics", ["offset", "append"])
async def test_a_second_kill_during_the_recovery_does_no_harm(
    tmp_path: Path, warm: Warm, stats: FaultStats, semantics: str
) -> None:
    """The same when it is killed again before it could save what it has found."""
    assert await broken(IN_RECOVERY, tmp_path, warm, stats, semantics) == {}


async def test_a_kill_during_orphan_cleanup_leaves_no_orphan(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """The answer to a chunk was lost, so that its record is given up."""
    lost = Fault(call="upload", kind="lose-answer", skip=1)
    assert await broken(OF_AN_ORPHAN, tmp_path, warm, stats, "append", lost) == {}

"""Network faults between the daemon and a server: each ends with one finished record with equal bytes."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import random
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from fault_stats import FaultStats
from process import MIB, at_work, sha256, until
from proxy import CREATE, UPLOAD, LineFault, an_answer, line_to
from warm import Warm, place

from uploader.testing.simulator import Semantics, Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

BAD_GATEWAY = an_answer("502 Bad Gateway", "<html><title>502 Bad Gateway</title>nginx</html>")
TOO_LARGE = an_answer("413 Request Entity Too Large", "<html><title>413 Request Entity Too Large</title></html>")
EXPIRED = an_answer("401 Unauthorized", '{"error":{"code":401,"message":"Bad credentials."}}')
BAD_RANGE = an_answer("400 Bad Request", '{"data":{"message":"Invalid Content-Range header value"},"code":400}')
SMALL = 200_000  # bytes: three chunks of 64 KiB and a short one
LARGE = 10 * MIB  # bytes: more in a chunk than all buffers on the way hold


@cache
def recording(size: int) -> tuple[bytes, str]:
    """Return *size* bytes and their sha256, made only once, as no server runs meanwhile."""
    content = random.Random(size).randbytes(size)  # noqa: S311 - not a secret
    return content, hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Case:
    """A trouble, what is sent through it, and how many records it costs."""

    trouble: LineFault
    records: int = 1  # made in all; what is too many is cleared away
    size: int = SMALL
    chunk: str = "64 KiB"


CASES = {
    "reset in a chunk": Case(LineFault(UPLOAD, "reset", after=MIB), size=LARGE, chunk="8 MiB"),
    "black hole in a chunk": Case(LineFault(UPLOAD, "black-hole", after=MIB), size=LARGE, chunk="8 MiB"),
    "reset in the head of a chunk": Case(LineFault(UPLOAD, "reset", after=20), size=LARGE, chunk="8 MiB"),
    "answer lost, in the middle": Case(LineFault(UPLOAD, "lose-answer", skip=1), records=2),
    "answer lost, at the end": Case(LineFault(UPLOAD, "lose-answer", skip=3)),
    "answer lost, to create": Case(LineFault(CREATE, "lose-answer"), records=2),
    "answer drips, at the end": Case(LineFault(UPLOAD, "drip", skip=3)),
    "answer drips, in the middle": Case(LineFault(UPLOAD, "drip", skip=1), records=2),
    "413 in a chunk": Case(LineFault(UPLOAD, "answer", after=20_000, answer=TOO_LARGE), records=2, chunk="128 KiB"),
    "401 in a chunk": Case(LineFault(UPLOAD, "answer", after=20_000, answer=EXPIRED), chunk="128 KiB"),
    "400 in a chunk": Case(LineFault(UPLOAD, "answer", after=20_000, answer=BAD_RANGE), records=2, chunk="128 KiB"),
    "502 in a chunk": Case(LineFault(UPLOAD, "answer", after=MIB, answer=BAD_GATEWAY), size=LARGE, chunk="8 MiB"),
    "502 after the store, in the middle": Case(
        LineFault(UPLOAD, "replace-answer", skip=1, answer=BAD_GATEWAY), records=2
    ),
    "502 after the store, at the end": Case(LineFault(UPLOAD, "replace-answer", skip=3, answer=BAD_GATEWAY)),
}


async def broken_by(case: Case, folder: Path, warm: Warm, stats: FaultStats, semantics: str) -> str:
    """Send a file through *case*, and say which promise is broken; empty when none is."""
    settings = Settings(semantics=Semantics(semantics), processing=0.0)
    async with (
        at_work(folder, settings) as site,
        line_to(site.url, copy.copy(case.trouble)) as (proxy, url),
    ):
        site.configure(
            server=f'url = "{url}"\nstall_timeout = "1s"', upload=f'chunk_size = "{case.chunk}"\nready_timeout = "1s"'
        )
        content, digest = recording(case.size)
        (site.recordings / "a.mp4").write_bytes(content)
        ended = await warm.run(site, "once")
        stats["line faults"] += proxy.struck
        stats.count_arrivals(site, [digest])
        if (ended.code, proxy.struck) != (0, 1):
            return f"exit {ended.code}, struck {proxy.struck}: {ended.out}{ended.err}"
        sent, stood = site.records(), site.stored()
        if [(record.sha256, record.status) for record in sent] != [(digest, "ready")]:
            return f"the server holds {sent}: {ended.err}"
        if len(site.ledger()) != 1 or stood["uploads"] or site.orphans():
            return f"left behind: {stood}"
        made = sum(call.name == "create" for call in site.simulator.calls)
        if made != case.records:
            return f"made {made} records: {ended.err}"
        taken = [(call.record, call.content_range) for call in site.simulator.calls if call.status == 201]
        return "" if len(taken) == len(set(taken)) else f"sent twice: {taken}"


@pytest.mark.parametrize("semantics", ["offset", "append", "blueimp"])
async def test_a_network_fault_costs_at_most_one_more_record(
    tmp_path: Path, warm: Warm, stats: FaultStats, semantics: str
) -> None:
    """A chunk that was seen whole or not at all goes on in its record; a middle chunk in doubt needs a new one."""
    found = await asyncio.gather(
        *(
            broken_by(case, place(tmp_path, number), warm, stats, semantics)
            for number, case in enumerate(CASES.values())
        )
    )
    assert {name: what for name, what in zip(CASES, found, strict=True) if what} == {}


async def test_a_proxy_that_refuses_every_chunk_parks_the_file(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """The file waits with that reason, no record is left, and ``once`` reports it."""
    refusal = LineFault(UPLOAD, "answer", after=1000, times=99, answer=TOO_LARGE)
    async with at_work(tmp_path) as site, line_to(site.url, refusal) as (proxy, url):
        site.configure(server=f'url = "{url}"', upload='chunk_size = "256 KiB"')
        file = site.record("a.mp4", SMALL)
        ended = await warm.run(site, "once")
        stats["line faults"] += proxy.struck
        assert (ended.code, ended.lines[0]) == (1, "0 uploaded now, 1 not ready")
        assert ended.lines[1].startswith(f"{file}: parked: ")
        assert "413" in ended.lines[1]
        (upload,) = site.stored()["uploads"]
        assert (upload["state"], upload["chunk_size"]) == ("parked", 65_536)
        assert {record.id for record in site.simulator.records()} <= {upload.get("ids", {}).get("record")}


async def test_a_slow_connection_is_no_fault(tmp_path: Path, warm: Warm) -> None:
    """A chunk takes far longer than the stall time-out: it is neither cut nor sent again."""
    async with at_work(tmp_path) as site, line_to(site.url, rate=3 * MIB) as (_, url):
        site.configure(server=f'url = "{url}"\nstall_timeout = "2s"', upload='chunk_size = "8 MiB"')
        digest = sha256(site.record("a.mp4", LARGE))
        ended = await warm.run(site, "once")
        assert (ended.code, ended.err.count("warning")) == (0, 0), ended.err
        (record,) = site.simulator.records()
        assert (record.sha256, record.requests) == (digest, 2)


async def test_a_daemon_stopped_by_a_signal_notices_a_dead_connection(tmp_path: Path, stats: FaultStats) -> None:
    """It breaks between SIGSTOP and SIGCONT: unseen bytes are sent again, in the same record."""
    trouble = LineFault(UPLOAD, "black-hole", after=MIB)
    async with at_work(tmp_path) as site, line_to(site.url, trouble) as (proxy, url):
        site.configure(server=f'url = "{url}"', upload='chunk_size = "8 MiB"')
        digest = sha256(site.record("a.mp4", LARGE))
        daemon = await site.start("run")
        await until(lambda: proxy.struck == 1, "the chunk is on its way")
        daemon.send(signal.SIGSTOP)
        stat = Path(f"/proc/{daemon.pid}/stat")
        await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the process stands still")
        await proxy.close()
        daemon.send(signal.SIGCONT)
        await daemon.event("upload-finished")
        stats["line faults"] += proxy.struck
        stats.count_arrivals(site, [digest])
        (record,) = site.simulator.records()
        assert (record.sha256, [call.name for call in site.simulator.calls].count("create")) == (digest, 1)
        assert [(chunk.start, chunk.end) for chunk in record.ranges] == [(0, 8 * MIB - 1), (8 * MIB, LARGE - 1)]

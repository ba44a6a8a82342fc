"""``check --probe``: what it finds about each kind of server, that it claims no more, and that it cleans up."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from process import Site, at_work

from uploader.config import Config
from uploader.diagnostics.finding import Finding
from uploader.diagnostics.probe import Probe
from uploader.diagnostics.probe_results import ProbeResult
from uploader.diagnostics.trial import PROBE_CHUNK_SIZE, PROBE_RECORD_NAME, PROBE_VIDEO
from uploader.domain import events
from uploader.domain.model import RecordSpec, ServerCapabilities
from uploader.domain.retry import DAY
from uploader.server.valt import Valt
from uploader.testing.simulator import Fault, Semantics, Settings, Simulator

KIB = 1024


class LeapingClock:
    """A clock on which every wait is over at once, and has taken its time all the same."""

    def __init__(self) -> None:
        self._monotonic = 0.0

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """The sum of all waits."""
        return self._monotonic

    def uniform(self, low: float, high: float) -> float:
        """The shortest."""
        return min(low, high)

    async def sleep(self, seconds: float) -> None:
        """Leap."""
        self._monotonic += seconds
        await asyncio.sleep(0)

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Do it then, by the machine's clock: nobody is waited for."""
        return asyncio.get_running_loop().call_later(seconds, call).cancel


class Diary:
    """Keeps what a probe tells; ``keeps`` is its name, None: it does not listen."""

    def __init__(self, keeps: str | None = "the daemon") -> None:
        self.keeps = keeps
        self.learnt: ServerCapabilities | None = None
        self.open: set[str] = set()  # records that were told of and not yet cleared
        self.told: set[str] = set()

    async def save(self, result: ProbeResult) -> str | None:
        """Keep it."""
        if self.keeps is not None:
            self.told |= {orphan.record for orphan in result.orphans}
            self.open |= {orphan.record for orphan in result.orphans}
            self.open -= set(result.cleared)
            self.learnt = result.learnt or self.learnt
        return self.keeps


class Bench:
    """A server to be probed, and all that was found."""

    def __init__(self, simulator: Simulator, **tables: Any) -> None:
        self.simulator = simulator
        self.diary = Diary()
        server = {"url": simulator.url, "username": "uploader", "stall_timeout": 5} | tables.get("server", {})
        upload = {"chunk_size": 256 * KIB} | tables.get("upload", {})
        self.config = Config.model_validate({"server": server, "upload": upload})
        self.found: list[Finding] = []

    async def probe(self) -> dict[str, Finding]:
        """Probe it; the findings by what they are about."""
        clock = LeapingClock()
        async with Valt(
            self.config.server, password=lambda: "secret", clock=clock, bus=events.Bus(), remember=lambda _: None
        ) as valt:
            async for finding in Probe(self.config, valt, self.diary, clock).run():
                self.found.append(finding)
        return {finding.what: finding for finding in self.found}

    @property
    def settings(self) -> list[str]:
        """The settings it wants."""
        return [finding.text for finding in self.found if finding.what == "settings"]

    @property
    def severities(self) -> set[str]:
        """The levels of all findings."""
        return {finding.severity for finding in self.found}


@asynccontextmanager
async def bench(
    folder: Path, settings: Settings | None = None, kind: type[Simulator] = Simulator, **tables: Any
) -> AsyncIterator[Bench]:
    """Serve, and see to it that a probe has left no record behind, nor made any it did not tell of."""
    simulator = kind(folder / "server", settings or Settings(processing=0.0))
    await simulator.start()
    try:
        yield Bench(simulator, **tables)
    finally:
        await simulator.stop()


TABLE: list[tuple[Semantics, str, str, bool, bool]] = [
    # server, what it says of chunks, of a chunk that comes twice, whether files go whole, whether resending is safe
    (Semantics.OFFSET, "byte for byte", "nothing was stored twice", False, True),
    (Semantics.STRICT, "byte for byte", "has to start over", False, False),
    (Semantics.BLUEIMP, "byte for byte", "it was stored in the wrong place", False, False),
    (Semantics.APPEND, "byte for byte", "its bytes differ: it is damaged", False, False),
    (Semantics.WHOLE, "takes whole files only", "does not matter", True, False),
]


@pytest.mark.parametrize(("semantics", "chunks", "repeat", "whole", "safe"), TABLE)
async def test_each_kind_of_server_is_recognised(
    tmp_path: Path, semantics: Semantics, chunks: str, repeat: str, whole: bool, safe: bool
) -> None:
    """How it handles chunks and repeats, which settings it needs; no record is left."""
    async with bench(tmp_path, Settings(semantics=semantics, processing=0.0)) as table:
        found = await table.probe()
        assert "downloaded byte for byte" in found["one request"].text
        assert chunks in found["chunks"].text
        assert repeat in found["repeat"].text
        size = '"whole" (it is "256 KiB": change it)' if whole else '"256 KiB" (as it is)'
        assert table.settings[0] == f"[upload] chunk_size = {size}"
        assert table.settings[1].startswith(f"[server] resend_is_safe = {str(safe).lower()} (")
        assert table.severities == {"ok"}
        assert table.simulator.records() == []
        learnt = table.diary.learnt
        assert learnt is not None
        assert (learnt.resend_is_safe, learnt.chunk_limit, learnt.version) == (safe, None, "6.7.2")
        assert (learnt.whole_only_until is not None) is whole
        assert len(table.diary.told) == (3 if whole else 4)
        assert table.diary.open == set()


@pytest.mark.parametrize("limit", ["body_limit", "form_limit"])
async def test_the_largest_accepted_chunk_is_found_by_halving(tmp_path: Path, limit: str) -> None:
    """It becomes the recommended setting and is remembered for a month."""
    settings = Settings(processing=0.0, **{limit: 1_000_000})  # type: ignore[arg-type]  # one of its limits
    async with bench(tmp_path, settings, upload={"chunk_size": 4096 * KIB}) as table:
        found = await table.probe()
        assert found["size"].text.endswith("; one of 512 KiB: accepted")
        assert table.settings[0] == '[upload] chunk_size = "512 KiB" (it is "4 MiB": change it)'
        assert table.diary.learnt is not None
        assert table.diary.learnt.chunk_limit == 512 * KIB
        assert (table.diary.learnt.chunk_limit_until or 0) - time.time() > 29 * DAY
        assert table.simulator.records() == []


async def test_a_limit_below_the_probe_s_own_video_is_a_fault(tmp_path: Path) -> None:
    """A server that does not take 150 KiB in one request is unusable, and the probe ends."""
    async with bench(tmp_path, Settings(processing=0.0, body_limit=100_000)) as table:
        found = await table.probe()
        assert found["one request"].severity == "error"
        assert "413" in found["one request"].text
        assert set(found) == {"one request", "cleanup"}
        assert (table.simulator.records(), table.diary.learnt) == ([], None)


async def test_a_server_that_never_shows_the_video_is_a_fault(tmp_path: Path) -> None:
    """It takes every byte, but that is not reported as a success."""

    class Hole(Simulator):
        async def _work(self, name: Any, request: web.Request, body: Any, received: int) -> Any:
            answer = await super()._work(name, request, body, received)
            data = answer.body.get("data") if isinstance(answer.body, dict) else None
            if name == "details" and isinstance(data, dict):
                return replace(answer, body={"data": data | {"videos": None}})
            return answer

    async with bench(tmp_path, kind=Hole) as table:
        found = await table.probe()
        assert found["one request"].severity == "error"
        assert "shows no video after 2 min" in found["one request"].text
        assert set(found) == {"one request", "cleanup"}
        assert table.simulator.records() == []


@pytest.mark.parametrize("semantics", [Semantics.OFFSET, Semantics.APPEND])
async def test_without_a_download_nothing_is_claimed(tmp_path: Path, semantics: Semantics) -> None:
    """Without it, an offset writer and an appender look alike, and neither is called safe."""
    async with bench(tmp_path, Settings(semantics=semantics, processing=0.0)) as table:
        table.simulator.faults.append(Fault(call="link", kind="status", status=403, times=None))
        found = await table.probe()
        assert {found[what].severity for what in ("one request", "chunks", "repeat")} == {"warning"}
        assert "what was stored is not known: download link: answered 403" in found["repeat"].text
        assert table.settings[1] == "[server] resend_is_safe = false (as it is)"
        assert table.diary.learnt is not None
        assert table.diary.learnt.resend_is_safe is None


async def test_a_server_that_transcodes_proves_nothing(tmp_path: Path) -> None:
    """What it stored cannot be told from what it returns."""
    async with bench(tmp_path, Settings(processing=0.0, transcodes=True)) as table:
        found = await table.probe()
        assert "its bytes differ (transcoded), so they prove nothing" in found["one request"].text
        assert found["repeat"].severity == "warning"
        assert table.diary.learnt is not None
        assert (table.diary.learnt.resend_is_safe, table.diary.learnt.whole_only_until) == (None, None)


async def test_a_video_that_is_not_ready_in_time_is_downloaded_nevertheless(tmp_path: Path) -> None:
    """A note says that the server is slow; the downloaded bytes count."""
    async with bench(tmp_path, Settings(processing=1e9)) as table:
        found = await table.probe()
        assert re.search(r"not ready after 2 min( \d+ s)? \(its status is 'created'\)", found["one request"].text)
        assert found["one request"].severity == "warning"
        assert table.diary.learnt is not None
        assert table.diary.learnt.resend_is_safe is True


@pytest.mark.parametrize("kind", ["lose-answer", "cut-body", "status"])
@pytest.mark.parametrize("skip", [1, 5])
async def test_a_failed_request_makes_the_finding_unknown(tmp_path: Path, kind: Any, skip: int) -> None:
    """A lost answer or a 502 proves neither *unsafe* nor *whole only*."""
    async with bench(tmp_path) as table:
        table.simulator.faults.append(Fault(call="upload", kind=kind, skip=skip))
        found = await table.probe()
        asked = found["chunks" if skip == 1 else "repeat"]
        assert (asked.severity, "not known: upload chunk:" in asked.text) == ("warning", True)
        assert table.diary.learnt is not None
        assert table.diary.learnt.whole_only_until is None
        assert table.simulator.records() == []


async def test_a_setting_that_spoils_recordings_is_a_fault(tmp_path: Path) -> None:
    """resend_is_safe = true on a server that stores a repeated chunk twice."""
    spoils = Settings(semantics=Semantics.APPEND, processing=0.0)
    async with bench(tmp_path, spoils, server={"resend_is_safe": True}) as table:
        await table.probe()
        assert [finding.severity for finding in table.found if finding.what == "settings"] == ["ok", "error"]


@pytest.mark.parametrize("keeps", ["the daemon", None])
async def test_a_record_that_cannot_be_removed_is_named(tmp_path: Path, keeps: str | None) -> None:
    """By its id, with who removes it; where a state is kept, it stays on its list of orphans."""
    async with bench(tmp_path, Settings(semantics=Semantics.WHOLE, processing=0.0)) as table:
        table.diary.keeps = keeps
        table.simulator.faults.append(Fault(call="delete", kind="status", status=403))
        found = await table.probe()
        (left,) = table.simulator.records()
        assert left.name == PROBE_RECORD_NAME
        assert left.id in found["cleanup"].text
        assert found["cleanup"].severity == "warning"
        who = "the daemon will delete it" if keeps else "delete it on the server yourself"
        assert found["cleanup"].text.endswith(who)
        assert table.diary.open == ({left.id} if keeps else set())
        assert found["remembered"].severity == ("ok" if keeps else "warning")


async def test_no_other_record_is_touched(tmp_path: Path) -> None:
    """Not even one of the same name: only the probe's own, by its id."""
    async with bench(tmp_path) as table:
        async with Valt(
            table.config.server,
            password=lambda: "secret",
            clock=LeapingClock(),
            bus=events.Bus(),
            remember=lambda _: None,
        ) as valt:
            theirs = await valt.create_record(RecordSpec(PROBE_RECORD_NAME))
        await table.probe()
        assert [record.id for record in table.simulator.records()] == [theirs.record]


async def test_an_interrupted_probe_removes_its_record(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a request."""
    async with bench(tmp_path) as table:
        stall = Fault(call="upload", kind="stall", skip=2)
        table.simulator.faults.append(stall)
        task = asyncio.create_task(table.probe())
        async with asyncio.timeout(10):
            await stall.standing.wait()
        task.cancel()
        stall.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert table.simulator.records() == []


def test_the_probe_s_video_is_small_and_sent_in_several_chunks() -> None:
    """One second, three chunks, smaller than a photograph."""
    assert 2 * PROBE_CHUNK_SIZE < PROBE_VIDEO.size < 3 * PROBE_CHUNK_SIZE
    assert PROBE_VIDEO.duration == 1.0


# The command


def learnt(site: Site) -> dict[str, Any]:
    """What ``state.json`` holds about the server."""
    found: dict[str, Any] = site.stored()["learnt"]
    return found


async def test_the_probe_s_results_are_saved_with_the_daemon_stopped(tmp_path: Path) -> None:
    """Before the first start root makes no state folder, in which the daemon could not write."""
    async with at_work(tmp_path, probed=False) as site:
        ended = await site.run("check", "--probe")
        assert ended.code == 0
        assert not site.state.exists()
        assert "not remembered for VALT 6.7.2" in ended.lines[-1]
        assert (await site.run("once")).code == 0
        ended = await site.run("check", "--probe")
        assert (ended.code, ended.err) == (0, "")
        assert ended.lines[-1].endswith(
            "the state keeps this for VALT 6.7.2, until the version changes, for 30 d at most"
        )
        assert learnt(site)["resend_is_safe"] is True
        assert site.stored()["orphans"] == []
        assert site.simulator.records() == []


async def test_the_running_daemon_saves_the_probe_s_results(tmp_path: Path) -> None:
    """It also deletes a record that the probe could not remove."""
    async with at_work(tmp_path) as site:
        daemon = await site.start("run")
        await daemon.event("started")
        site.simulator.faults.append(Fault(call="delete", kind="status", status=403))
        ended = await site.run("check", "--probe")
        assert ended.code == 0
        assert "the daemon keeps this" in ended.lines[-1]
        assert learnt(site)["version"] == "6.7.2"
        (orphan,) = site.stored()["orphans"]
        assert (orphan["probe"], orphan["name"]) == (True, PROBE_RECORD_NAME)
        assert [record.id for record in site.simulator.records()] == [orphan["record"]]
        document = json.loads((await site.run("status", "--json")).out)
        assert document["learnt"]["resend_is_safe"] is True
        assert (await daemon.stop()).code == 0


async def test_the_probe_does_not_begin_when_check_finds_a_fault(tmp_path: Path) -> None:
    """A wrong password is reported once; no record is made."""
    async with at_work(tmp_path) as site:
        site.password.write_text("another\n")
        ended = await site.run("check", "--probe")
        assert ended.code == 1
        assert "not started" in ended.lines[-1]
        assert [call.name for call in site.simulator.calls] == ["login"]

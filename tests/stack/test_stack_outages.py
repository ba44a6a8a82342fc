"""A server that fails behind a real nginx, and an nginx that fails itself: each recording arrives, once and whole."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from nginx import Front
from process import Process, Site, until
from stack import CHUNKS, LARGE, Stack, events_of, outages, stacked
from warm import Warm

from uploader.testing.simulator import Fault, Semantics, Settings, Simulator

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

SORRY = """
    error_page 502 =200 /sorry.html;
    location = /sorry.html { internal; default_type text/html; return 200 "<title>Service desk 4711</title>"; }
"""
IMPATIENT = Front(location="proxy_read_timeout 1s;")
APPENDS = Settings(processing=0.0, semantics=Semantics.APPEND)  # stores a chunk that is sent again a second time


def slowed(stack: Stack, rate: float = 200_000) -> Fault:
    """Let the server read every chunk slowly, until the fault is removed. *rate*: bytes per second."""
    slow = Fault(call="upload", kind="slow", rate=rate, times=None)
    stack.site.simulator.faults.append(slow)
    return slow


@pytest.mark.parametrize("status", [404, 400, 405, 403])
async def test_a_refusal_of_every_call_by_the_proxy_is_an_outage(tmp_path: Path, warm: Warm, status: int) -> None:
    """Nothing is parked, nothing is learnt for a month, and all goes on when the proxy is well."""
    front = Front(server=f"if (-f @folder@/broken) {{ return {status}; }}")
    async with stacked(tmp_path, warm, front) as stack:
        stack.record(4, LARGE)
        slowed(stack)
        daemon = await stack.site.start("run")
        await stack.chunks(2)
        stack.nginx.switch("broken")
        began = await daemon.event("outage-began")
        assert f": answered {status} by something before VALT: '{status} " in began["reason"]
        assert began["again_in"] <= 2.0
        stack.site.simulator.faults.clear()
        stack.nginx.switch("broken", on=False)
        ended = await stack.finished(daemon)
        stack.arrived()
        assert events_of(ended, "upload-parked", "server-limit-learnt", "upload-started-over") == []
        assert len(outages(ended)) <= 2


async def test_a_sorry_page_in_place_of_a_502_is_no_yes(tmp_path: Path, warm: Warm) -> None:
    """``error_page 502 =200``: HTML with 200, as if a chunk had been taken, while the server is away."""
    async with stacked(tmp_path, warm, Front(server=SORRY), APPENDS) as stack:
        stack.record(2, LARGE)
        slowed(stack)
        daemon = await stack.site.start("run")
        await stack.chunks(2)
        port = int(stack.site.url.rpartition(":")[2])
        await stack.site.simulator.stop()
        began = await daemon.event("outage-began")
        assert "answered 200 with a page instead of VALT's answer (Service desk 4711)" in began["reason"]
        assert stack.kept() == set(stack.sent)
        stack.site.simulator.faults.clear()
        await stack.site.simulator.start(port=port)
        await stack.finished(daemon)
        stack.arrived()


async def test_a_server_that_is_killed_behind_the_proxy_goes_on_with_what_it_has(tmp_path: Path, warm: Warm) -> None:
    """``kill -9`` of the built-in server's own process, twice, and a new one on its port and folder each time."""
    folder = tmp_path / "killed"

    async def start(site: Site, port: str = "0") -> tuple[Process, str]:
        server = await site.launch("simulate", "--port", port, "--folder", folder, "--processing", "0")
        return server, (await server.line("VALT simulator at ")).split()[3]

    async with stacked(tmp_path, warm, Front(listen=""), upload='bandwidth = "8 Mbit/s"') as stack:
        server, url = await start(stack.site)
        stack.nginx.configure(Front(listen="", pass_on=f"proxy_pass {url};"))
        await stack.nginx.reload()
        stack.record(5, 2 * LARGE)
        daemon = await stack.site.start("run")
        for _ in range(2):
            await server.line("  bytes ")  # a chunk
            await server.stop(signal.SIGKILL)
            server, _ = await start(stack.site, url.rpartition(":")[2])
        await stack.finished(daemon)
        await server.stop()
        stack.holds(Simulator(folder, Settings(processing=0.0)).records())
        stack.done()


@pytest.mark.parametrize("which", ["in the middle", "the last"])
async def test_a_chunk_that_was_stored_though_the_proxy_gave_up_is_not_stored_twice(
    tmp_path: Path, warm: Warm, which: str
) -> None:
    """504 after ``proxy_read_timeout``. The last chunk's landing can be seen; one in the middle takes a new record."""
    async with stacked(tmp_path, warm, IMPATIENT, APPENDS) as stack:
        stack.record(1, LARGE)
        slow = Fault(call="upload", kind="stall", skip=CHUNKS - 1 if which == "the last" else 1)
        stack.site.simulator.faults.append(slow)
        ended = await stack.run("once")
        slow.release()
        assert ended.code == 0, ended.err
        stack.arrived()
        (doubt,) = events_of(ended, "upload-in-doubt")
        assert doubt["what"] == "upload chunk: answered 504 (504 Gateway Time-out)"
        if which == "the last":
            assert stack.calls("create") == 1
            (resolved,) = events_of(ended, "doubt-resolved")
            assert resolved["outcome"] == "the last chunk had landed"
        else:
            (again,) = events_of(ended, "upload-started-over")
            assert "raise the proxy's read time-out (nginx: proxy_read_timeout), or lower chunk_size" in again["reason"]


async def test_a_last_chunk_that_is_taken_up_late_is_waited_for(tmp_path: Path, warm: Warm) -> None:
    """The connection breaks (502), and the server stores the chunk only then: one record, and not a second one."""
    async with stacked(tmp_path, warm, settings=APPENDS) as stack:
        stack.record(1, LARGE)
        late = Fault(call="upload", kind="late", skip=CHUNKS - 1)
        stack.site.simulator.faults.append(late)
        daemon = await stack.site.start("run")
        doubt = await daemon.event("upload-in-doubt")
        assert doubt["what"] == "upload chunk: answered 502 (502 Bad Gateway)"
        before = stack.calls("details")
        await until(lambda: stack.calls("details") >= before + 3, "the server is asked, again and again")
        late.release()
        await stack.finished(daemon)
        stack.arrived()
        assert stack.calls("create") == 1


async def test_a_server_that_is_away_is_an_outage_in_the_words_of_the_proxys_own_page(
    tmp_path: Path, warm: Warm
) -> None:
    """502 with the page of the operator's proxy: its title is quoted, once, and nothing is parked."""
    page = 'internal; default_type text/html; return 502 "<title>St. Mary&#39;s: service desk 4711</title>";'
    front = Front(server=f"error_page 502 /away.html; location = /away.html {{ {page} }}")
    async with stacked(tmp_path, warm, front) as stack:
        stack.record(3)
        port = int(stack.site.url.rpartition(":")[2])
        await stack.site.simulator.stop()
        daemon = await stack.site.start("run")
        began = await daemon.event("outage-began")
        assert began["reason"] == "log-in: answered 502 (St. Mary's: service desk 4711)"
        await stack.site.simulator.start(port=port)
        ended = await stack.finished(daemon)
        stack.arrived()
        assert events_of(ended, "upload-parked") == []
        assert len(events_of(ended, "outage-began")) == 1


async def test_four_reloads_of_the_proxy_during_an_upload_are_not_noticed(tmp_path: Path, warm: Warm) -> None:
    """Its old workers end what they have begun: no chunk is in doubt, no record is begun anew."""
    async with stacked(tmp_path, warm, Front(workers=2)) as stack:
        stack.record(5, LARGE)
        slowed(stack)
        daemon = await stack.site.start("run")
        for reloads in range(4):
            await stack.chunks(2 * reloads + 1)
            await stack.nginx.reload()
        stack.site.simulator.faults.clear()
        ended = await stack.finished(daemon)
        stack.arrived()
        assert stack.calls("create") == len(stack.sent)
        assert events_of(ended, "upload-in-doubt", "upload-parked") == []


@pytest.mark.parametrize("semantics", [Semantics.OFFSET, Semantics.APPEND])
async def test_killed_workers_of_the_proxy_cost_no_recording_and_double_none(
    tmp_path: Path, warm: Warm, semantics: Semantics
) -> None:
    """``kill -9`` of all its workers, three times, in the middle of chunks."""
    async with stacked(tmp_path, warm, settings=Settings(processing=0.0, semantics=semantics)) as stack:
        stack.record(4, LARGE)
        slowed(stack)
        daemon = await stack.site.start("run")
        for kills in range(3):
            await stack.chunks(2 * kills + 1)
            await stack.nginx.kill_workers()
        stack.site.simulator.faults.clear()
        ended = await stack.finished(daemon)
        stack.arrived()
        assert events_of(ended, "upload-parked") == []


async def test_a_proxy_that_is_away_is_waited_for(tmp_path: Path, warm: Warm) -> None:
    """Killed as a whole, and started again: nothing listens meanwhile."""
    async with stacked(tmp_path, warm) as stack:
        stack.record(3, LARGE)
        slowed(stack)
        daemon = await stack.site.start("run")
        await stack.chunks(2)
        await stack.nginx.stop()
        await daemon.event("outage-began")
        stack.site.simulator.faults.clear()
        await stack.nginx.start()
        ended = await stack.finished(daemon)
        stack.arrived()
        assert len(events_of(ended, "outage-began")) == 1

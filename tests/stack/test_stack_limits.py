"""Limits of a real nginx: on the size of a request, on their number in a second, and on how long a request may take."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from nginx import Front
from process import until
from stack import LARGE, SMALL, events_of, outages, stacked
from warm import Warm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

LIMIT = "client_max_body_size 150k;"
SORRY = """
    error_page 413 =200 /sorry.html;
    location = /sorry.html { internal; default_type text/html; return 200 "<title>Service desk 4711</title>"; }
"""
SLOW = 'chunk_size = "256 KiB"\nbandwidth = "8 Mbit/s"'
A_413 = "upload chunk: answered 413 (413 Request Entity Too Large) to a request of"
WHOSE = "the limit of the proxy before VALT (nginx: client_max_body_size) is below that"


@pytest.mark.parametrize(
    "more",
    ["", "proxy_request_buffering off;", "lingering_close off;"],
    ids=["buffered", "passed on as it comes", "closed at once"],
)
async def test_a_limit_below_the_chunk_makes_chunks_smaller(tmp_path: Path, warm: Warm, more: str) -> None:
    """It answers 413 in the middle of a chunk. Half the size goes through; the log says so, and whose limit it is.

    With ``lingering_close off`` the answer may be lost in the reset of the connection: then the chunk counts as cut.
    """
    front = Front(location=f"{LIMIT} {more}")
    async with stacked(tmp_path, warm, front, upload='chunk_size = "256 KiB"') as stack:
        stack.record(3, 2 * LARGE)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        stack.arrived()
        sizes = {chunk.size for record in stack.site.records() for chunk in record.ranges}
        assert max(sizes) == 128 * 1024
        if "lingering" not in more:
            (learnt,) = events_of(ended, "server-limit-learnt")
            assert learnt["limit"].startswith("chunks of at most 128 KiB until ")
            for again in events_of(ended, "upload-started-over"):
                assert again["reason"].startswith(f"{A_413} 256 KiB: {WHOSE}; raise that limit, or set upload.chunk_")


async def test_a_413_in_the_guise_of_a_page_makes_chunks_smaller_within_the_record(tmp_path: Path, warm: Warm) -> None:
    """``error_page 413 =200``: nothing says that it is about the size, so the chunk counts as cut, four times.

    The line is so slow that the answer comes before the last byte: after it, the chunk would be in doubt.
    """
    front = Front(location=LIMIT, server=SORRY)
    async with stacked(tmp_path, warm, front, upload=SLOW) as stack:
        stack.record(1, 2 * LARGE)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        stack.arrived()
        assert stack.calls("create") == 1
        (reason,) = {line["reason"] for line in events_of(ended, "upload-retry-scheduled")}
        assert "answered 200 with a page instead of VALT's answer (Service desk 4711)" in reason
        assert reason.endswith("before its last byte")


async def test_a_whole_file_above_the_limit_is_parked_with_its_size_and_what_to_set(tmp_path: Path, warm: Warm) -> None:
    """``chunk_size = "whole"``: nothing smaller can be sent. Files below the limit arrive."""
    async with stacked(tmp_path, warm, Front(location=LIMIT), upload='chunk_size = "whole"') as stack:
        (large,), (small,) = stack.record(1, LARGE), stack.record(1, SMALL)
        ended = await stack.run("once")
        assert ended.code == 1
        assert ended.lines[0] == "1 uploaded now, 1 not ready"
        words = f"parked: {A_413} 196 KiB: {WHOSE}; raise that limit, or set upload.chunk_size below it"
        assert ended.lines[1].startswith(f"{large}: {words}; an operator must act (see the reason)")
        assert ended.lines[1].endswith(f"or at once after: valt-uploader retry {large}")
        assert stack.kept() == {large.stem}
        assert [record.name for record in stack.site.records() if record.sha256] == [small.stem]
        stack.configure(upload='chunk_size = "64 KiB"')
        assert (await stack.run("retry", large)).code == 0
        assert (await stack.run("once")).code == 0
        stack.arrived()


@pytest.mark.parametrize("status", [503, 429])
async def test_a_limited_rate_is_one_outage_and_slows_no_more_than_it_must(
    tmp_path: Path, warm: Warm, status: int
) -> None:
    """The ``limit_req`` of nginx sends no Retry-After. Few calls are refused, no download link is blamed."""
    zone = "limit_req_zone $binary_remote_addr zone=calls:1m rate=5r/s;"
    limit = f"limit_req zone=calls burst=6 nodelay; limit_req_status {status};"
    async with stacked(tmp_path, warm, Front(http=zone, location=limit)) as stack:
        stack.record(4)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        stack.arrived()
        refused = [line for line in stack.nginx.requests() if line.status == status]
        assert 0 < len(refused) <= 20
        assert outages(ended) in (["outage-began"], ["outage-began", "outage-ended"])
        assert events_of(ended, "proof-unavailable", "proof-available", "upload-in-doubt") == []
        waits = [line["again_in"] for line in events_of(ended, "outage-began", "upload-retry-scheduled")]
        assert max(waits) <= 8.0


async def test_a_slow_line_outlasts_a_short_client_body_timeout(tmp_path: Path, warm: Warm) -> None:
    """At 160 kbit/s a chunk takes longer than ``client_body_timeout``, but no pause within it does."""
    front = Front(server="client_body_timeout 1s;")
    async with stacked(tmp_path, warm, front, upload='bandwidth = "160 kbit/s"') as stack:
        stack.record(1, 50_000)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        stack.arrived()
        (chunk,) = stack.nginx.requests("/videos/")
        assert chunk.status == 201
        assert events_of(ended, "upload-retry-scheduled") == []


async def test_a_chunk_that_stood_still_too_long_is_sent_again_into_its_record(tmp_path: Path, warm: Warm) -> None:
    """The process is stopped for longer than ``client_body_timeout``: nginx gives the request up, unseen by VALT."""
    front = Front(server="client_body_timeout 1s; client_body_in_file_only clean;")
    async with stacked(tmp_path, warm, front, upload='bandwidth = "160 kbit/s"') as stack:
        stack.record(1, 50_000)
        daemon = await stack.site.start("run")
        await daemon.event("record-created")
        bodies = stack.nginx.folder / "temporary-body"
        await until(lambda: any(body.stat().st_size > SMALL for body in bodies.iterdir()), "half a chunk")
        daemon.send(signal.SIGSTOP)
        await until(lambda: bool(stack.nginx.requests("/videos/")), "nginx gives the request up")
        daemon.send(signal.SIGCONT)
        ended = await stack.finished(daemon)
        stack.arrived()
        assert [line.passed for line in stack.nginx.requests("/videos/")] == [False, True]
        assert stack.calls("create") == 1
        (again,) = events_of(ended, "upload-retry-scheduled")
        assert again["reason"].startswith("upload chunk: ")
        assert again["reason"].endswith("before its last byte")

"""Download links that lead to another port of a real nginx, as VALT's 8000: what they prove, and what fails there."""

from __future__ import annotations

from pathlib import Path

import pytest
from nginx import HOST, PASS_ON, Front
from stack import LARGE, events_of, stacked
from warm import Warm

from uploader.stages.prove import DOWNLOAD_PAUSE_FIRST
from uploader.testing.simulator import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

GZIP = "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; gzip_http_version 1.0;"

SORRY = 'return 200 "<html><head><title>Service desk 4711</title></head></html>";'


def second(server: str = "", location: str = "", *, listen: str = "ssl") -> Front:
    """Return an nginx that serves downloads on its second port; *server* and *location* are directives there."""
    inner = f"{server} location /distribution/ {{ {location} {PASS_ON} }}"
    return Front(http=f"server {{ listen {HOST}:@second-port@ {listen} reuseport; {inner} }}")


WORK = {
    "as any file": (second(), "here"),
    "HEAD is forbidden": (second("if ($request_method = HEAD) { return 405; }"), "here"),
    "only GET is allowed": (second(location="limit_except GET { deny all; }"), "here"),
    "compressed for whoever asks": (second(GZIP), "here"),
    "edited on the way, so that no length is sent": (second(location="ssi on; ssi_types *;"), "here"),
    "in pieces, without a length": (second(location="proxy_http_version 1.1;"), "no-length"),
    "slowly": (second(location="proxy_http_version 1.1; limit_rate 200k;"), "no-length"),
}


@pytest.mark.parametrize(("front", "kind"), WORK.values(), ids=WORK.keys())
async def test_what_a_download_hands_out_proves_the_arrival(
    tmp_path: Path, warm: Warm, front: Front, kind: str
) -> None:
    """By its size, or by every byte where no size is told."""
    settings = Settings(processing=0.0, download=kind)  # type: ignore[arg-type]  # one of two of its words
    async with stacked(tmp_path, warm, front, settings) as stack:
        stack.site.simulator.change(public_url=f"https://{HOST}:{stack.nginx.second_port}")
        stack.record(2, LARGE)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        stack.arrived()
        assert stack.proofs() == ({"bytes"} if kind == "no-length" else {"size"})
        assert events_of(ended, "proof-unavailable") == []


FAIL = {
    "nothing listens": (Front(), "https", "cannot be reached: Connection refused"),
    "forbidden": (second("return 403;"), "https", "answered 403 (Forbidden)"),
    "a bad gateway": (second("return 502;"), "https", "answered 502 (Bad Gateway)"),
    "a page": (
        second(f"error_page 403 =200 /sorry.html; location = /sorry.html {{ {SORRY} }}", "deny all;"),
        "https",
        "answered with a page instead of the video",
    ),
    "a page that is called a video": (second(SORRY), "https", "answered with a page instead of the video"),
    "without TLS": (second(listen=""), "http", "it leads out of TLS"),
}


@pytest.mark.parametrize(("front", "scheme", "words"), FAIL.values(), ids=FAIL.keys())
async def test_a_download_that_fails_keeps_the_recordings_until_it_works(
    tmp_path: Path, warm: Warm, front: Front, scheme: str, words: str
) -> None:
    """That is said once, with the address of the link; ``retry`` of one proves them all when it works."""
    async with stacked(tmp_path, warm, front) as stack:
        address = f"{scheme}://{HOST}:{stack.nginx.second_port}"
        stack.site.simulator.change(public_url=address)
        paths = stack.record(2, LARGE)
        daemon = await stack.site.start("run")
        said = await daemon.event("proof-unavailable")
        assert said["reason"].startswith(f"{'download link' if scheme == 'http' else address}: {words}")
        assert stack.kept() == set(stack.sent)
        status = await stack.run("status")
        assert "its arrival cannot be proven: " in status.out
        assert f": {words}" in status.out
        assert "the file is kept; open that address to this machine, or set proof" in status.out
        stack.site.simulator.change(public_url=stack.nginx.url)
        assert (await stack.run("retry", paths[0])).code == 0
        ended = await stack.finished(daemon)
        stack.arrived()
        assert len(events_of(ended, "proof-unavailable")) == 1
        (works,) = events_of(ended, "proof-available")
        assert works["after"] < DOWNLOAD_PAUSE_FIRST
        assert events_of(ended, "outage-began", "upload-parked", "upload-started-over", "server-limit-learnt") == []

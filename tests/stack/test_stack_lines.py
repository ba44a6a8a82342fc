"""Set-ups of a real nginx in which nothing is wrong: recordings arrive with no more requests than without them."""

from __future__ import annotations

from pathlib import Path

import pytest
from nginx import Front
from stack import LARGE, stacked
from warm import Warm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

WIDE = " ".join(f'add_header X-Padding-{number} "{"x" * 1000}" always;' for number in range(12))

FRONTS = {
    "three requests for each connection": Front(server="keepalive_requests 3;"),
    "one request for each connection": Front(server="keepalive_timeout 0;"),
    "one request for each connection, without TLS": Front(server="keepalive_timeout 0;", listen=""),
    "idle connections are closed after a second": Front(server="keepalive_timeout 1s;"),
    "TLS 1.2 only": Front(server="ssl_protocols TLSv1.2;"),
    "TLS 1.3 only": Front(server="ssl_protocols TLSv1.3;"),
    "HTTP/2 is offered": Front(listen="ssl http2"),
    "JSON is compressed for whoever asks": Front(
        server="gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; gzip_http_version 1.0;"
    ),
    "small buffers for requests' headers": Front(
        server="client_header_buffer_size 128; large_client_header_buffers 2 512;"
    ),
    "12 KiB of headers in each answer": Front(server=WIDE),
    "answers are passed on piece by piece": Front(location="proxy_buffering off; proxy_http_version 1.1;"),
    "requests are passed on piece by piece": Front(location="proxy_request_buffering off; proxy_http_version 1.1;"),
    "bodies are kept in files": Front(server="client_body_buffer_size 1k; client_body_in_file_only clean;"),
}


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS.keys())
async def test_a_set_up_in_which_nothing_is_wrong_costs_nothing(tmp_path: Path, warm: Warm, front: Front) -> None:
    """No call fails or is repeated, and no warning is logged."""
    async with stacked(tmp_path, warm, front) as stack:
        stack.record(3, LARGE)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        stack.arrived()
        assert ended.err.count('"warning"') == ended.err.count('"error"') == 0
        assert {line.status // 100 for line in stack.nginx.requests()} == {2}
        chunks = stack.nginx.requests("/videos/")
        assert len(chunks) == sum(len(record.ranges) for record in stack.site.records())


async def test_many_small_recordings_share_few_connections_and_one_log_in(tmp_path: Path, warm: Warm) -> None:
    """With four workers, over TLS."""
    async with stacked(tmp_path, warm) as stack:
        stack.record(30, 2_000)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        stack.arrived()
        assert len(stack.nginx.requests("/login")) == 1
        assert len({line.connection for line in stack.nginx.requests()}) <= 12

"""Something before the server answers in its place: it is named, and the password is not sent again and again."""

from __future__ import annotations

from pathlib import Path

import pytest
from nginx import Front
from process import until
from stack import Stack, events_of, outages, stacked
from warm import Warm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

PORTAL = 'default_type text/html; return 200 "<html><head><title>Guest Wi-Fi</title></head></html>";'
ELSEWHERE = "server { listen 127.0.0.1:@second-port@ ssl reuseport; location / { proxy_pass @upstream@; } }"
WORKERS = 4  # by default
BEFORE = "log-in: answered"
ANOTHER = "it demands a log-in of its own: let VALT's API pass without one"
TARGET = "set server.url to its target"
WHAT_IS_IT = "is server.url the VALT server itself, or does something stand before it?"

ANSWERS = {
    "a portal": (PORTAL, f"{BEFORE} 200 with a page instead of VALT's answer (Guest Wi-Fi); {WHAT_IS_IT}"),
    "other JSON": (
        'default_type application/json; return 200 "{\\"status\\": \\"ok\\"}";',
        f"{BEFORE} 200, but not as a VALT server does; {WHAT_IS_IT}",
    ),
    "nothing": ("return 204;", f"{BEFORE} 204, but not as a VALT server does; {WHAT_IS_IT}"),
    "a page about maintenance": (
        'default_type text/html; return 503 "<title>Back at noon</title>";',
        f"{BEFORE} 503 (Back at noon)",
    ),
    "auth_basic": (
        'auth_basic "staff"; auth_basic_user_file /dev/null;',
        f"{BEFORE} 401 by something before VALT: '401 Authorization Required'; {ANOTHER}",
    ),
    "deny": (
        "deny all;",
        f"{BEFORE} 403 by something before VALT: '403 Forbidden'; allow this machine to use VALT's API there",
    ),
    "301": (
        "return 301 https://127.0.0.1:@second-port@$request_uri;",
        f"{BEFORE} 301: a redirect to https://127.0.0.1:@second-port@, which is never followed; {TARGET}",
    ),
    "308": (
        "return 308 https://127.0.0.1:@second-port@$request_uri;",
        f"{BEFORE} 308: a redirect to https://127.0.0.1:@second-port@, which is never followed; {TARGET}",
    ),
}


@pytest.mark.parametrize(("answers", "words"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_to_the_log_in_that_is_not_valts_is_named_so(
    tmp_path: Path, warm: Warm, answers: str, words: str
) -> None:
    """``once`` ends with it, after one log-in; no redirect is followed, and the password is not called wrong."""
    async with stacked(tmp_path, warm, Front(server=answers, http=ELSEWHERE)) as stack:
        stack.record(2)
        ended = await stack.run("once")
        assert ended.code == 1
        (complaint,) = ended.complaints
        what, _, remedy = words.replace("@second-port@", str(stack.nginx.second_port)).partition("; ")
        assert complaint.startswith(f"error: {what}")
        assert complaint.endswith(remedy)
        assert len(stack.nginx.requests()) == 1
        assert stack.site.simulator.records() == []
        assert stack.kept() == set(stack.sent)
        assert "password" not in ended.err


def moments(stack: Stack) -> list[float]:
    """Return when log-ins were made. The workers that begin together may each make one."""
    found: list[float] = []
    for line in stack.nginx.requests():
        if not found or line.at - found[-1] > 0.5:
            found.append(line.at)
    return found


@pytest.mark.parametrize("answers", [PORTAL, "deny all;"], ids=["a portal", "deny"])
async def test_the_password_is_sent_ever_more_rarely_to_what_is_not_valt(
    tmp_path: Path, warm: Warm, answers: str
) -> None:
    """A daemon with eight recordings: each pause is longer than the one before, and it is one outage in the log."""
    switched = "if (-f @folder@/between) { return 418; }"
    front = Front(server=f"error_page 418 = @between; location @between {{ {answers} }}", location=switched)
    async with stacked(tmp_path, warm, front) as stack:
        stack.nginx.switch("between")
        stack.record(8)
        daemon = await stack.site.start("run")
        await until(lambda: len(moments(stack)) >= 3, "three log-ins")
        first, second, third = moments(stack)[:3]
        assert second - first >= 0.9
        assert third - second >= 1.9
        assert len(stack.nginx.requests()) <= WORKERS + 2
        assert {line.path for line in stack.nginx.requests()} == {"/api/v3/login"}
        assert len(daemon.events("outage-began")) == 1
        status = await stack.run("status")
        assert "answered" in status.out
        stack.nginx.switch("between", on=False)
        assert (await stack.run("retry")).code == 0
        ended = await stack.finished(daemon)
        stack.arrived()
        assert events_of(ended, "upload-parked") == []
        assert outages(ended)[:2] in (["outage-began"], ["outage-began", "outage-ended"])


async def test_a_refusal_of_the_version_alone_by_the_proxy_hinders_nothing(tmp_path: Path, warm: Warm) -> None:
    """``/admin/`` is what proxies forbid on purpose."""
    async with stacked(tmp_path, warm, Front(server="location /api/v3/admin/ { return 403; }")) as stack:
        stack.record(2)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        stack.arrived()
        assert outages(ended) == []

"""The meaning of a failed call: by call and status, with the server's words, and without secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import EPOCH
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain import errors
from uploader.server.valt import wire
from uploader.server.valt.wire import EXCERPT_LIMIT, ApiAnswer, ApiCall

Error = type[errors.UploaderError]
CHANGING = (ApiCall.CREATE, ApiCall.UPLOAD, ApiCall.DELETE)
ASKING = (ApiCall.DETAILS, ApiCall.LIST, ApiCall.LINK, ApiCall.DOWNLOAD, ApiCall.VERSION)
ABOUT_A_RECORD = (ApiCall.UPLOAD, ApiCall.DETAILS, ApiCall.LINK, ApiCall.DOWNLOAD, ApiCall.DELETE)
EVERY = tuple(ApiCall)


def failure(call: ApiCall, status: int, body: Any = b"", **headers: str) -> errors.UploaderError:
    """What this answer means."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.failure(call, ApiAnswer(status, named, raw), now=EPOCH)


TABLE: list[tuple[tuple[ApiCall, ...], tuple[int, ...], Error]] = [
    (EVERY, (300, 301, 302, 303, 304, 307, 308), errors.ServerDown),
    ((ApiCall.LOGIN,), (401,), errors.PasswordRefused),
    ((*CHANGING, *ASKING), (401,), errors.TokenExpired),
    (EVERY, (403,), errors.RightMissing),
    (EVERY, (405, 409, 411, 415, 416, 422), errors.ServerRefused),
    (ABOUT_A_RECORD, (404,), errors.RecordGone),
    ((ApiCall.LOGIN, ApiCall.CREATE, ApiCall.LIST, ApiCall.VERSION), (404,), errors.ServerRefused),
    ((ApiCall.UPLOAD,), (400,), errors.ChunkRefused),
    (tuple(call for call in EVERY if call is not ApiCall.UPLOAD), (400,), errors.ServerRefused),
    ((ApiCall.UPLOAD,), (413,), errors.ChunkTooLarge),
    (tuple(call for call in EVERY if call is not ApiCall.UPLOAD), (413,), errors.ServerRefused),
    (EVERY, (429,), errors.ServerBusy),
    (EVERY, (408, 425, 503), errors.ServerDown),
    (EVERY, (507,), errors.ServerFull),
    (CHANGING, (500, 501, 502, 504), errors.AnswerLost),
    (ASKING, (500,), errors.CallFailed),
    ((ApiCall.LOGIN,), (500,), errors.ServerDown),
    ((ApiCall.LOGIN, *ASKING), (501, 502, 504), errors.ServerDown),
]


@pytest.mark.parametrize(
    ("call", "status", "kind"),
    [(call, status, kind) for calls, statuses, kind in TABLE for call in calls for status in statuses],
    ids=lambda value: getattr(value, "label", None) or getattr(value, "__name__", None) or str(value),
)
def test_each_call_and_status_has_its_meaning(call: ApiCall, status: int, kind: Error) -> None:
    """The table of protocol.md: who must act, and whether the work may have been done nevertheless."""
    error = failure(call, status)
    assert type(error) is kind
    assert str(error).startswith((f"{call.label}: answered {status}", "the server refused the log-in"))


def test_a_busy_server_says_for_how_long() -> None:
    """429 always, 503 when it has a time: seconds or a date, at most an hour."""
    for status in (429, 503):
        error = failure(ApiCall.UPLOAD, status, retry_after="120")
        assert isinstance(error, errors.ServerBusy)
        assert error.retry_after == 120.0
    later = failure(ApiCall.LIST, 503, retry_after="Fri, 15 Jan 2027 08:00:30 GMT")
    assert isinstance(later, errors.ServerBusy)
    assert later.retry_after == 30.0
    unsaid = failure(ApiCall.LIST, 429)
    assert isinstance(unsaid, errors.ServerBusy)
    assert unsaid.retry_after == 60.0


def test_a_form_that_php_emptied_is_a_request_too_large() -> None:
    """Rule 5: *not transferred* is what PHP's post_max_size causes; any other 400 is about the range."""
    large = {"data": {"message": "The chunk file was not transferred"}, "code": 400}
    ranged = {"data": {"message": "Invalid Content-Range header value"}, "code": 400}
    assert type(failure(ApiCall.UPLOAD, 400, large)) is errors.ChunkTooLarge
    assert type(failure(ApiCall.UPLOAD, 400, ranged)) is errors.ChunkRefused


@pytest.mark.parametrize(
    "body", [{"data": "Invalid request payload"}, {"error": {"message": "invalid Request Payload."}}]
)
def test_a_client_error_sent_as_500_is_a_refusal(body: Any) -> None:
    """No record was made, so nothing is in doubt; it may still be transient."""
    error = failure(ApiCall.CREATE, 500, body)
    assert type(error) is errors.PayloadRefused
    assert "look at [watch.record]" in error.hint


@pytest.mark.parametrize("words", ["No space left on device", "SQLSTATE: disk full", "Disk quota exceeded"])
def test_a_500_for_a_full_disk_is_a_server_failure(words: str) -> None:
    """It counts against no file; a call that changes something is in doubt."""
    for call in CHANGING:
        assert type(failure(call, 500, {"data": words})) is errors.NoRoom
    for call in (ApiCall.LOGIN, *ASKING):
        assert type(failure(call, 500, {"data": words})) is errors.ServerFull


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://other.example/login?access_token=s3cr3t", " to https://other.example, which"),
        ("http://valt.example:8080/s3cr3t", " to http://valt.example:8080, which"),
        ("https://s3cr3t:s3cr3t@other.example/", " to https://other.example, which"),
        ("/api/v3/s3cr3t", "a redirect, which"),
        ("javascript:s3cr3t", "a redirect, which"),
        ("https://[s3cr3t", "a redirect, which"),
        ("https://other.example:s3cr3t/", "a redirect, which"),
        ("", "a redirect, which"),
    ],
)
def test_a_redirect_is_named_by_its_origin_alone(location: str, named: str) -> None:
    """Path, query and a part before an @ may be secrets."""
    for call in ApiCall:
        error = failure(call, 302, b"s3cr3t", location=location)
        assert type(error) is errors.ServerDown
        assert named in str(error)
        assert "s3cr3t" not in str(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"code": 401, "message": "No API key provided"}}, "No API key provided"),
        ({"type": "https://tools.ietf.org", "title": "An error", "status": 404, "detail": "Not Found"}, "Not Found"),
        (
            {"data": {"message": "The chunk file was not transferred"}, "code": 400},
            "The chunk file was not transferred",
        ),
        ({"data": "Invalid username or password"}, "Invalid username or password"),
        ({"title": "An error occurred"}, "An error occurred"),
        ({"message": "plain"}, "plain"),
        ("just a text", "just a text"),
        (
            b"<html><head><title>413 Request&nbsp;Entity\n Too Large</title></head>x</html>",
            "413 Request Entity Too Large",
        ),
        (b"<p>Bad <b>gateway</b></p>", "Bad gateway"),
        (b"plain text", "plain text"),
        (b"", ""),
        (b"null", ""),
        (b"[]", ""),
        (b"{", "{"),
        ({"data": {"code": 7}}, ""),
        ({"data": {"error": {"error": {"message": "deeper than any of the four"}}}}, ""),
        (b"\xff\xfe\x00", "\ufffd\ufffd\\x00"),
    ],
)
def test_the_error_text_of_an_answer_is_found(body: Any, words: str) -> None:
    """In all four shapes, in a proxy's HTML, or there is none."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert wire.message_of(ApiAnswer(400, {}, raw)) == words


def test_an_error_text_of_the_server_is_escaped() -> None:
    """One line, bounded, without control or bidi characters."""
    said = str(failure(ApiCall.LIST, 400, {"message": "a\nb\x1b[31m\u202e" + "x" * 1000}))
    assert said.startswith("list records: answered 400 (a\\x0ab\\x1b[31m\\u202e")
    assert len(said) < EXCERPT_LIMIT + 40


@pytest.mark.parametrize(
    "body",
    [
        {"detail": 'No route found for "GET https://valt/api/v3/x?access_token=s3cr3t"'},
        {"message": "bad query access_token=s3cr3t&x=1"},
        {"message": "bad ACCESS_TOKEN%3Ds3cr3t here"},
        b"<title>404 /api/v3/x?access_token=s3cr3t</title>",
        b"GET http://valt/x?access_token=s3cr3t HTTP/1.1",
    ],
)
def test_an_echoed_url_is_not_repeated(body: Any) -> None:
    """Some servers quote the request's URL, which contains the token."""
    for call in ApiCall:
        assert "s3cr3t" not in str(failure(call, 500, body)) + str(failure(call, 404, body))


@given(st.sampled_from(ApiCall), st.integers(300, 599), st.binary(max_size=300))
def test_every_failed_call_is_a_known_error(call: ApiCall, status: int, body: bytes) -> None:
    """Whatever is returned, it has the call and the status."""
    error = failure(call, status, body)
    assert isinstance(error, errors.UploaderError)
    assert "\n" not in str(error)


def test_a_deeply_nested_answer_is_a_failure_without_text() -> None:
    """It raises no other error."""
    for depth in (1, 50, 500, 900, 5000, 100_000):
        body = b'{"message":' * depth + b'"x"' + b"}" * depth
        assert isinstance(failure(ApiCall.LIST, 500, body), errors.CallFailed)

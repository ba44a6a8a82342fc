"""The meaning of a failed call: by call and status, with the server's words, and without secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import EPOCH
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain import errors
from uploader.server.valt import failures
from uploader.server.valt.answer import (
    EXCERPT_LIMIT,
    ApiAnswer,
    ApiCall,
    excerpt,
    has_failure_shape,
    is_page,
    message_of,
)

Error = type[errors.UploaderError]
CHANGING = (ApiCall.CREATE, ApiCall.UPLOAD, ApiCall.DELETE)
ASKING = (ApiCall.DETAILS, ApiCall.LIST, ApiCall.LINK, ApiCall.VERSION)
ABOUT_A_RECORD = (ApiCall.UPLOAD, ApiCall.DETAILS, ApiCall.LINK, ApiCall.DELETE)
EVERY = (ApiCall.LOGIN, *CHANGING, *ASKING)
OWN_WORDS = {"error": {"code": 400, "message": "no"}}


def answer(status: int, body: Any = b"", **headers: str) -> ApiAnswer:
    """An answer with this body: bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ApiAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def failure(call: ApiCall, status: int, body: Any = OWN_WORDS, **headers: str) -> errors.UploaderError:
    """What this answer means; without a *body* it has VALT's shape."""
    return failures.failure(call, answer(status, body, **headers), now=EPOCH, size=17_000_000)


TABLE: list[tuple[tuple[ApiCall, ...], tuple[int, ...], Error]] = [
    (EVERY, (300, 301, 302, 303, 304, 307, 308), errors.ServerDown),
    ((ApiCall.LOGIN,), (401,), errors.PasswordRefused),
    ((*CHANGING, *ASKING), (401,), errors.TokenExpired),
    (EVERY, (403,), errors.RightMissing),
    (EVERY, (409, 411, 415, 416, 422), errors.ServerRefused),
    (tuple(call for call in EVERY if call is not ApiCall.CREATE), (405,), errors.ServerRefused),
    ((ApiCall.CREATE,), (405,), errors.NamelessOnly),
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


NOT_VALTS: list[Any] = [
    b"<html><head><title>404 Not Found</title></head></html>",
    b"404 page not found",
    b"",
    b"{}",
    b"null",
    b"[]",
    {"message": "no Route matched with those values"},
    {"timestamp": 1, "status": 404, "error": "Not Found", "path": "/api/v3/login"},
    {"error": {"code": 404}},
    {"data": None},
    {"data": {"code": 404}},
    {"data": ["text"]},
    {"detail": ["text"]},
]


@pytest.mark.parametrize("body", NOT_VALTS, ids=repr)
def test_a_refusal_without_valts_shape_is_a_proxys(body: Any) -> None:
    """It says nothing of a file, a record or a range, and names who said it."""
    for status in (400, 403, 404, 405):
        for call in EVERY:
            error = failure(call, status, body)
            # the version is optional, and its path is one that proxies forbid on purpose
            assert type(error) is (errors.ServerRefused if call is ApiCall.VERSION else errors.ProxyAnswered)
            assert str(error).startswith(f"{call.label}: answered {status} by something before VALT")


def test_a_proxys_own_words_are_quoted() -> None:
    """Its title, or its JSON; and what to do there."""
    error = failure(ApiCall.CREATE, 404, NOT_VALTS[0])
    assert error.what == "create record: answered 404 by something before VALT: '404 Not Found'"
    assert "does it pass VALT's API on" in error.hint
    assert failure(ApiCall.CREATE, 404, b"").what.endswith("before VALT, without a word of VALT's")
    assert "allow this machine" in failure(ApiCall.LOGIN, 403, b"<h1>403 Forbidden</h1>").hint


@given(st.sampled_from([call for call in EVERY if call is not ApiCall.VERSION]), st.integers(400, 405), st.binary())
def test_whatever_is_not_json_is_never_valts_refusal(call: ApiCall, status: int, body: bytes) -> None:
    """No bytes outside its four shapes blame a file, end a record or teach anything about ranges."""
    said = answer(status, body)
    if status in failures.SHAPED and not has_failure_shape(said):
        assert type(failures.failure(call, said, now=EPOCH)) is errors.ProxyAnswered


@given(st.text(), st.dictionaries(st.text(), st.integers()), st.sampled_from([400, 403, 404, 405]))
def test_valts_shapes_are_known_with_any_words_and_more_keys(words: str, more: dict[str, int], status: int) -> None:
    """Each of the four, and a message of its own beside any other key."""
    shapes: list[dict[str, Any]] = [
        {"error": {"code": status, "message": words}},
        {"title": "An error occurred", "status": status, "detail": words},
        {"data": {"message": words}, "code": status},
        {"data": words},
    ]
    for shape in shapes:
        assert has_failure_shape(answer(status, more | shape))
        assert type(failure(ApiCall.DETAILS, status, more | shape)) is not errors.ProxyAnswered


def test_other_refusals_are_a_proxys_only_as_a_page() -> None:
    """A 409 or 422 of another shape may be VALT's; a 413 to a chunk is right whoever says it."""
    page = NOT_VALTS[0]
    for status in (402, 409, 411, 415, 422, 431, 451):
        assert type(failure(ApiCall.CREATE, status, page)) is errors.ProxyAnswered
        assert type(failure(ApiCall.CREATE, status, {"errors": {"name": "empty"}})) is errors.ServerRefused
    assert type(failure(ApiCall.CREATE, 413, page)) is errors.ProxyAnswered
    assert type(failure(ApiCall.UPLOAD, 413, page)) is errors.ChunkTooLarge
    assert type(failure(ApiCall.UPLOAD, 429, page)) is errors.ServerBusy


@pytest.mark.parametrize(
    ("body", "kind", "page"),
    [
        (b"", "text/html; charset=UTF-8", False),
        (b" \r\n", "text/html", False),
        (b'{"files":[]}', "text/html", False),
        (b"1", "text/html", False),
        (b"Sorry, we are closed", "text/html; charset=utf-8", True),
        (b"Sorry, we are closed", "TEXT/HTML", True),
        (b"Sorry, we are closed", "text/plain", False),
        (b"<!DOCTYPE html><title>x</title>", "application/json", True),
        (b"\xef\xbb\xbf\n <html>", "", True),
        (b"\x1f\x8b compressed", "text/html", True),
        (b"\x00\x01", "", False),
    ],
)
def test_a_page_is_known_by_its_type_or_its_first_character(body: bytes, kind: str, page: bool) -> None:
    """JSON and an empty body are none, whatever PHP calls them."""
    assert is_page(answer(200, body, content_type=kind)) is page


def test_a_413_says_what_was_too_large_and_whose_limit_that_is() -> None:
    """With the size of the request, the setting of the proxy, and the setting here."""
    said = str(failure(ApiCall.UPLOAD, 413, b"<title>413 Request Entity Too Large</title>"))
    assert said.startswith("upload chunk: answered 413 (413 Request Entity Too Large) to a request of 16.2 MiB: ")
    assert "nginx: client_max_body_size" in said
    assert "raise that limit, or set upload.chunk_size below it" in said
    assert "PHP: upload_max_filesize" in str(failure(ApiCall.UPLOAD, 400, {"data": "The file is too large."}))


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
    assert unsaid.retry_after == 1.0


def test_a_form_that_php_emptied_is_a_request_too_large() -> None:
    """Rule 5: *not transferred* is what PHP's post_max_size causes; any other 400 is about the range."""
    large = {"data": {"message": "The chunk file was not transferred"}, "code": 400}
    ranged = {"data": {"message": "Invalid Content-Range header value"}, "code": 400}
    assert type(failure(ApiCall.UPLOAD, 400, large)) is errors.ChunkTooLarge
    symfony = {"data": {"message": "The file is too large. Allowed maximum size is 2M."}, "code": 400}
    assert type(failure(ApiCall.UPLOAD, 400, symfony)) is errors.ChunkTooLarge
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
    assert message_of(ApiAnswer(400, {}, raw)) == words


def test_an_error_text_of_the_server_is_escaped() -> None:
    """One line, bounded, without control or bidi characters."""
    said = str(failure(ApiCall.LIST, 400, {"detail": "a\nb\x1b[31m\u202e" + "x" * 1000}))
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


@pytest.mark.parametrize("piece", ["a", "access_token", "http:", "<", "&", " \n", "é"])
def test_a_long_answer_is_made_safe_in_time_that_grows_with_its_length(piece: str) -> None:
    """A mebibyte without a blank is searched once; a search that begins anew at each letter would take hours."""
    shown = excerpt(piece * (2**20 // len(piece)))
    assert len(shown) <= EXCERPT_LIMIT + 1
    assert "access_token" not in shown

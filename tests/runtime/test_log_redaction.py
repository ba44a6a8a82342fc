"""No secret is written to the log: not in a message, argument, field, trace-back or library's line."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_state import log_as_before
from yarl import URL

from uploader.domain.model import shown
from uploader.runtime import log

TOKEN = "tok-canary.4f1d_eyJhbGciOi"
PASSWORD = 'päss w%rd/"canary"\\+\u202e'
OURS = log.get_logger("uploader.test")
THEIRS = logging.getLogger("aiohttp.client")


@contextmanager
def logged(fmt: log.Format) -> Iterator[io.StringIO]:
    """The log in memory, with a redactor of its own; logging is as before afterwards."""
    with log_as_before():
        stream = io.StringIO()
        log.configure("debug", fmt, environ={}, stream=stream)
        yield stream


@pytest.fixture(params=["json", "console"])
def output(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """The log in both formats, after token and password have been remembered."""
    with logged(request.param) as stream:
        log.redactor.remember(PASSWORD)
        log.redactor.remember(TOKEN)
        yield stream


def as_event(secret: str) -> None:
    """Say it."""
    OURS.info(f"logging in with {secret}")


def as_field(secret: str) -> None:
    """Hand it over as a field, a key, and deep inside a field."""
    OURS.info("logging in", answer=secret, deep={"list": [(secret,)], secret: 1}, object=slice(secret))


def as_argument(secret: str) -> None:
    """Let a library interpolate it."""
    THEIRS.warning("GET %s failed with %r", f"http://h/?x={secret}", {"a": secret})


def as_extra(secret: str) -> None:
    """Let a library attach it to the record."""
    THEIRS.warning("GET failed", extra={"url": secret})


def as_exception(secret: str) -> None:
    """Log an exception with it, with a cause and inside a group."""
    exc = ExceptionGroup(secret, [ValueError(secret)])
    exc.__cause__ = OSError(5, secret)
    OURS.error("failed", error=exc, exc_info=exc)
    THEIRS.error("failed", exc_info=exc)


def as_logger_name(secret: str) -> None:
    """Let a library name its logger after it."""
    logging.getLogger(f"client.{secret}").warning("failed")


def at_the_cut(secret: str) -> None:
    """Place it where a long text is cut off, so that only a part of it would be left."""
    OURS.info("x" * (log.MESSAGE_LIMIT - 10) + secret, text="x" * 290 + secret)


CHANNELS = [as_event, as_field, as_argument, as_extra, as_exception, as_logger_name, at_the_cut]
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda secret: quote(secret, safe=""),
    "percent in lower case": lambda secret: re.sub("%..", lambda code: code[0].lower(), quote(secret, safe="")),
    "percent, twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "form": quote_plus,
    "yarl": lambda secret: str(URL("http://h/").with_query(x=secret)),
    "repr": repr,
    "ascii": ascii,
    "json": json.dumps,
    "json in json": lambda secret: json.dumps(json.dumps(secret)),
    "shown": shown,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("secret", [TOKEN, PASSWORD], ids=["token", "password"])
def test_a_remembered_secret_is_never_written(
    output: io.StringIO, secret: str, channel: Callable[[str], None], form: Callable[[str], str]
) -> None:
    """However it gets into a line and however it is encoded, no part of it is in the output."""
    channel(form(secret))
    written = output.getvalue()
    assert written
    assert "canary" not in written
    assert "eyJ" not in written


UNKNOWN = [
    "https://h/api/v3/records?access_token=s3cret",
    "https://h/x?a=1&Access_Token=s3cret&b=2",
    "next=%2Fx%3Faccess_token%3Ds3cret",
    "password=s3cret",
    '{"access_token": "s3cret"}',
    "{'data': {'access_token': 's3cret word \\' end'}}",
    r"\"access_token\": \"s3cret\"",
    '"password":"s3cret',
    "token: 's3cret'",
]


@pytest.mark.parametrize("text", UNKNOWN)
def test_a_value_with_a_telling_name_is_masked_in_any_text(output: io.StringIO, text: str) -> None:
    """Although it is not known as a secret: in a URL, a JSON text or a quoted one."""
    OURS.info(text, body=text, path=[text])
    OURS.error("failed", exc_info=ValueError(text))
    THEIRS.warning("answer: %s", text)
    assert "s3cret" not in output.getvalue()
    assert "***" in output.getvalue()


def test_a_field_with_a_telling_name_is_masked(output: io.StringIO) -> None:
    """A field called password is masked whatever its value is."""
    OURS.info("logging in", password=1234567, body={"Access_Token": ["s3cret"]})
    assert "1234567" not in output.getvalue()
    assert "s3cret" not in output.getvalue()


def test_the_text_around_a_secret_is_kept() -> None:
    """Only the secret is masked."""
    redactor = log.Redactor()
    redactor.remember("hunter22")
    assert redactor.clean("GET /x?access_token=abc&limit=5 as hunter22!") == "GET /x?access_token=***&limit=5 as ***!"


def test_the_last_sixteen_secrets_are_masked() -> None:
    """A secret that is used again counts as new, so that the password outlives many tokens."""
    redactor = log.Redactor()
    redactor.remember("the-password")
    for number in range(100, 115):
        redactor.remember(f"token-{number}")
    redactor.remember("the-password")
    redactor.remember("token-115")
    assert redactor.clean("the-password token-115 token-101 token-100") == "*** *** *** token-100"


@pytest.mark.parametrize("secret", ["", "a", "abc"])
def test_a_secret_of_a_few_letters_is_not_searched_for(secret: str) -> None:
    """Masking every "a" would garble the log; under a telling name it is still masked."""
    redactor = log.Redactor()
    redactor.remember(secret)
    assert redactor.clean("a cab, abc") == "a cab, abc"
    assert redactor.clean("password=abc") == "password=***"


PIECES = st.lists(
    st.sampled_from(
        ["token", "password", "=", "%3D", ":", " ", '"', "'", "\\", "\n", "é", "***", PASSWORD, "12345", "x" * 290]
    ),
    max_size=12,
).map("".join)


@given(event=PIECES, field=PIECES, number=st.sampled_from([12345, 1123456, 0.12345]))
def test_masking_never_breaks_a_line(event: str, field: str, number: float) -> None:
    """Quotes, backslashes and half-quoted secrets in any order: one event is one line of valid JSON."""
    with logged("json") as stream:
        log.redactor.remember(PASSWORD)
        log.redactor.remember("12345")
        OURS.info(event, field=field, number=number)
    (line,) = stream.getvalue().splitlines()
    assert [*json.loads(line)] == ["time", "level", "event", "logger", "field", "number"]
    assert "canary" not in line
    assert "12345" not in line

"""The body of an answer as VALT meant it: unpacked, and without what PHP has printed around its JSON."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.server.valt.content import CUT_OFF, NOT_JSON, content_of, unpacked, words_of

LIMIT = 1 << 20
GOOD = b'{"data": {"id": "rec-1", "name": "M\xc3\xbcller"}}'
HTML_NOTICE = b"<br />\n<b>Notice</b>:  Undefined index: foo in <b>/var/www/valt/x.php</b> on line <b>12</b><br />\n"
TEXT_NOTICE = b"\nWarning: Undefined array key {x} in /var/www/valt/x.php on line 7\n"
FATAL = b"PHP Fatal error:  Uncaught Error: no in /x.php:3\nStack trace:\n#0 {main}\n  thrown in /x.php on line 3\n"


def zipped(body: bytes) -> bytes:
    """gzip, the same bytes each time."""
    return gzip.compress(body, mtime=0)


def raw_deflate(body: bytes) -> bytes:
    """The format that RFC 9110 does not mean, and some servers send."""
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return engine.compress(body) + engine.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (GOOD, ""),
        (GOOD, "identity"),
        (zipped(GOOD), "gzip"),
        (zipped(GOOD), "X-GZIP "),
        (zipped(GOOD), ""),
        (zipped(GOOD), "identity"),
        (zlib.compress(GOOD), "deflate"),
        (raw_deflate(GOOD), "deflate"),
    ],
)
def test_a_compressed_body_is_unpacked(body: bytes, encoding: str) -> None:
    """Also one that is not named so: no text begins as gzip does."""
    assert unpacked(body, encoding, LIMIT) == (GOOD, "")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", ""])
def test_an_empty_body_is_not_compressed(encoding: str) -> None:
    """Whatever its header says."""
    assert unpacked(b"", encoding, LIMIT) == (b"", "")


@pytest.mark.parametrize(
    ("body", "encoding", "flaw"),
    [
        (b"\x0b\x02\x80", "br", "compressed with br, which was not asked for"),
        (b"x", "gzip, br", "compressed with gzip, br, which"),
        (b"x", "\x00" * 100, "compressed with something unknown"),
        (b"no gzip at all", "gzip", "compression is damaged"),
        (zipped(GOOD)[:-9], "gzip", "was cut off"),
        (zipped(b"[" * 10 * LIMIT), "gzip", f"unpacks to more than {LIMIT} bytes"),
        (zipped(b"[" * 10 * LIMIT), "", f"unpacks to more than {LIMIT} bytes"),
    ],
)
def test_what_cannot_be_unpacked_is_named(body: bytes, encoding: str, flaw: str) -> None:
    """In words; and no more than the limit is ever unpacked."""
    plain, said = unpacked(body, encoding, LIMIT)
    assert flaw in said
    assert len(plain) <= LIMIT


@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br", "x"]))
def test_no_bytes_raise_anything(body: bytes, encoding: str) -> None:
    """Nor do they yield more than the limit."""
    assert len(unpacked(body, encoding, 100)[0]) <= max(100, len(body))


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        b"\xef\xbb\xbf" + GOOD,
        HTML_NOTICE + GOOD,
        TEXT_NOTICE + GOOD,
        b"PHP Deprecated:  x in /x.php on line 1\n" + GOOD,
        b"\xef\xbb\xbf" + HTML_NOTICE * 3 + TEXT_NOTICE + GOOD,
        GOOD + HTML_NOTICE,
        GOOD + TEXT_NOTICE,
        HTML_NOTICE + GOOD + HTML_NOTICE,
    ],
)
def test_the_json_of_valt_is_found_beside_notices_of_php(body: bytes) -> None:
    """Before it, behind it, several, with and without HTML, after a byte order mark."""
    found = content_of(body)
    assert found.document == json.loads(GOOD)
    assert bool(found.notice) is (b" on line " in body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        HTML_NOTICE,
        HTML_NOTICE + GOOD[:-1],
        HTML_NOTICE + b"Sorry " + GOOD,
        HTML_NOTICE + GOOD + b"<p>more</p>",
        FATAL + GOOD,
        GOOD + FATAL,
        GOOD + GOOD,
        b"<html><title>x</title></html>" + GOOD,
        b"Notice: we are closed. " + GOOD,
        b"Sorry, error on line 7\n" + GOOD,
        b"{" * 100_000,
    ],
)
def test_json_beside_anything_else_is_none(body: bytes) -> None:
    """A page around it, a notice that does not end, half of it, two of it, or PHP has failed."""
    assert content_of(body).document is NOT_JSON


def test_a_failure_of_php_is_told_from_a_page() -> None:
    """By its words, with and without HTML."""
    assert content_of(FATAL).notice.startswith("PHP Fatal error: Uncaught Error: no in /x.php:3")
    assert content_of(HTML_NOTICE).notice.startswith("Notice : Undefined index: foo in /var/www/valt/x.php on line 12")
    assert content_of(b"<html>Warning: wet floor</html>").notice == ""


@given(st.binary(max_size=300))
def test_whatever_is_json_by_itself_is_taken_as_it_is(body: bytes) -> None:
    """No other bytes raise anything."""
    found = content_of(body)
    try:
        expected = json.loads(body)
    except (ValueError, RecursionError):
        assert found.document is NOT_JSON or b" on line " in body
    else:
        assert found.document == expected or found.document != found.document


@pytest.mark.parametrize(
    ("page", "charset", "words"),
    [
        ("<title>Geschützt</title>".encode("latin-1"), "", "Geschützt"),
        ("<title>Geschützt – „nein“</title>".encode("cp1252"), "iso-8859-1", "Geschützt – „nein“"),
        ('<meta charset="windows-1252"><title>Geschützt</title>'.encode("cp1252"), "", "Geschützt"),
        ("<title>Geschützt 禁止</title>".encode(), "", "Geschützt 禁止"),
        (b"<style>p {color: red}</style><script>alert(1)</script><p>Bad <b>gateway</b></p>", "", "Bad gateway"),
        (b"<script>" + b"x" * 5000, "", ""),
    ],
)
def test_the_words_of_a_page_are_read_in_its_own_charset(page: bytes, charset: str, words: str) -> None:
    """Its title, or its text without styles and scripts."""
    assert words_of(page, charset) == words


def test_the_words_for_a_cut_are_one_text() -> None:
    """What is cut off counts as an answer to a chunk, so it is compared with."""
    assert CUT_OFF.startswith("with a ")

"""How file names and texts from outside are shown."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath

import pytest
from fakes import a_finish
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain.model import SHOWN_TEXT_LIMIT, Identity, shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a b.mp4", "a b.mp4"),
        ("Übung 1 – тест 録画.mp4", "Übung 1 – тест 録画.mp4"),
        ("a\nb\r.mp4", "a\\x0ab\\x0d.mp4"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("evil\u202egpm.exe", "evil\\u202egpm.exe"),
        ("line\u2028para\u2029", "line\\u2028para\\u2029"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("bad\udcff\udc80byte", "bad\\xff\\x80byte"),
        ("lone\ud800", "lone\\ud800"),
        ("👩\u200d🚀", "👩\u200d🚀"),
    ],
)
def test_a_name_is_shown_on_one_line_with_control_characters_escaped(name: str, text: str) -> None:
    """Letters of every script stay; bidi characters and invalid UTF-8 are escaped, too."""
    assert shown(name) == text


def test_a_path_is_shown_like_its_text() -> None:
    """A ``Path`` can be passed as it is."""
    assert shown(PurePath("/rec/a\n.mp4")) == "/rec/a\\x0a.mp4"


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    """At the limit; a text that fits exactly is left alone."""
    assert shown("x" * SHOWN_TEXT_LIMIT) == "x" * SHOWN_TEXT_LIMIT
    assert shown("x" * (SHOWN_TEXT_LIMIT + 1)) == "x" * (SHOWN_TEXT_LIMIT - 1) + "…"
    assert shown("abcdef", 4) == "abc…"


@given(st.text(st.characters(), max_size=400))
def test_whatever_is_shown_can_be_printed(text: str) -> None:
    """Every text becomes one line, encodable, bounded, and free of control and bidi characters."""
    safe = shown(text)
    safe.encode("utf-8")
    assert len(safe) <= SHOWN_TEXT_LIMIT
    assert len(safe.splitlines()) <= 1
    assert all(unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"} for char in safe)
    assert not set(safe) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


@given(st.binary(max_size=60))
def test_every_name_that_a_disk_can_hold_can_be_shown(name: bytes) -> None:
    """Its bytes come back as they were, and the shown form can be printed."""
    text = name.decode("utf-8", "surrogateescape")
    assert text.encode("utf-8", "surrogateescape") == name
    shown(text).encode("utf-8")


def test_a_ledger_line_has_the_identity_of_the_sent_file() -> None:
    """As the file was when it was sent."""
    assert a_finish(size=7, mtime_ns=8, edges="e").identity == Identity(7, 8, "e")

"""Parses and checks texts with placeholders, like ``"{room} {mtime:%H:%M}"``. Pure.

``str.format`` is not used: with it a placeholder in the configuration could reach attributes and indices of objects.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from string import Formatter
from typing import Final

from uploader.domain.model import shown

MTIME_FORMAT: Final = "%Y-%m-%d %H:%M"
NAMES: Final = ("name", "stem", "suffix")  # of a file, and allowed in ``done_marker``
PLACEHOLDERS: Final = (*NAMES, "folder", "relpath", "mtime")

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class TemplatePiece:
    """A part of a text: literal text, then a placeholder's name (None at the end) and the format after its colon."""

    literal: str
    name: str | None = None
    spec: str = ""


def pieces(text: str) -> list[TemplatePiece]:
    """Split *text* at its placeholders; ``{{`` and ``}}`` are braces.

    Raises ValueError, with a message for the operator, when it is not well formed.
    """
    try:
        parsed = list(Formatter().parse(text))
    except ValueError:
        raise ValueError("a brace is not closed or not opened; write {{ or }} for the character itself") from None
    found = []
    for literal, name, spec, conversion in parsed:
        if name is not None:
            _check_shape(name, spec or "", conversion)
        found.append(TemplatePiece(literal, name, spec or ""))
    return found


def _check_shape(name: str, spec: str, conversion: str | None) -> None:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"{{{shown(name)}}} is not a placeholder; a placeholder is one name, like {{stem}}")
    if conversion:
        raise ValueError(f'"!{shown(conversion)}" after {{{name}}} is not supported')
    if not spec:
        return
    if name != "mtime":
        raise ValueError(f"only {{mtime:…}} takes a format, not {{{name}}}")
    if "{" in spec or "}" in spec or "\0" in spec:
        raise ValueError(f"the format of {{mtime:…}} is like {MTIME_FORMAT}, without braces in it")


def check_placeholders(text: str, groups: Collection[str] | None) -> None:
    """Raise ValueError when *text* is not well formed or names an unknown placeholder.

    *groups*: the named groups of ``match``; ``None``: they are not known, so every name passes.
    """
    for piece in pieces(text):
        if piece.name is None or piece.name in PLACEHOLDERS or groups is None or piece.name in groups:
            continue
        known = [*PLACEHOLDERS, *groups]
        near = get_close_matches(piece.name, known, n=1)
        hint = f"did you mean {{{near[0]}}}?" if near else "known are " + " ".join(f"{{{name}}}" for name in known)
        raise ValueError(f"unknown placeholder {{{piece.name}}}; {hint}")


def check_names(text: str) -> None:
    """Raise ValueError when *text* is not well formed or holds more than ``{name}``, ``{stem}`` and ``{suffix}``."""
    for piece in pieces(text):
        if piece.name is not None and piece.name not in NAMES:
            known = " ".join(f"{{{name}}}" for name in NAMES)
            raise ValueError(f"unknown placeholder {{{piece.name}}}; known are {known}")


def fill_names(text: str, name: str) -> str:
    """Fill a text that ``check_names`` has accepted from a file's *name*."""
    stem, dot, suffix = name.rpartition(".")
    parts = {"name": name, "stem": stem or name, "suffix": dot + suffix if stem else ""}
    return "".join(piece.literal + parts.get(piece.name or "", "") for piece in pieces(text))


def parse_match(value: object) -> object:
    """Compile the regular expression of a rule. Anything but a text is returned as it is, for validation to refuse.

    Raises ValueError with the place of the fault, or when a group has the name of a placeholder.
    """
    if not isinstance(value, str):
        return value
    try:
        pattern = re.compile(value)
    except re.error as error:
        place = "" if error.pos is None else f" at character {error.pos + 1}"
        raise ValueError(f"not a regular expression: {error.msg}{place}") from None
    except (OverflowError, RecursionError):
        raise ValueError("not a regular expression that can be used: it is too large") from None
    if taken := sorted(pattern.groupindex.keys() & set(PLACEHOLDERS)):
        raise ValueError(f"the group name {taken[0]} is taken by the placeholder {{{taken[0]}}}; choose another")
    return pattern

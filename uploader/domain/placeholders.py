"""Parses and checks texts with placeholders, like ``"{room} {mtime:%H:%M}"``, and has the table of them. Pure.

``PLACEHOLDERS`` is the one list: the configuration is checked against it, and ``mapping`` fills texts from it. A named
group of ``match`` comes before a placeholder of the same name, so that a placeholder added later changes nothing in a
configuration that uses its name for a group.

``str.format`` is not used: with it a placeholder in the configuration could reach attributes and indices of objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import PurePosixPath
from string import Formatter
from typing import Final

from uploader.domain.model import shown

MTIME_FORMAT: Final = "%Y-%m-%d %H:%M"

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EARLIEST, _LATEST = -30_000_000_000.0, 253_000_000_000.0  # the years 1019 to 9987: every time zone can write them


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What placeholders are filled from: the path below the watched folder, and the mtime in Unix seconds."""

    path: PurePosixPath
    mtime: float = 0.0

    @property
    def suffix(self) -> str:
        """The last dot of the name and what follows it; a leading dot begins no suffix."""
        stem, dot, suffix = self.path.name.rpartition(".")
        return dot + suffix if stem else ""

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.path.name.removesuffix(self.suffix)


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What a placeholder yields for a file, given what follows its colon."""

    value: Callable[[FileFacts, str], str]
    takes_format: bool = False
    in_markers: bool = False  # it follows from the file's name alone, so ``done_marker`` may use it, too


def _folder(file: FileFacts, _: str) -> str:
    return "" if str(file.path.parent) == "." else str(file.path.parent)


def _local_time(file: FileFacts, spec: str) -> str:
    """The mtime in this machine's time zone. Shares report absurd times; those are brought into range."""
    moment = datetime.fromtimestamp(min(max(file.mtime, _EARLIEST), _LATEST), UTC).astimezone()
    return moment.strftime(spec or MTIME_FORMAT)


PLACEHOLDERS: Final[Mapping[str, Placeholder]] = {
    "name": Placeholder(lambda file, _: file.path.name, in_markers=True),
    "stem": Placeholder(lambda file, _: file.stem, in_markers=True),
    "suffix": Placeholder(lambda file, _: file.suffix, in_markers=True),
    "folder": Placeholder(_folder),
    "relpath": Placeholder(lambda file, _: str(file.path)),
    "mtime": Placeholder(_local_time, takes_format=True),
}


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
    if name not in PLACEHOLDERS or not PLACEHOLDERS[name].takes_format:
        known = " and ".join(f"{{{each}:…}}" for each, placeholder in PLACEHOLDERS.items() if placeholder.takes_format)
        raise ValueError(f"only {known} takes a format, not {{{name}}}")
    if "{" in spec or "}" in spec or "\0" in spec:
        raise ValueError(f"the format of {{{name}:…}} is like {MTIME_FORMAT}, without braces in it")


def check_placeholders(text: str, groups: Collection[str] | None) -> None:
    """Raise ValueError when *text* is not well formed or names an unknown placeholder.

    *groups*: the named groups of ``match``; ``None``: they are not known, so every name passes.
    """
    for piece in pieces(text):
        if piece.name is None or groups is None:
            continue
        if piece.name in groups and piece.spec:
            raise ValueError(f"{{{piece.name}}} is a named group of match here, and takes no format")
        if piece.name in groups or piece.name in PLACEHOLDERS:
            continue
        known = list(dict.fromkeys([*PLACEHOLDERS, *groups]))
        near = get_close_matches(piece.name, known, n=1)
        hint = f"did you mean {{{near[0]}}}?" if near else "known are " + " ".join(f"{{{name}}}" for name in known)
        raise ValueError(f"unknown placeholder {{{piece.name}}}; {hint}")


def check_names(text: str) -> None:
    """Raise ValueError when *text* is not well formed or needs more of a file than its name."""
    known = [name for name, placeholder in PLACEHOLDERS.items() if placeholder.in_markers]
    for piece in pieces(text):
        if piece.name is not None and piece.name not in known:
            hint = " ".join(f"{{{name}}}" for name in known)
            raise ValueError(f"unknown placeholder {{{piece.name}}}; known are {hint}")


def fill_names(text: str, name: str) -> str:
    """Fill a text that ``check_names`` has accepted from a file's *name*."""
    file = FileFacts(PurePosixPath(name))
    return "".join(
        piece.literal + ("" if piece.name is None else PLACEHOLDERS[piece.name].value(file, piece.spec))
        for piece in pieces(text)
    )


def parse_match(value: object) -> object:
    """Compile the regular expression of a rule. Anything but a text is returned as it is, for validation to refuse.

    Raises ValueError with the place of the fault.
    """
    if not isinstance(value, str):
        return value
    try:
        return re.compile(value)
    except re.error as error:
        place = "" if error.pos is None else f" at character {error.pos + 1}"
        raise ValueError(f"not a regular expression: {error.msg}{place}") from None
    except (OverflowError, RecursionError):
        raise ValueError("not a regular expression that can be used: it is too large") from None

"""Makes the record of a file: the operator's rule ``[watch.record]``, within the server's limits. Pure.

No file is refused. Whatever its name holds, the record's name has 1 to ``RECORD_NAME_LIMIT`` characters, encodes to
UTF-8 and is one line.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

from uploader.domain.model import RecordSharing, RecordSpec, shown
from uploader.domain.placeholders import PLACEHOLDERS, FileFacts, pieces

RECORD_NAME_LIMIT: Final = 255  # characters of a record's name, which a text column of such servers holds
# characters of a template value: the server names no limit; this keeps requests small
TEMPLATE_VALUE_LIMIT: Final = 1000
FALLBACK_NAME: Final = "recording"  # the record's name when the file's name leaves nothing

_DIGEST: Final = 8  # hexadecimal digits; they tell apart two names that begin with the same 246 characters

# What SMB clients write for characters that Windows forbids in names, and what each stands for. A share that such a
# client has written to shows the private-use characters. Two tables are in use:
# * Services for Macintosh: macOS, Samba's vfs_fruit, Linux with ``mapposix`` (fs/smb/client/cifs_unicode.h: SFM_…)
# * 0xF000 + character: Services for Unix, Cygwin, Linux with ``mapchars``, many set-ups of Samba's vfs_catia (UNI_…)
# Where both give a meaning (U+F020 and U+F022), that of macOS counts, which is far more common.
_SFM: Final = dict(zip(range(0xF020, 0xF02A), '"*:<>?\\| .', strict=True))  # the last two: at the end of a name
_BY_OFFSET: Final = {0xF000 + code: chr(code) for code in (*range(0x01, 0x20), *b'"*./:<>?\\|')}
PRIVATE_USE: Final = str.maketrans(_BY_OFFSET | _SFM)

ValueOf = Callable[[str, str], str | None]  # of a name, and of what follows its colon


@dataclass(frozen=True, slots=True)
class Mapped:
    """The record to create. ``warning``: what the operator should know about its name."""

    record: RecordSpec
    warning: str | None = None


class RecordRule(Protocol):
    """What the record of a file is made from: a ``[watch.record]`` of the configuration."""

    @property
    def match(self) -> re.Pattern[str] | None:
        """The pattern whose groups are placeholders."""

    @property
    def name(self) -> str:
        """The record's name, with placeholders."""

    @property
    def template(self) -> Mapping[str, str]:
        """The template's fields, with placeholders."""

    @property
    def share(self) -> RecordSharing:
        """Who sees the record."""


def record_for(rule: RecordRule, *, relpath: str, mtime: float) -> Mapped:
    """Return the record for the file *relpath* (below its watched folder), last modified at *mtime* (Unix seconds).

    ``match`` must match the whole relative path without its suffix or, failing that, the bare stem, so that a rule
    about names need not mention folders. When neither matches, everything that needs a named group is left out: the
    name becomes the stem, the template keeps the fields that need no group, and ``warning`` says so. Empty template
    fields are not sent.
    """
    relpath = unicodedata.normalize("NFC", relpath)
    file = FileFacts(PurePosixPath("/".join(_as_meant(part) for part in relpath.split("/"))), mtime)
    groups = _groups(rule.match, file)

    def value_of(name: str, spec: str) -> str | None:
        if rule.match is not None and name in rule.match.groupindex:  # it comes before a placeholder of its name
            return None if groups is None else groups[name]
        return PLACEHOLDERS[name].value(file, spec) if name in PLACEHOLDERS else None

    name = _filled(rule.name, value_of)
    fields = {key: _filled(text, value_of) for key, text in rule.template.items()}
    cleaned = {key: cut(clean(text or ""), TEMPLATE_VALUE_LIMIT) for key, text in fields.items()}
    template = {key: text for key, text in cleaned.items() if text}
    record = RecordSpec(name=_first_name(name or "", file.stem), template=template, share=rule.share)
    if groups is not None or rule.match is None:
        return Mapped(record)
    left_out = [f"template field {shown(key)}" for key, text in fields.items() if text is None]
    if name is None:
        left_out.insert(0, "the name")
    return Mapped(record, _no_match(rule.match.pattern, relpath, left_out))


def _no_match(pattern: str, relpath: str, left_out: list[str]) -> str:
    effect = f"the rule is not used for {', '.join(left_out)}" if left_out else "nothing depends on it"
    return f"match = '{shown(pattern)}' does not match {shown(relpath)}: {effect}"


def _groups(rule: re.Pattern[str] | None, file: FileFacts) -> dict[str, str] | None:
    """Return the named groups for this file; ``None`` when the rule does not match, or there is none."""
    if rule is None:
        return None
    match = rule.fullmatch(str(file.path).removesuffix(file.suffix)) or rule.fullmatch(file.stem)
    return None if match is None else match.groupdict(default="")


def _filled(text: str, value_of: ValueOf) -> str | None:
    """Fill the placeholders of *text*; ``None`` when one of them has no value for this file."""
    result = []
    for piece in pieces(text):
        result.append(piece.literal)
        if piece.name is None:
            continue
        if (value := value_of(piece.name, piece.spec)) is None:
            return None
        result.append(value)
    return "".join(result)


def _as_meant(name: str) -> str:
    """Return a name with what its private-use characters stand for, unless it would be another path then."""
    meant = name.translate(PRIVATE_USE).replace("/", "\uf02f")
    return name if meant in {".", ".."} else meant


def clean(text: str) -> str:
    """Return *text* trimmed, on one line, without control or bidi characters, in Unicode's composed form (NFC)."""
    trimmed = unicodedata.normalize("NFC", text.translate(PRIVATE_USE)).strip()
    return unicodedata.normalize("NFC", shown(trimmed, limit=8 * len(trimmed) + 1))  # a character shows as 8 at most


def cut(text: str, limit: int) -> str:
    """Return *text* in at most *limit* characters; a cut text ends in a digest of the whole, so it stays unique."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
    return f"{text[: limit - _DIGEST - 1].rstrip()}~{digest}"


def _first_name(*candidates: str) -> str:
    cleaned = (clean(text) for text in candidates)
    return cut(next((text for text in cleaned if text), FALLBACK_NAME), RECORD_NAME_LIMIT)

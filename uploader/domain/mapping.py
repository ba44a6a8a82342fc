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
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Final

from uploader.config import RecordConfig
from uploader.domain.model import RecordSpec, shown
from uploader.domain.placeholders import MTIME_FORMAT, pieces

RECORD_NAME_LIMIT: Final = 255  # characters of a record's name, which a text column of such servers holds
# characters of a template value: the server names no limit; this keeps requests small
TEMPLATE_VALUE_LIMIT: Final = 1000
FALLBACK_NAME: Final = "recording"  # the record's name when the file's name leaves nothing

_DIGEST: Final = 8  # hexadecimal digits; they tell apart two names that begin with the same 246 characters
_EARLIEST, _LATEST = -30_000_000_000.0, 253_000_000_000.0  # the years 1019 to 9987, which every time zone can show

Values = Mapping[str, str | Callable[[str], str]]


@dataclass(frozen=True, slots=True)
class Mapped:
    """The record to create. ``warning``: what the operator should know about its name."""

    record: RecordSpec
    warning: str | None = None


def record_for(rule: RecordConfig, *, relpath: str, mtime: float) -> Mapped:
    """Return the record for the file *relpath* (below its watched folder), last modified at *mtime* (Unix seconds).

    ``match`` must match the whole relative path without its suffix or, failing that, the bare stem, so that a rule
    about names need not mention folders. When neither matches, everything that needs a named group is left out: the
    name becomes the stem, the template keeps the fields that need no group, and ``warning`` says so. Empty template
    fields are not sent.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", relpath))
    values: dict[str, str | Callable[[str], str]] = {
        "name": path.name,
        "stem": path.stem,
        "suffix": path.suffix,
        "folder": "" if str(path.parent) == "." else str(path.parent),
        "relpath": str(path),
        "mtime": lambda spec: _local_time(mtime, spec),
    }
    groups = _groups(rule.match, path)
    known = values if groups is None else {**values, **groups}
    name = _filled(rule.name, known)
    fields = {key: _filled(text, known) for key, text in rule.template.items()}
    cleaned = {key: cut(clean(text or ""), TEMPLATE_VALUE_LIMIT) for key, text in fields.items()}
    template = {key: text for key, text in cleaned.items() if text}
    record = RecordSpec(name=_first_name(name or "", path.stem), template=template, share=rule.share)
    if groups is not None or rule.match is None:
        return Mapped(record)
    left_out = [f"template field {shown(key)}" for key, text in fields.items() if text is None]
    if name is None:
        left_out.insert(0, "the name")
    return Mapped(record, _no_match(rule.match.pattern, relpath, left_out))


def _no_match(pattern: str, relpath: str, left_out: list[str]) -> str:
    effect = f"the rule is not used for {', '.join(left_out)}" if left_out else "nothing depends on it"
    return f"match = '{shown(pattern)}' does not match {shown(relpath)}: {effect}"


def _groups(rule: re.Pattern[str] | None, path: PurePosixPath) -> dict[str, str] | None:
    """Return the named groups for this file; ``None`` when the rule does not match, or there is none."""
    if rule is None:
        return None
    match = rule.fullmatch(str(path).removesuffix(path.suffix)) or rule.fullmatch(path.stem)
    return None if match is None else match.groupdict(default="")


def _filled(text: str, values: Values) -> str | None:
    """Fill the placeholders of *text*; ``None`` when one of them has no value for this file."""
    result = []
    for piece in pieces(text):
        result.append(piece.literal)
        if piece.name is None:
            continue
        if piece.name not in values:
            return None
        value = values[piece.name]
        result.append(value if isinstance(value, str) else value(piece.spec))
    return "".join(result)


def _local_time(mtime: float, spec: str) -> str:
    """Format *mtime* in local time; shares report absurd times, which are brought into range."""
    moment = datetime.fromtimestamp(min(max(mtime, _EARLIEST), _LATEST), UTC).astimezone()
    return moment.strftime(spec or MTIME_FORMAT)


def clean(text: str) -> str:
    """Return *text* trimmed, on one line, without control or bidi characters, in Unicode's composed form (NFC)."""
    trimmed = unicodedata.normalize("NFC", text).strip()
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

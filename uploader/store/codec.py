r"""Encodes and decodes ``state.json`` and the lines of ``ledger.jsonl``. Pure.

Nothing is guessed: what does not have its type raises ``UnreadableContent`` with the place and what was expected.
Names that are not UTF-8 are written as lone surrogates in JSON escapes (``\\udcff``), so every path is read back as
it was. The common validation libraries refuse such strings, so none is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Final, NewType, Protocol, TypeVar

from uploader.domain import lifecycle
from uploader.domain.model import MountIdentity, Orphan, ServerCapabilities, State, Upload

FORMAT: Final = "valt-uploader state"
VERSION: Final = 1

Nanoseconds = NewType("Nanoseconds", int)  # of every ``mtime_ns``; shares report years like 1601 or 2446
MOMENT_LIMIT: Final = 2**96  # ns; more than 2^63 seconds

SAVED_AS: Final = {"last_error": "trouble", "action_by": "turn"}  # the keys that files have had from the beginning
_FIELDS: Final = {key: name for name, key in SAVED_AS.items()}

T = TypeVar("T")


class UnreadableContent(ValueError):  # noqa: N818 - it says what the file is
    """The content of a file cannot be what this program wrote."""


class NewerVersion(UnreadableContent):
    """The file was written by a newer version of this program."""


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """Where the ledger ends. Its chain alone cannot show that lines are missing at the end."""

    count: int  # lines
    last: str  # sha256 (hex) of the last one, without its line feed; zeros when there is no line


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """Everything that ``state.json`` holds. ``sequence`` counts the saves.

    ``ledger``: where the ledger ended at that save; None in an old state that does not say.
    """

    sequence: int = 0
    uploads: tuple[Upload, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    capabilities: ServerCapabilities = field(default_factory=ServerCapabilities)
    ledger: LedgerHead | None = None
    mount_identities: tuple[MountIdentity, ...] = ()
    paused: tuple[str, ...] = ()  # files and folders that the operator has paused


class Rest(Protocol):
    """The small parts of a state, which are encoded at each save."""

    @property
    def capabilities(self) -> ServerCapabilities:
        """What was learnt about the server."""

    @property
    def mount_identities(self) -> tuple[MountIdentity, ...]:
        """The file system of each watched folder."""

    @property
    def paused(self) -> tuple[str, ...]:
        """What the operator has paused."""


def encode_head(sequence: int, sha256: str, *, now: float) -> bytes:
    """Encode the first line. *sha256*: of everything after it, in hex; *now*: Unix seconds."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "sequence": sequence,
        "saved": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "sha256": sha256,
    }
    return json.dumps(head)[:-1].encode("ascii") + b",\n"


def encode_rest(rest: Rest, ledger: LedgerHead | None) -> bytes:
    """Encode everything after the last orphan."""
    identities = ",\n".join("  " + to_json(identity) for identity in rest.mount_identities)
    tail = "" if ledger is None else f',\n "ledger": {to_json(ledger)}'
    return (
        f'\n ],\n "homes": [\n{identities}\n ],\n'
        f' "paused": {json.dumps(rest.paused)},\n "learnt": {to_json(rest.capabilities)}{tail}\n}}\n'
    ).encode("ascii")


def encode_state(saved: StateSnapshot, *, now: float) -> bytes:
    """Encode a whole state, one upload to a line. ``statewriter`` does the same for repeated saves."""
    uploads = ",\n".join("  " + to_json(upload) for upload in saved.uploads)
    orphans = ",\n".join("  " + to_json(orphan) for orphan in saved.orphans)
    lists = f' "uploads": [\n{uploads}\n ],\n "orphans": [\n{orphans}'.encode("ascii")
    content = lists + encode_rest(saved, saved.ledger)
    return encode_head(saved.sequence, hashlib.sha256(content).hexdigest(), now=now) + content


def decode_state(content: bytes) -> StateSnapshot:
    """Decode the state. Raises ``UnreadableContent``, or ``NewerVersion`` for an unknown version."""
    document = _parse(content)
    if document.get("format") != FORMAT:
        raise UnreadableContent("it is not a state file of valt-uploader")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UnreadableContent("its version is not a number")
    if version > VERSION:
        raise NewerVersion(f"it was written by a newer valt-uploader (version {version}; this one knows {VERSION})")
    # Without a checksum (somebody has edited the file and removed it) only the types are checked.
    checksum, rest = document.get("sha256"), content.partition(b"\n")[2]
    if checksum is not None and checksum != hashlib.sha256(rest).hexdigest():
        raise UnreadableContent("its checksum does not match its content")
    saved = StateSnapshot(
        sequence=build(int, document.get("sequence"), "sequence"),
        uploads=build(tuple[Upload, ...], document.get("uploads"), "uploads"),
        orphans=build(tuple[Orphan, ...], document.get("orphans"), "orphans"),
        capabilities=build(ServerCapabilities, document.get("learnt"), "learnt"),
        ledger=build(LedgerHead, document["ledger"], "ledger") if "ledger" in document else None,
        # the first release wrote none
        mount_identities=build(tuple[MountIdentity, ...], document.get("homes", []), "homes"),
        paused=build(tuple[str, ...], document.get("paused", []), "paused"),  # nor any of these
    )
    _check(saved)
    return saved


def _check(saved: StateSnapshot) -> None:
    paths = [upload.path for upload in saved.uploads]
    if len(set(paths)) != len(paths):
        raise UnreadableContent("uploads: a path appears twice")
    for index, upload in enumerate(saved.uploads):
        if upload.state is State.DONE:
            raise UnreadableContent(f"uploads[{index}]: a finished upload belongs in the ledger")
        if broken := lifecycle.broken_rule(upload):
            raise UnreadableContent(f"uploads[{index}]: {broken}")


def _parse(content: bytes) -> dict[str, Any]:
    if not content.strip(b"\0 \n"):
        raise UnreadableContent("it is empty")
    try:
        document = json.loads(content, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UnreadableContent(f"it is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UnreadableContent("it is not a JSON object")
    return document


def _no_constant(name: str) -> float:
    raise UnreadableContent(f"{name} is no number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise UnreadableContent("a key appears twice")
    return document


def to_json(value: Any) -> str:
    """Encode a dataclass of ``model`` as one line of ASCII. None, and rare flags that are false, are left out."""
    rare = _rare(value.__class__)
    return _ENCODE({key: item for key, item in _plain(value).items() if item is not None and (item or key not in rare)})


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name. ``asdict`` copies deeply and is nearly three times as slow."""
    return {SAVED_AS.get(name, name): getattr(value, name) for name in types_of(value.__class__)}


_ENCODE: Final = json.JSONEncoder(allow_nan=False, default=_plain).encode


def from_json(kind: type[T], line: bytes) -> T:
    """Decode what ``to_json`` wrote. Raises ``UnreadableContent``."""
    return build(kind, _parse(line), kind.__name__.lower())


def build(kind: type[T], value: Any, where: str) -> T:
    """Make a *kind* from parsed JSON. Raises ``UnreadableContent`` with the place that does not fit.

    Supports what ``model`` uses: dataclasses, enums, literals, optional values, tuples and dicts of strings.
    """
    return typing.cast("T", _build(kind, value, where))


def _build(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # only ``X | None`` is used
        return None if value is None else _build(arguments[0], value, where)
    if origin is typing.Literal:
        return _expect(value in arguments, value, where, " or ".join(map(repr, arguments)))
    if origin is tuple:
        _expect(isinstance(value, list), value, where, "a list")
        return tuple(_build(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), value, where, "an object")
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if kind is Nanoseconds:
        good = isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOMENT_LIMIT
        return _expect(good, value, where, "a whole number")
    if issubclass(kind, Enum):
        return kind(_expect(value in list(kind), value, where, "one of " + ", ".join(kind)))
    if kind is float:
        # Compared before it is converted: JSON has whole numbers that no float can hold.
        good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
        return float(_expect(good, value, where, "a number"))
    if kind is int:
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        return _expect(good, value, where, "a whole number, not negative")
    return _expect(type(value) is kind, value, where, {str: "a text", bool: "true or false"}[kind])


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, where, "an object")
    hints = {SAVED_AS.get(name, name): hint for name, hint in types_of(kind).items()}
    required = {SAVED_AS.get(name, name) for name in _required(kind)}
    if unknown := value.keys() - hints.keys():
        raise UnreadableContent(f"{where}: unknown {', '.join(sorted(unknown))}")
    if missing := required - value.keys():
        raise UnreadableContent(f"{where}: missing {', '.join(sorted(missing))}")
    return kind(
        **{_FIELDS.get(name, name): _build(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    )


@cache  # for few classes: without it the type hints take ten times as long as all the rest
def types_of(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name, without the fields that are not saved."""
    hints = typing.get_type_hints(kind)
    saved = [each.name for each in dataclasses.fields(kind) if each.metadata.get("saved", True)]
    return {name: Nanoseconds if name == "mtime_ns" else hints[name] for name in saved}


@cache
def _rare(kind: Any) -> frozenset[str]:
    return frozenset(each.name for each in dataclasses.fields(kind) if each.metadata.get("rare"))


@cache
def _required(kind: Any) -> frozenset[str]:
    """Return the names of the fields that have no default."""
    missing = dataclasses.MISSING
    return frozenset(
        each.name for each in dataclasses.fields(kind) if each.default is missing and each.default_factory is missing
    )


def _expect(good: bool, value: Any, where: str, wanted: str) -> Any:
    if not good:
        # Of lists and objects only the type is shown: deeply nested ones cannot be printed.
        got = type(value).__name__ if isinstance(value, list | dict) else repr(str(value)[:40])
        raise UnreadableContent(f"{where}: expected {wanted}, got {got}")
    return value

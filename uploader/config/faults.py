"""Describes faults of the configuration: what is wrong with a value, and what to write instead.

Pure. Never repeats a value that may be a password in the wrong place. Does not mention Python types.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from uploader.config.models import Config
from uploader.domain.units import quoted

Loc = tuple[int | str, ...]  # the path to a value: ("watch", 0, "settle")

# Keys whose values are never repeated: the value may be a password in the wrong place, or JSON that holds one.
_NEVER_SHOWN: Final = frozenset({"url", "password_file", "proxy", "proxy_username", "proxy_password_file"})
# Kinds of pydantic's errors that mean: a table or a list is wanted.
_TABLE_OR_LIST_WANTED: Final = frozenset(
    {"model_type", "model_attributes_type", "tuple_type", "dict_type", "dataclass_type"}
)


def fault_text(item: ErrorDetails) -> str:
    """Describe one of pydantic's errors in plain words. The caller adds where it is."""
    loc, kind, value = item["loc"], item["type"], item["input"]
    keys, expected = _described(loc)
    match kind:
        case "value_error":
            text = str(item["ctx"]["error"])
        case "extra_forbidden" | "unexpected_keyword_argument":
            text = f"unknown key; {near(str(loc[-1]), keys) or 'known here are ' + ', '.join(sorted(keys))}"
        case "missing":
            text = f"is missing; give {expected}"
        case "literal_error":
            text = f"expected {item['ctx']['expected']}".replace("'", '"') + f", got {quoted(value)}"
        case _ if isinstance(value, str) and kind in _TABLE_OR_LIST_WANTED:
            text = f"expected {expected}, got plain text (in the environment, lists and tables are JSON)"
        case _ if loc[-1] in _NEVER_SHOWN:
            text = f"expected {expected}, got something else"
        case _:
            text = f"expected {expected}, got {quoted(value)}"
    return text


def near(name: str, known: Collection[str]) -> str:
    """Suggest the most similar of the *known* names, as a question; empty when none is similar."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {matches[0]}?" if matches else ""


def _described(loc: Loc) -> tuple[Collection[str], str]:
    """Return the keys of the table that the value at *loc* is in, and a description of the expected value."""
    table: type | None = Config
    keys: Collection[str] = ()
    expected = "another kind of value"
    for part in loc:
        if isinstance(part, str) and table is not None:
            keys = keys_of(table)
            field = table.model_fields.get(part) if issubclass(table, BaseModel) else None
            expected = (field and field.description) or expected
            table = table_in(field.annotation) if field else None
    return keys, expected


def table_in(annotation: Any) -> type | None:
    """Return the model or dataclass that *annotation* is, or is a list of."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and (issubclass(candidate, BaseModel) or is_dataclass(candidate)):
            return candidate
    return None


def keys_of(table: type | None) -> list[str]:
    """Return the keys of a model or dataclass; none when there is no table."""
    if table is None:
        return []
    return list(table.model_fields if issubclass(table, BaseModel) else table.__annotations__)


def watch_faults(watch: object, need_watch: bool) -> list[tuple[Loc, str]]:
    """Return the faults of the list of folders as a whole; those of its entries are not checked here."""
    if not isinstance(watch, list):
        return []
    if need_watch and not watch:
        return [(("watch",), 'at least one folder is required; add [[watch]] with path = "/srv/recordings"')]
    found: list[tuple[Loc, str]] = []
    first: dict[Path, int] = {}
    for index, entry in enumerate(watch):
        text = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(text, str) and (at := first.setdefault(Path(text), index)) != index:
            found.append((("watch", index, "path"), f"the same folder as watch[{at}].path; remove one of them"))
    return found

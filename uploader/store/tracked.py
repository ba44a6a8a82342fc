"""A mapping that notes which of its keys have changed, so that a save encodes the changes alone. Not thread-safe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, ValuesView
from typing import TypeVar

V = TypeVar("V")


class Tracked(MutableMapping[str, V]):
    """Values by key. The initial values count as changed."""

    def __init__(self, values: Mapping[str, V]) -> None:
        self._values = dict(values)
        self._changed: dict[str, V | None] = dict(values)

    def take_changes(self) -> dict[str, V | None]:
        """Return what has changed since the last call, in the order of the changes; None: the key was removed."""
        changed, self._changed = self._changed, {}
        return changed

    def __getitem__(self, key: str) -> V:
        return self._values[key]

    def __setitem__(self, key: str, value: V) -> None:
        self._values[key] = value
        self._changed.pop(key, None)
        self._changed[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._changed.pop(key, None)
        self._changed[key] = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> ValuesView[V]:
        """Return a view of the values; the inherited one looks each of them up by its key, which is slower."""
        return self._values.values()

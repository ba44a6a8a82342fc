"""Marks tests as slow that start a process, or a whole application with its server; all others are quick.

A test is slow by what its code can reach: the names that it, its fixtures and its helpers mention. So a new test needs
no mark. A quick test that starts a process nevertheless fails (``Guard``).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import pytest

HERE: Final = Path(__file__).parent
SLOW_MODULES: Final = frozenset({"harness", "process", "warm", "mountspace", "subprocess", "multiprocessing"})
SLOW_PRODUCT: Final = frozenset({"uploader.files.watching"})  # it listens in a process of its own
STARTS_A_PROCESS: Final = frozenset({"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"})


@cache
def is_slow(function: Any) -> bool:
    """True when a test or a fixture can reach something slow. Many tests share a function and fixtures."""
    return any(_home(value) in SLOW_MODULES or _module(value) in SLOW_PRODUCT for value in _reached(function))


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark each test ``quick`` or ``slow``. Tests of one file run in one process, except for simulated worlds."""
    for item in items:
        assert isinstance(item, pytest.Function)
        fixtures = [fixture.func for found in item._fixtureinfo.name2fixturedefs.values() for fixture in found]
        slow = item.get_closest_marker("slow") is not None or any(map(is_slow, [item.function, *fixtures]))
        item.add_marker("slow" if slow else "quick")
        if "simulation" not in item.nodeid:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


class Guard:
    """Fails a quick test that starts a process. There is one for the run, as an audit hook cannot be removed."""

    def __init__(self) -> None:
        self.quick = False  # True while a quick test runs
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: tuple[object, ...]) -> None:
        if self.quick and event in STARTS_A_PROCESS:
            raise AssertionError("a quick test starts a process: tests/pace.py does not detect how, and has to")


def _reached(function: Any) -> Iterator[Any]:
    """Yield everything that the code of a function mentions, directly or through helpers of the tests."""
    waiting, seen = [_bare(function)], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        mentioned: list[Any] = []
        if isinstance(value, FunctionType) and _is_test_code(value.__code__.co_filename):
            mentioned = [value.__globals__.get(name) for name in _names(value.__code__)]
        elif isinstance(value, type) and _is_test_code(getattr(sys.modules[value.__module__], "__file__", None) or ""):
            mentioned = [*vars(value).values(), *value.__bases__]
        waiting += [one for one in map(_bare, mentioned) if isinstance(one, FunctionType | type | ModuleType)]


def _bare(value: Any) -> Any:
    """Return the function that a decorator, a method or a property wraps; anything else as it is."""
    if isinstance(value, ModuleType | type):
        return value
    if isinstance(value, property):
        return value.fget
    return inspect.unwrap(value) if callable(value) else value


def _names(code: CodeType) -> set[str]:
    """Return the names that a function and its inner functions mention."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


@cache
def _is_test_code(file: str) -> bool:
    return Path(file).is_relative_to(HERE)


def _module(value: Any) -> str:
    return str(value.__name__ if isinstance(value, ModuleType) else value.__module__)


def _home(value: Any) -> str:
    return _module(value).partition(".")[0]

"""Which tests are slow: those that start a process, or a whole application with its server. By rule, not by list.

A test is judged by what its code can reach: the names that it, its fixtures and the helpers of the tests mention. So a
new test is quick or slow without anybody's doing. A quick test that starts a process all the same fails (``Guard``).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import pytest

HERE: Final = Path(__file__).parent
SLOW_MODULES: Final = frozenset({"harness", "process", "warm", "mountspace", "subprocess", "multiprocessing"})
STARTS_A_PROCESS: Final = frozenset({"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"})


def is_slow(functions: Iterable[Any]) -> bool:
    """Whether any of these can reach something slow: a test, and the fixtures that it uses."""
    return any(_home(value) in SLOW_MODULES for value in _reached(functions))


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark each test ``quick`` or ``slow``, and keep the tests of a file together; worlds are spread one by one."""
    for item in items:
        assert isinstance(item, pytest.Function)
        fixtures = [fixture.func for found in item._fixtureinfo.name2fixturedefs.values() for fixture in found]
        slow = item.get_closest_marker("slow") is not None or is_slow([item.function, *fixtures])
        item.add_marker("slow" if slow else "quick")
        if "simulation" not in item.nodeid:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


class Guard:
    """Fails a quick test that starts a process. There is one for the run: an audit hook cannot be taken back."""

    def __init__(self) -> None:
        self.quick = False  # whether the test that runs now is a quick one
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: tuple[object, ...]) -> None:
        if self.quick and event in STARTS_A_PROCESS:
            raise AssertionError("a quick test starts a process: tests/pace.py does not see how, and has to")


def _reached(functions: Iterable[Any]) -> Iterator[Any]:
    """Everything that the code of these mentions, and what the helpers among it mention in turn."""
    waiting, seen = [_bare(function) for function in functions], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        mentioned: list[Any] = []
        if isinstance(value, FunctionType) and _is_ours(value.__code__.co_filename):
            mentioned = [value.__globals__.get(name) for name in _names(value.__code__)]
        elif isinstance(value, type) and _is_ours(getattr(sys.modules[value.__module__], "__file__", None) or ""):
            mentioned = [*vars(value).values(), *value.__bases__]
        waiting += [one for one in map(_bare, mentioned) if isinstance(one, FunctionType | type | ModuleType)]


def _bare(value: Any) -> Any:
    """The function that a decorator, a method or a property wraps; anything else as it is."""
    if isinstance(value, ModuleType | type):
        return value
    if isinstance(value, property):
        return value.fget
    return inspect.unwrap(value) if callable(value) else value


def _names(code: CodeType) -> set[str]:
    """The names that a function mentions, and the functions inside it."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(HERE)


def _home(value: Any) -> str:
    name = value.__name__ if isinstance(value, ModuleType) else value.__module__
    return str(name).partition(".")[0]

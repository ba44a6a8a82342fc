"""Who may touch the world: a table of modules, and what of it they may import. All others are handed what they need.

What is not in the table may import nothing of the world. That is what lets the simulation run the product's own stages:
clock, chance, disk, folders and server come in as arguments.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PRODUCT: Final = Path(__file__).parent.parent / "uploader"

# Modules by which the world is reached. ``Path`` does I/O, ``PurePath`` and ``PurePosixPath`` do not.
WORLD: Final = frozenset(
    {"aiofiles", "aiohttp", "asyncio", "concurrent", "fcntl", "logging", "multiprocessing", "os", "pathlib", "random"}
    | {"secrets", "select", "shutil", "signal", "socket", "ssl", "structlog", "subprocess", "sys", "tempfile"}
    | {"threading", "time", "uuid", "watchfiles"}
)
PURE_NAMES: Final = frozenset({("pathlib", "PurePath"), ("pathlib", "PurePosixPath")})

# They decide: neither the world nor even waiting for it.
DECISIONS: Final = frozenset(
    {
        "domain/completeness",
        "domain/errors",
        "domain/events",
        "domain/lifecycle",
        "domain/mapping",
        "domain/model",
        "domain/placeholders",
        "domain/retry",
        "domain/selection",
        "domain/units",
    }
    | {"server/valt/wire", "store/codec", "container/__init__", "container/asf", "container/matroska", "container/mp4"}
    | {"container/mpeg", "container/reader", "container/riff"}
)

# They wait, and are handed everything else: queues, locks, tasks.
STAGES: Final = frozenset(
    {
        "runtime/delay_queue",
        "server/circuit_breaker",
        "stages/orphan_cleanup",
        "app/progress",
        "store/__init__",
        "bandwidth/bandwidth",
        "bandwidth/pacer",
    }
    | {
        f"stages/{name}"
        for name in (
            "queues",
            "per_share_pool",
            "discover",
            "enqueue",
            "finish",
            "settle",
            "failure_handler",
            "lease",
            "records",
            "rename_search",
            "transfer",
            "verify",
        )
    }
)

WAITS: Final = frozenset({"asyncio"})
ALLOWED: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(DECISIONS, frozenset()),
    **dict.fromkeys(STAGES, WAITS),
    "stages/file_rules": frozenset({"pathlib"}),  # the configuration holds folders as ``Path``; no I/O
    "runtime/clock": frozenset({"asyncio", "random", "time"}),  # the only time, sleep and chance
    "stages/discover": frozenset({"asyncio", "watchfiles"}),  # events are hints; worlds are only scanned
    "store/disk": frozenset({"fcntl", "os", "pathlib"}),
    "store/ledger": frozenset({"threading"}),  # a lock: it is asked from the threads of shares, too
    "store/store": WAITS,
    "runtime/threads": frozenset({"concurrent", "threading"}),  # those of the state and of shares
    "server/valt/__init__": frozenset(),
    "server/valt/body": frozenset({"aiohttp", "asyncio"}),
    "server/valt/tls": frozenset({"aiohttp", "os", "ssl"}),
    "server/valt/sendfile": frozenset({"aiohttp", "asyncio", "os", "socket"}),  # the one way past aiohttp to its socket
    "server/valt/client": frozenset({"aiohttp", "asyncio", "os", "ssl", "uuid"}),
    "app/application": frozenset({"asyncio", "pathlib"}),
    "runtime/log": frozenset({"asyncio", "logging", "os", "pathlib", "select", "structlog", "sys", "threading"}),
}
# these are the edge: what they import is their own
EDGES: Final = ("files/", "testing/simulator/", "testing/demo/", "cli/", "config/")
EDGE_MODULES: Final = frozenset(
    {
        "__init__",
        "__main__",
        "server/readonly",
        "app/control_socket",
        "server/credentials",
        "diagnostics/ledger_audit",
        "app/daemon",
        "diagnostics/doctor",
        "diagnostics/event_check",
        "diagnostics/probe_results",
        "bandwidth/io_pressure",
    }
    | {"app/status", "app/systemd", "diagnostics/video"}
)


def modules() -> list[str]:
    """Every module of the product that is not of the edge, by its path below ``uploader``."""
    names = [path.relative_to(PRODUCT).with_suffix("").as_posix() for path in sorted(PRODUCT.rglob("*.py"))]
    return [name for name in names if name in DECISIONS or not (name.startswith(EDGES) or name in EDGE_MODULES)]


def tree_of(name: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse((PRODUCT / f"{name}.py").read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Name the modules of the world that are imported anywhere, also inside of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            top = node.module.partition(".")[0]
            if any((top, alias.name) not in PURE_NAMES for alias in node.names):
                yield top


def dotted(node: ast.expr) -> str:
    """Spell ``a.b.c``; empty for what is no plain name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("name", modules())
def test_a_module_touches_no_more_of_the_world_than_it_may(name: str) -> None:
    """Its imports are within the table's."""
    touched = {module for module in imports(tree_of(name)) if module in WORLD}
    assert touched <= ALLOWED.get(name, frozenset())


@pytest.mark.parametrize("name", [name for name in modules() if name != "runtime/clock"])
def test_time_and_threads_are_asked_of_nobody_else(name: str) -> None:
    """No sleep but the clock's, no thread but the ports', no wall clock by way of ``datetime``."""
    used = {dotted(node) for node in ast.walk(tree_of(name)) if isinstance(node, ast.Attribute)}
    forbidden = {
        "asyncio.sleep",
        "asyncio.to_thread",
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "date.today",
    }
    assert not used & forbidden


def test_every_module_of_the_table_is_there() -> None:
    """A permission of a module that is gone is a permission for whatever comes next under its name."""
    known = {path.relative_to(PRODUCT).with_suffix("").as_posix() for path in PRODUCT.rglob("*.py")}
    assert (ALLOWED.keys() | EDGE_MODULES) - known == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", {"time"}),
        ("import os.path as p", {"os"}),
        ("from pathlib import PurePath", set()),
        ("from pathlib import Path, PurePath", {"pathlib"}),
        ("def f():\n    from random import random", {"random"}),
    ],
)
def test_an_import_is_seen_however_it_is_written(source: str, found: set[str]) -> None:
    """At the top or inside of a function, whole or by name."""
    assert set(imports(ast.parse(source))) & WORLD == found

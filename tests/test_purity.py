"""Which modules may import clocks, files, sockets and other parts of the system: a table. All others import none.

So the simulation can run the product's own stages: clock, random numbers, disk, folders and server are arguments.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PRODUCT: Final = Path(__file__).parent.parent / "uploader"

# Modules that give access to the system. ``Path`` does I/O, ``PurePath`` and ``PurePosixPath`` do not.
WORLD: Final = frozenset(
    {"aiofiles", "aiohttp", "asyncio", "concurrent", "fcntl", "logging", "multiprocessing", "os", "pathlib", "random"}
    | {"secrets", "select", "shutil", "signal", "socket", "ssl", "structlog", "subprocess", "sys", "tempfile"}
    | {"threading", "time", "uuid", "watchfiles"}
)
PURE_NAMES: Final = frozenset({("pathlib", "PurePath"), ("pathlib", "PurePosixPath")})

# Pure decisions: no access to the system, and no waiting.
DECISIONS: Final = frozenset(
    {
        "domain/causes",
        "domain/commands",
        "domain/companions",
        "domain/completeness",
        "domain/errors",
        "domain/events",
        "domain/learnt",
        "domain/lifecycle",
        "domain/mapping",
        "domain/model",
        "domain/placeholders",
        "domain/retry",
        "domain/selection",
        "domain/system_names",
        "domain/units",
        "domain/untaken",
    }
    | {"server/valt/token_deaths", "server/file_faults", "server/outage_report"}
    | {
        "server/valt/answer",
        "server/valt/content",
        "server/valt/cookies",
        "server/valt/failures",
        "server/valt/wire",
        "store/codec",
        "container/__init__",
        "container/asf",
        "container/matroska",
        "container/mp4",
    }
    | {"container/mpeg", "container/reader", "container/riff"}
)

# These wait (queues, locks, tasks); all else is passed in.
STAGES: Final = frozenset(
    {
        "runtime/delay_queue",
        "server/circuit_breaker",
        "server/reachability",
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
            "transfer",
            "verify",
            "lease",
            "listener",
            "records",
            "rename_search",
            "watched_folder",
        )
    }
)

WAITS: Final = frozenset({"asyncio"})
ALLOWED: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(DECISIONS, frozenset()),
    **dict.fromkeys(STAGES, WAITS),
    "runtime/clock": frozenset({"asyncio", "random", "time"}),  # the only source of time, sleep and random numbers
    "stages/listener": frozenset({"asyncio", "watchfiles"}),  # the simulation only scans
    "stages/file_rules": frozenset({"pathlib"}),  # paths of the configuration
    "store/disk": frozenset({"fcntl", "os", "pathlib"}),
    "store/ledger": frozenset({"threading"}),  # a lock: threads of shares ask it, too
    "store/store": WAITS,
    "runtime/threads": frozenset({"concurrent", "threading"}),  # the threads of the state and of shares
    "server/valt/__init__": frozenset(),
    "server/valt/body": frozenset({"aiohttp", "asyncio"}),
    "server/valt/links": frozenset({"aiohttp"}),
    "server/valt/watchdog": frozenset({"aiohttp", "asyncio"}),
    "server/valt/broken": frozenset({"aiohttp", "asyncio", "os", "socket", "ssl"}),  # the classes of what they raise
    "server/valt/proxy": frozenset({"aiohttp", "os"}),
    "server/valt/session": frozenset({"aiohttp"}),
    "server/valt/tls": frozenset({"aiohttp", "os", "ssl"}),
    "server/valt/sendfile": frozenset({"aiohttp", "asyncio", "os", "socket"}),  # the only use of aiohttp's socket
    "server/valt/client": frozenset({"asyncio", "uuid"}),
    "app/application": frozenset({"asyncio", "pathlib"}),
    "app/auto_probe": WAITS,
    "diagnostics/trial": WAITS,
    "stages/prove": WAITS,
    "runtime/log": frozenset({"asyncio", "logging", "os", "pathlib", "select", "structlog", "sys", "threading"}),
}
# The edge: these may import anything.
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
    | {"app/explain", "app/systemd", "diagnostics/video"}
)


def modules() -> list[str]:
    """Return every module of the product outside of the edge, by its path below ``uploader``."""
    names = [path.relative_to(PRODUCT).with_suffix("").as_posix() for path in sorted(PRODUCT.rglob("*.py"))]
    return [name for name in names if name in DECISIONS or not (name.startswith(EDGES) or name in EDGE_MODULES)]


def tree_of(name: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse((PRODUCT / f"{name}.py").read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that are imported anywhere, also inside of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            top = node.module.partition(".")[0]
            if any((top, alias.name) not in PURE_NAMES for alias in node.names):
                yield top


def dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` as text; empty for any other expression."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_the_system_modules_of_its_row(name: str) -> None:
    """As the table allows them."""
    touched = {module for module in imports(tree_of(name)) if module in WORLD}
    assert touched <= ALLOWED.get(name, frozenset())


@pytest.mark.parametrize("name", [name for name in modules() if name != "runtime/clock"])
def test_only_the_ports_use_time_and_threads(name: str) -> None:
    """No sleep but the clock's, no thread but those of ``threads``, no wall clock of ``datetime``."""
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


def test_every_module_of_the_table_exists() -> None:
    """A permission of a removed module would apply to the next one of its name."""
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
def test_an_import_is_found_however_it_is_written(source: str, found: set[str]) -> None:
    """At the top or inside of a function, whole or by name."""
    assert set(imports(ast.parse(source))) & WORLD == found

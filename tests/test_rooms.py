"""Each package imports only the packages that its docstring names, in a line ``Imports: domain, runtime.``.

``test_purity`` says what of the outside world a module may touch; this is about the packages among themselves.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PRODUCT: Final = Path(__file__).parent.parent / "uploader"
PACKAGES: Final = sorted(
    path.parent.relative_to(PRODUCT).as_posix() for path in PRODUCT.rglob("__init__.py") if path.parent != PRODUCT
)
ROOMS: Final = frozenset(name for name in PACKAGES if "/" not in name)
WIRING: Final = frozenset({"app/application", "server/readonly"})  # choose the implementation of the server's port


def docstring(package: str) -> str:
    """Return the docstring of a package."""
    return ast.get_docstring(ast.parse((PRODUCT / package / "__init__.py").read_text(encoding="utf-8"))) or ""


def allowed(text: str) -> frozenset[str]:
    """Return the packages that a docstring allows to import."""
    (line,) = re.findall(r"^Imports: (.+)\.$", text, re.MULTILINE)
    return frozenset() if line == "nothing" else frozenset(line.split(", "))


def names_imported(source: str) -> Iterator[str]:
    """Spell every name of this program that a module imports anywhere, also inside of functions."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.startswith("uploader."))


def imported(source: str) -> Iterator[str]:
    """Yield the top-level packages of this program that a module imports, also inside of functions."""
    yield from (name.split(".")[1] for name in names_imported(source))


def names_the_client(source: str) -> bool:
    """True when a module imports the VALT client, or anything of its package."""
    return any(f"{name}.".startswith("uploader.server.valt.") for name in names_imported(source))


def modules_of(package: str) -> Iterator[Path]:
    """Yield its modules, with those of inner packages if it is a top-level one."""
    for path in sorted((PRODUCT / package).rglob("*.py")):
        if package in ROOMS or path.parent == PRODUCT / package:
            yield path


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_its_docstring_allows(package: str) -> None:
    """No module of it imports another package than those, and its own."""
    own = package.split("/")[0]
    found = {name for path in modules_of(package) for name in imported(path.read_text(encoding="utf-8"))} & ROOMS
    assert found - {own} <= allowed(docstring(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_for_and_what_it_touches(package: str) -> None:
    """The first line is a sentence; what it touches and imports stands in a line of its own."""
    text = docstring(package)
    assert re.match(r".{30,120}$", text.splitlines()[0])
    assert re.search(r"^Touches: .+\.$", text, re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_docstring_names_no_unused_package(package: str) -> None:
    """Each package that it names exists, and its modules import it."""
    found = {name for path in modules_of(package) for name in imported(path.read_text(encoding="utf-8"))}
    assert allowed(docstring(package)) <= found & ROOMS


def test_only_the_commands_import_testing() -> None:
    """The daemon does not need it."""
    users = {name for name in PACKAGES if "testing" in allowed(docstring(name))}
    assert users <= {"cli"}


def test_only_the_wiring_names_the_client_of_the_server() -> None:
    """Everything else works with ``server.port``: what it means lies in one place, and another server would do."""
    modules = {path.relative_to(PRODUCT).with_suffix("").as_posix(): path for path in PRODUCT.rglob("*.py")}
    users = {name for name, path in modules.items() if names_the_client(path.read_text(encoding="utf-8"))}
    assert {name for name in users if not name.startswith("server/valt/")} == WIRING


def test_no_module_is_outside_of_a_package() -> None:
    """But for ``__init__`` and ``__main__``, so that the top level is short."""
    assert {path.name for path in PRODUCT.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from uploader import cli", {"cli"}),
        ("from uploader.store.disk import Disk", {"store"}),
        ("def f():\n    import uploader.files.walk", {"files"}),
        ("import uploaders.files", set()),
    ],
)
def test_an_internal_import_is_found_however_it_is_written(source: str, found: set[str]) -> None:
    """At the top or inside of a function, a module or a name of it."""
    assert set(imported(source)) == found


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("from uploader.server import valt", True),
        ("from uploader.server.valt.wire import multipart_filename", True),
        ("def f():\n    import uploader.server.valt as v", True),
        ("from uploader.server.port import Server", False),
        ("from uploader.server.valtese import x", False),
    ],
)
def test_an_import_of_the_client_is_seen_however_it_is_written(source: str, named: bool) -> None:
    """The package, one of its modules or a name of it."""
    assert names_the_client(source) == named

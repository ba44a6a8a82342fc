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


def docstring(package: str) -> str:
    """Return the docstring of a package."""
    return ast.get_docstring(ast.parse((PRODUCT / package / "__init__.py").read_text(encoding="utf-8"))) or ""


def allowed(text: str) -> frozenset[str]:
    """Return the packages that a docstring allows to import."""
    (line,) = re.findall(r"^Imports: (.+)\.$", text, re.MULTILINE)
    return frozenset() if line == "nothing" else frozenset(line.split(", "))


def imported(source: str) -> Iterator[str]:
    """Yield the top-level packages of this program that a module imports, also inside of functions."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("uploader."))


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

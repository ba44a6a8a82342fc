"""Which tests are quick and which are slow, and how a run reports skipped tests."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pace
import pytest
from conftest import guard, skips
from harness import Rig
from process import Site


def a_rig() -> type[Rig]:
    """Mention the whole application."""
    return Rig


@contextmanager
def around() -> Iterator[type[Rig]]:
    """Mention a helper that mentions it."""
    yield a_rig()


class Holds:
    """A helper that is a class."""

    @property
    def site(self) -> type[Site]:
        """Mention a process."""
        return Site


class Inherits(Holds):
    """A helper that mentions nothing by itself."""


def test_every_test_is_either_quick_or_slow(request: pytest.FixtureRequest) -> None:
    """Each test of this run has one of the two marks, whatever file it is in."""
    for item in request.session.items:
        marks = {mark.name for mark in item.iter_markers()} & {"quick", "slow"}
        assert len(marks) == 1, item.nodeid


def test_every_slow_module_of_the_rule_exists() -> None:
    """A renamed module must be renamed in the rule, too."""
    named = pace.SLOW_MODULES | pace.SLOW_PRODUCT
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize(
    "test",
    [
        lambda: Rig(Path()),
        lambda: [a_rig() for _ in range(3)],
        around,
        Holds,
        Inherits,
        lambda: subprocess.run(["true"]),
        lambda: lambda: [Rig],
    ],
    ids=["a rig", "through a helper", "through a decorator", "a class", "its base", "a program", "inside"],
)
def test_a_test_that_can_reach_a_process_or_a_whole_application_is_slow(test: Callable[[], object]) -> None:
    """Directly or through any helper that its code mentions."""
    assert pace.is_slow(test)


@pytest.mark.parametrize("test", [lambda: Path("/"), lambda: pace.HERE, lambda: importlib.util.find_spec("process")])
def test_a_test_that_reaches_neither_is_quick(test: Callable[[], object]) -> None:
    """Its file may hold slow tests as well, and libraries may start whatever they like."""
    assert not pace.is_slow(test)


def test_a_quick_test_that_starts_a_process_fails() -> None:
    """When the rule has missed it."""
    try:
        guard.quick = True
        with pytest.raises(AssertionError, match="a quick test starts a process"):
            subprocess.run([sys.executable, "--version"])
    finally:
        guard.quick = False


def test_a_run_says_how_many_were_skipped_and_what_to_install() -> None:
    """Packages are named once, in one command; what cannot be installed is named with its count."""
    away = "Skipped: {0} is not installed: apt install {1}"
    said = skips(
        [
            away.format("smbd", "samba"),
            away.format("strace", "strace"),
            away.format("smbd", "samba"),
            "Skipped: only root can mount a disk",
        ]
    )
    assert said == "4 skipped; to run them: apt install samba strace; only root can mount a disk (1)"
    assert skips(["Skipped: no loop device"] * 2) == "2 skipped; no loop device (2)"

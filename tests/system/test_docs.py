"""The documentation: its commands can be run, and what it refers to exists."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from uploader.cli import cli
from uploader.domain import events

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text()


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _links(page: Path) -> list[str]:
    return re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())


def _command_lines(page: Path) -> list[str]:
    shown = "".join(_blocks(page.read_text(), "console"))
    return re.findall(r"^\$ .*?\bvalt-uploader (.*)$", shown, re.MULTILINE)


def test_links_and_commands_are_found() -> None:
    """So that the two tests below check something."""
    assert sum(len(_links(page)) for page in PAGES) > 10
    assert sum(len(_command_lines(page)) for page in PAGES) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_names_a_file(page: Path) -> None:
    """Of the repository."""
    for target in _links(page):
        assert (page.parent / target).exists(), target


def _headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


def test_every_link_to_a_heading_leads_to_one() -> None:
    """In its own page or in another."""
    links = [
        (page, file, heading)
        for page in PAGES
        for file, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text())
    ]
    assert links
    for page, file, heading in links:
        assert heading in _headings(page.parent / file if file else page), f"{page.name}: {file}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_can_be_read_as_a_diff(page: Path) -> None:
    """Text is wrapped at 100 columns, and tables hold short cells; longer is only what cannot be broken."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if not line.startswith("|"):
            assert len(line) <= 100 or " " not in line.strip().removeprefix("* "), line
        elif page.name != "events.md":  # whose cells are docstrings
            assert max(len(cell.strip()) for cell in line.strip("|").split("|")) <= 110, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_exists_with_its_options(page: Path) -> None:
    """In the console blocks of every page."""
    for line in _command_lines(page):
        words = shlex.split(line, comments=True)
        name = next(word for word in words if not word.startswith("-"))
        command = cli.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        known |= {"-h", "--help"}
        used = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        assert used <= known, line


def test_the_readme_names_every_command() -> None:
    """Its table has exactly the commands of the program."""
    table = set(re.findall(r"^\| `valt-uploader (\w+)", README, re.MULTILINE))
    assert table == set(cli.commands)


def test_the_readme_can_be_followed_word_for_word(tmp_path: Path) -> None:
    """The block that tries the built-in server runs as it is, in an empty folder, and prints what it shows."""
    (block,) = [block for block in _blocks(README, "console") if "simulate --port 8080" in block]
    held = socket.socket()  # keeps the port for us: it does not listen, so the server may have it besides
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port = held.getsockname()[1]
    commands = re.sub(r"^(?!\$ |\[|\w+ = |END|url|path|dir).*\n", "", block, flags=re.MULTILINE)
    script = "\n".join(line.removeprefix("$ ") for line in commands.splitlines()).replace("8080", str(port))
    # A shell without job control has no %1, and a reader waits for no prompt: until the server listens, so do we.
    script = script.replace("kill %1", "kill $!").replace(
        "mkdir recordings", f"until (: > /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do :; done\nmkdir recordings"
    )
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = f"trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{script}"
    with held:
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    shown = [line for line in block.splitlines() if "uploaded now" in line or "unavailable" in line]
    assert len(shown) == 2
    assert set(shown) <= set(done.stdout.splitlines())


def test_every_test_that_the_documentation_names_exists() -> None:
    """In docs/reliability.md, by file and name."""
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 20
    for file, name in named:
        text = next((ROOT / "tests").rglob(file)).read_text()
        assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{file}::{name}"


def test_each_numbered_fault_has_a_test_or_a_reason() -> None:
    """1 to 94, each once and in order; its row says what happens, and names a test or why there is none."""
    page = (ROOT / "docs" / "reliability.md").read_text()
    section = page.partition("## Fault by fault\n")[2].partition("\n## ")[0]
    faults = re.split(r"^\*\*(\d+)\. ", section, flags=re.MULTILINE)[1:]
    assert faults[::2] == [str(number) for number in range(1, 95)]
    for number, text in zip(faults[::2], faults[1::2], strict=True):
        described, _, held = text.partition("\n#")[0].strip().partition("\n\n")
        fault, _, happens = " ".join(described.split()).partition(".** ")
        assert fault, number
        assert happens, number
        lines = [" ".join(line.split()) for line in re.split(r"^\* ", held, flags=re.MULTILINE)[1:]]
        assert lines, number
        for line in lines:
            assert re.fullmatch(r"`test_\w+\.py::test_\w+`|not played: .{20,}", line), f"{number}: {line}"


def test_the_page_of_the_architecture_lists_each_package_with_its_imports() -> None:
    """Its table says what the docstrings of the packages say; their own test holds the modules to that."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## Packages\n")[2].partition("\n## ")[0]
    table = dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", section, re.MULTILINE))
    packages = {path.parent.name: path.read_text() for path in ROOT.glob("uploader/*/__init__.py")}
    found = {name: re.findall(r"^Imports: (.+)\.$", text, re.MULTILINE) for name, text in packages.items()}
    assert {name: [imports] for name, imports in table.items()} == found


def test_the_changelog_tells_the_new_name_of_each_event_that_was_renamed() -> None:
    """No old name is an event's any more, and each new one is."""
    renamed = re.findall(r"^\| `([a-z-]+)` \| `([a-z-]+)` \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    classes = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, events.Event)]
    names = {event.name() for event in classes}
    assert len(renamed) == 9
    assert {new for _, new in renamed} <= names
    assert not {old for old, _ in renamed} & names


def test_docs_events_lists_every_event_with_fields_and_level() -> None:
    """As ``domain/events.py`` defines them, in its order."""
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| `.*$", page, re.MULTILINE)]
    assert rows == [
        [
            f"`{event.name()}`",
            event.level or "not logged",
            ", ".join(f"`{field.name}`" for field in fields(event)),
            " ".join((event.__doc__ or "").split("\n\n")[0].split()).replace("``", "`"),
        ]
        for event in vars(events).values()
        if isinstance(event, type) and issubclass(event, events.Event) and event is not events.Event
    ]

"""Packaging: the lock files, the Makefile, the check and the image."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from uploader.app import control_socket

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-dev.txt")}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def locked(name: str) -> list[Requirement]:
    """The requirements of a lock, each with exactly one version; those without a hash are not among them."""
    joined = LOCKS[name].replace("\\\n", " ")
    found = re.findall(r"^(\S+==[^-]+?)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*$", joined, re.MULTILINE)
    return [Requirement(text) for text, _ in found]


def chosen(name: str, python: str) -> dict[str, str]:
    """The versions that a lock chooses for *python* on Linux."""
    place = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    return {
        canonicalize_name(item.name): str(item.specifier).removeprefix("==")
        for item in locked(name)
        if item.marker is None or item.marker.evaluate(place)
    }


@pytest.mark.parametrize("name", LOCKS)
def test_everything_in_a_lock_has_one_version_and_hashes(name: str) -> None:
    """No line of a lock is anything but a comment, a pinned requirement or a hash of one."""
    lines = [line for line in LOCKS[name].splitlines() if not line.startswith(("#", "    --hash="))]
    assert len(lines) == len(locked(name)) > 0


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index_address_or_path(name: str) -> None:
    """Packages come from the index that the installing user has configured."""
    assert re.findall(r"\S*(?:://|--index|--extra-index|--find-links|@ |\s/)\S*", LOCKS[name]) == []


@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_have_what_the_project_asks_for(python: str) -> None:
    """Every requirement of pyproject.toml is locked, in a version that it allows, on every Python we support."""
    extra = PROJECT["project"]["optional-dependencies"]["dev"]
    asked = {"requirements.txt": PROJECT["project"]["dependencies"]}
    asked["requirements-dev.txt"] = asked["requirements.txt"] + extra + PROJECT["build-system"]["requires"]
    for name, texts in asked.items():
        versions = chosen(name, python)
        for requirement in map(Requirement, texts):
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_the_development_lock_extends_the_runtime_lock(python: str) -> None:
    """With the same versions."""
    run = chosen("requirements.txt", python)
    assert run.items() <= chosen("requirements-dev.txt", python).items()


def installed() -> dict[str, Distribution]:
    """What this environment holds, but for the project itself and the tool that installs."""
    found = {canonicalize_name(str(each.metadata["Name"])): each for each in distributions()}
    return {name: each for name, each in found.items() if name not in {PROJECT["project"]["name"], "pip", "setuptools"}}


def test_the_environment_has_exactly_the_locked_packages() -> None:
    """Each in the version whose hash was checked, and no other package."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert {name: each.version for name, each in installed().items()} == chosen("requirements-dev.txt", python)


def test_no_installed_file_has_changed() -> None:
    """Every file of a package still has the hash that its wheel gave it."""
    changed = [
        f"{name}: {file}"
        for name, each in installed().items()
        for file in each.files or ()
        if file.hash is not None and _hash_of(Path(str(file.locate())), file.hash.mode) != file.hash.value
    ]
    assert changed == []


def _hash_of(path: Path, mode: str) -> str:
    with path.open("rb") as file:
        return base64.urlsafe_b64encode(hashlib.file_digest(file, mode).digest()).rstrip(b"=").decode()


def test_the_setup_names_no_index() -> None:
    """Makefile, check and image leave it to the machine's settings."""
    for name in ("Makefile", ".ci/run", "Dockerfile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.findall(r"--(?:index-url|extra-index-url|find-links|trusted-host)\S*|https?://\S+", text) == [], name


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What ``make`` needs to begin with, in a folder of its own."""
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``make`` in *folder* as a person would, whatever ``make`` runs this test."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    return subprocess.run(
        ["make", "-C", str(folder), *arguments], capture_output=True, text=True, env=environ, timeout=60
    )


def stand_in(folder: Path, *, old: bool) -> str:
    """A Python that is too old, or one that cannot make environments."""
    path = folder / "python-stand-in"
    fails = "*version_info*" if old else "*ensurepip*"
    path.write_text(f"#!/bin/sh\ncase $* in {fails}) exit 1;; -V*) echo Python 3.9.2;; esac\n", encoding="utf-8")
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_make_without_a_target_lists_all_targets(checkout: Path) -> None:
    """Each one is explained, and nothing is installed."""
    done = make(checkout)
    targets = re.search(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets is not None
    assert re.findall(r"^make ([\w-]+) ", done.stdout, re.MULTILINE) == targets[1].split()[1:]
    assert list(checkout.glob(".venv*")) == []


@pytest.mark.parametrize("target", ["quick", "test", "worlds", "demo", "lint", "types", "wheel"])
@pytest.mark.parametrize(
    ("old", "says"),
    [(True, "error: Python 3.9.2 is too old; Python 3.11 or newer"), (False, "apt install python3-venv")],
    ids=["old", "without venv"],
)
def test_an_unsuitable_python_is_named(checkout: Path, target: str, old: bool, says: str) -> None:
    """Each target by itself says what is wrong with it, before it changes anything."""
    done = make(checkout, target, stand_in(checkout, old=old))
    assert done.returncode != 0
    assert says in done.stderr
    assert list(checkout.glob(".venv*")) == []


def test_a_missing_python_is_named(checkout: Path) -> None:
    """The message says that it does not exist."""
    assert "error: python-nowhere cannot be run" in make(checkout, "demo", "PYTHON=python-nowhere").stderr


def test_a_python_shim_that_does_not_run_is_skipped(checkout: Path) -> None:
    """A version manager may show names of Pythons that it does not let run."""
    shim = checkout / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    shim.chmod(0o755)
    assert f"error: {shim} cannot be run" in make(checkout, "demo", f"PYTHON={shim}").stderr


def test_each_python_that_is_named_has_an_environment_of_its_own(checkout: Path) -> None:
    """So several can be used, and the default environment stays."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    plain = make(checkout, "--dry-run", "lint").stdout
    named = make(checkout, "--dry-run", "lint", f"PYTHON={sys._base_executable}").stdout  # type: ignore[attr-defined]
    assert set(re.findall(r"^\.venv\S*(?=/bin/)", plain, re.MULTILINE)) == {".venv"}
    assert set(re.findall(r"^\.venv\S*(?=/bin/)", named, re.MULTILINE)) == {f".venv-{version}"}


def stand_in_for_pyenv(folder: Path, *versions: str) -> Path:
    """A folder with the program ``pyenv``, which has these versions and shows none of them."""
    program = folder / "bin" / "pyenv"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{folder}'\n", encoding="utf-8")
    program.chmod(0o755)
    for version in versions:
        python = folder / "versions" / version / "bin" / f"python{version.rpartition('.')[0]}"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\n", encoding="utf-8")
        python.chmod(0o755)
    return program.parent


@pytest.mark.parametrize(
    ("versions", "found"),
    [(("3.12.1", "3.13.0"), "versions/3.13.0/bin/python3.13"), (("3.11.7", "3.9.1"), ""), ((), "")],
)
def test_the_check_finds_the_newest_python(tmp_path: Path, versions: tuple[str, ...], found: str) -> None:
    """One of pyenv's too; an older one is not used."""
    path = stand_in_for_pyenv(tmp_path, *versions)
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = re.search(r"^newest\(\) \{\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    assert function is not None
    script = f'set -euo pipefail\n{function[0]}\nnewest=$(newest)\necho "$newest"'
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", script], env={"PATH": str(path)}, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == (str(tmp_path / found) if found else "")


def test_the_environment_is_made_once(checkout: Path) -> None:
    """With the stamp of this lock, Python and folder in place nothing is installed; a changed lock changes it."""
    stamp = re.search(r"\.venv/\.ready-\d+", make(checkout, "--dry-run", "lint").stdout)
    assert stamp is not None
    (checkout / ".venv").mkdir()
    (checkout / stamp[0]).touch()
    assert "pip install" not in make(checkout, "--dry-run", "lint").stdout
    with (checkout / "requirements-dev.txt").open("a", encoding="utf-8") as lock:
        lock.write("# changed\n")
    assert "pip install" in make(checkout, "--dry-run", "lint").stdout


def test_the_check_is_a_program() -> None:
    """``.ci/run`` can be started, is free of syntax errors, stops at the first failure and runs all of the tests."""
    path = ROOT / ".ci" / "run"
    assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0o111
    subprocess.run(["bash", "-n", path], check=True, timeout=10)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert "make test" in lines
    assert lines[-1] == "make worlds"


def instructions(word: str) -> list[str]:
    """The arguments of each *word* of the Dockerfile, in order."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.split(maxsplit=1)[:1] == [word]]


def test_the_image_runs_as_a_numbered_user() -> None:
    """So that it needs no list of users at the start."""
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instructions("USER")[-1])
    assert DOCKERFILE.rindex("\nUSER ") > DOCKERFILE.rindex("\nRUN ")


def test_the_image_starts_the_program_without_a_shell() -> None:
    """Entry point, command and health check are lists, so that signals reach the daemon itself."""
    (script,) = PROJECT["project"]["scripts"]
    program = f'"/opt/valt-uploader/bin/{script}"'
    assert instructions("ENTRYPOINT") == [f"[{program}]"]
    assert instructions("CMD")[-1].startswith('["run"')
    assert f"CMD [{program}, " in instructions("HEALTHCHECK")[0]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_the_health_check_fails_for_a_hung_daemon() -> None:
    """It asks the running daemon and waits no longer than such a question would."""
    (check,) = instructions("HEALTHCHECK")
    assert '"status", ' in check
    timeout = re.search(r"--timeout=(\d+)s", check)
    assert timeout is not None
    assert int(timeout[1]) < control_socket.ANSWER_TIMEOUT


def test_the_image_copies_only_files_of_the_repository() -> None:
    """Nothing is fetched from an address, and each copied file exists and passes .dockerignore."""
    assert instructions("ADD") == []
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    copied = [shlex.split(text)[:-1] for text in instructions("COPY") if "--from=" not in text]
    names = [name.rstrip("/") for group in copied for name in group if name != "./"]
    assert sorted(names) == sorted(allowed)
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_image_installs_by_hash() -> None:
    """Every package that comes from an index is a wheel whose hash is in the lock."""
    installs = re.findall(r"/pip install ([^&\n]+)", "\n".join(instructions("RUN")))
    assert len(installs) == 3
    for arguments in installs:
        assert "--require-hashes --only-binary :all: -r requirements" in arguments or "--no-index" in arguments

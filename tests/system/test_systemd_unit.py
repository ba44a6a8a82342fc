"""The service files: systemd accepts them, they are restrictive, and they agree with the code."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from uploader.config import DEFAULT_FILE, StateConfig, UploadConfig
from uploader.domain import errors
from uploader.server.credentials import SYSTEMD_CREDENTIAL

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "valt-uploader.service"
SYSUSERS = ROOT / "systemd" / "valt-uploader.sysusers.conf"
TMPFILES = ROOT / "systemd" / "valt-uploader.tmpfiles.conf"


def settings(key: str) -> list[str]:
    """Each value that the unit gives *key*, in order."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.partition("=")[0] == key]


def setting(key: str) -> str:
    """The one value that the unit gives *key*."""
    (value,) = settings(key)
    return value


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of systemd's; without it the test is skipped, but not where a machine checks everything."""
    program = shutil.which(name)
    if program is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed: apt install systemd")
    if program is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    """Every section, key and value is one that systemd knows.

    ``verify`` wants the program to be there, so a copy of the unit names one that is: this Python.
    """
    copy = tmp_path / UNIT.name
    program = setting("ExecStart").split()[0]
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(program, sys.executable), encoding="utf-8")
    done = run("systemd-analyze", "verify", copy)
    assert [line for line in done.stderr.splitlines() if "valt-uploader" in line] == []
    assert done.returncode == 0


def test_the_unit_has_a_low_exposure() -> None:
    """As systemd computes it, 0 to 10: at most 1.2; the rest is the network that it needs."""
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=12", UNIT)
    assert done.returncode == 0, done.stdout
    assert setting("ProtectSystem") == "strict"  # so that ReadWritePaths= is all it can write to


def test_the_unit_starts_the_daemon_with_the_default_configuration() -> None:
    """``run`` needs no -c: the file it looks for is the one whose folder tmpfiles makes."""
    assert setting("ExecStart").split()[1:] == ["run"]
    assert setting("Type") == "notify"
    assert f"d {DEFAULT_FILE.parent} " in TMPFILES.read_text(encoding="utf-8")
    assert f"z {DEFAULT_FILE} " in TMPFILES.read_text(encoding="utf-8")


def test_the_unit_starts_what_the_documentation_installs() -> None:
    """The program is installed at, started from, and executable in one folder."""
    prefix = Path(setting("ExecStart").split()[0]).parent.parent
    assert f"python3 -m venv {prefix}\n" in (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    assert str(prefix) in setting("ExecPaths").split()


def test_unit_and_code_name_the_same_state_folder() -> None:
    """StateDirectory= is where the daemon looks without systemd, too."""
    assert Path("/var/lib") / setting("StateDirectory") == StateConfig().dir
    assert str(StateConfig().dir) in SYSUSERS.read_text(encoding="utf-8")


def test_unit_and_code_name_the_same_credential() -> None:
    """LoadCredential= hands over the name that the daemon asks for, from a file that tmpfiles protects."""
    name, _, source = setting("LoadCredential").partition(":")
    assert name == SYSTEMD_CREDENTIAL
    assert re.search(rf"^z {source}\s+0600 root root", TMPFILES.read_text(encoding="utf-8"), re.MULTILINE)


def test_unit_and_example_name_the_same_folder_and_port() -> None:
    """The watched folder of the example can be written to, and the port of its status page can be bound."""
    text = (ROOT / "config" / "config.toml").read_text(encoding="utf-8")
    folder = tomllib.loads(text)["watch"][0]["path"]
    assert setting("ReadWritePaths") == f"-{folder}"
    assert setting("RequiresMountsFor") == folder
    ports = re.findall(r'"127\.0\.0\.1:(\d+)"', text)
    assert {f"tcp:{port}" for port in ports} == {setting("SocketBindAllow")}


def test_systemd_waits_longer_than_the_daemon_drains() -> None:
    """So that a chunk in flight is not killed."""
    assert int(setting("TimeoutStopSec")) >= 2 * UploadConfig().drain


def test_faults_that_need_the_operator_are_not_restarted() -> None:
    """The exit codes of configuration, password file and state end the service; another daemon's lock does not."""
    final = {int(code) for code in setting("RestartPreventExitStatus").split()}
    assert final == {
        errors.ConfigError.exit_code,
        errors.PasswordUnusable.exit_code,
        errors.StateUnusable("damaged").exit_code,
        73,  # what the state folder's own checks end with
    }
    assert errors.AlreadyRunning.exit_code not in final


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine's root folder, with its users made by systemd and with a configuration that all may read."""
    folder = tmp_path / "etc" / "valt-uploader"
    folder.mkdir(parents=True)
    for name in ("config.toml", "password"):
        (folder / name).touch(mode=0o644)
    done = run("systemd-sysusers", f"--root={tmp_path}", SYSUSERS)
    assert done.returncode == 0, done.stderr
    return tmp_path


def user_of(machine: Path) -> list[str]:
    """The line of the unit's user in the machine's list of users: name, password, uid, gid, text, home, shell."""
    lines = (machine / "etc" / "passwd").read_text(encoding="utf-8").splitlines()
    (fields,) = [line.split(":") for line in lines if line.startswith(f"{setting('User')}:")]
    return fields


def test_the_user_of_the_unit_is_made_and_cannot_log_in(machine: Path) -> None:
    """The file for sysusers makes the user that the unit names, without a shell."""
    assert user_of(machine)[6].endswith("nologin")
    assert setting("Group") == setting("User")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_only_daemon_and_root_can_read_configuration_and_password(machine: Path) -> None:
    """The file for tmpfiles corrects wider modes."""
    done = run("systemd-tmpfiles", "--create", f"--root={machine}", TMPFILES)
    assert (done.returncode, done.stderr) == (0, "")
    folder, group = machine / "etc" / "valt-uploader", int(user_of(machine)[3])
    found = {path.name: path.stat() for path in (folder, *folder.iterdir())}
    assert {name: (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) for name, seen in found.items()} == {
        "valt-uploader": (0o750, 0, group),
        "config.toml": (0o640, 0, group),
        "password": (0o600, 0, 0),
    }

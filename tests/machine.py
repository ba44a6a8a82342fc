"""Skips tests that need a program or a right which this machine does not have.

A missing program can be installed, so it fails the test where everything is checked (``CI=true``) and skips it
elsewhere. A missing right skips the test everywhere, and the reason names it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NoReturn

import pytest
from process import PROCESS_TIMEOUT

SYSTEM = "/usr/sbin:/sbin"  # programs that are not in everybody's PATH


def needs(program: str, package: str) -> str:
    """Return the path of a program; skip or fail the test if it is missing."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM}")
    if found is None:
        missing(program, package)
    return found


def missing(program: str, package: str) -> NoReturn:
    """Skip the test because a program is missing; fail it where everything is checked."""
    why = f"{program} is not installed: apt install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def works(*command: str) -> bool:
    """True when a command exits with 0."""
    return subprocess.run(command, capture_output=True, timeout=PROCESS_TIMEOUT).returncode == 0


def strace() -> str:
    """Return the path of strace; skip the test where processes cannot be traced."""
    program = needs("strace", "strace")
    if not works(program, "-o", os.devnull, "true"):
        pytest.skip("this machine does not allow tracing a process")
    return program


def in_mount_namespace(*prepare: str) -> tuple[str, ...]:
    """Return a command prefix that starts a program in a mount namespace of its own.

    *prepare*: shell commands that run there before the program; $0 is the state folder.
    """
    unshare = needs("unshare", "util-linux")
    if not works(unshare, "-rm", "true"):
        pytest.skip("this machine allows no user namespaces")
    return unshare, "-rm", "sh", "-c", " && ".join([*prepare, 'exec "$@"'])

"""What some tests need of the machine: a program, or a right. One can be installed; the other cannot.

So a missing program fails where a machine checks everything (``CI=true``) and is skipped elsewhere; a right that this
machine gives nobody is skipped everywhere, with its name.
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
    """Where a program is."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM}")
    if found is None:
        missing(program, package)
    return found


def missing(program: str, package: str) -> NoReturn:
    """Skip the test for want of a program; where a machine checks everything, fail it."""
    why = f"{program} is not installed: apt install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def works(*command: str) -> bool:
    """Whether a command ends well."""
    return subprocess.run(command, capture_output=True, timeout=PROCESS_TIMEOUT).returncode == 0


def strace() -> str:
    """How to trace a process."""
    program = needs("strace", "strace")
    if not works(program, "-o", os.devnull, "true"):
        pytest.skip("this machine allows nobody to trace a process")
    return program


def in_a_room_of_its_own(*prepare: str) -> tuple[str, ...]:
    """How to start the program with mounts that nobody else sees; *prepare*: shell commands, $0 is the state folder."""
    unshare = needs("unshare", "util-linux")
    if not works(unshare, "-rm", "true"):
        pytest.skip("this machine allows no user namespaces")
    return unshare, "-rm", "sh", "-c", " && ".join([*prepare, 'exec "$@"'])

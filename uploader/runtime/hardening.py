"""Protects the process's memory before it holds a secret.

Raises nothing: what a system does not support is skipped.
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

PR_SET_DUMPABLE: Final = 4  # prctl(2)


def harden(environ: MutableMapping[str, str]) -> None:
    """Keep password and token inside this process's memory.

    A process that is not *dumpable* writes no core file, and other processes of the same user may not read its memory
    or environment (ptrace(2), proc(5)). With ``$SSLKEYLOGFILE``, TLS libraries would write the keys of each connection
    to a file, so it is removed from *environ*.
    """
    environ.pop("SSLKEYLOGFILE", None)
    with suppress(OSError, AttributeError):  # not Linux, or no C library
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)

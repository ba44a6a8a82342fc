"""What the process gives up before it holds a secret.

Must never fail: a system that does not know one of these goes without it.
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

PR_SET_DUMPABLE: Final = 4  # prctl(2)


def harden(environ: MutableMapping[str, str]) -> None:
    """See to it that password and token stay in this process's memory.

    Without *dumpable* no core file is written, and no other process of the same user may read our memory or
    environment (ptrace(2), proc(5)). ``$SSLKEYLOGFILE`` would have TLS libraries write down the keys of each
    connection, and with them everything that travels over it.
    """
    environ.pop("SSLKEYLOGFILE", None)
    with suppress(OSError, AttributeError):  # no Linux, no C library to be found
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)

"""Whether tasks of this machine wait for a disk: Linux's pressure stall information.

Must never fail: where the kernel does not tell (old, switched off, hidden by a container), nothing is known.
Source: Documentation/accounting/psi.rst of the kernel.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

IO_PRESSURE: Final = Path("/proc/pressure/io")
_SOME: Final = re.compile(r"^some avg10=([0-9]{1,3}(?:\.[0-9]{1,9})?) ", re.MULTILINE | re.ASCII)


def io_pressure(file: Path = IO_PRESSURE) -> float | None:
    """Per cent of the last ten seconds, 0 to 100, in which at least one task waited for a disk. None: not known."""
    try:
        return some_avg10(file.read_bytes()[:1000].decode("ascii", "replace"))
    except OSError:  # not there, or there and not supported: reading says which, and it is all the same
        return None


def some_avg10(text: str) -> float | None:
    """The ``some avg10`` of a pressure file, 0 to 100; None when it is not one."""
    match = _SOME.search(text)
    share = float(match[1]) if match else None
    return share if share is None or share <= 100 else None

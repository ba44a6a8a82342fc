"""Reads how much of the time tasks of this machine wait for a disk: Linux's pressure stall information.

Raises nothing: where the kernel does not report it (old, switched off, hidden by a container), the result is None.
Source: Documentation/accounting/psi.rst of the kernel.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

IO_PRESSURE: Final = Path("/proc/pressure/io")
_SOME: Final = re.compile(r"^some avg10=([0-9]{1,3}(?:\.[0-9]{1,9})?) ", re.MULTILINE | re.ASCII)


def io_pressure(file: Path = IO_PRESSURE) -> float | None:
    """Return the per cent of the last ten seconds, 0 to 100, in which a task waited for a disk; None if unknown."""
    try:
        return some_avg10(file.read_bytes()[:1000].decode("ascii", "replace"))
    except OSError:  # missing, or not supported
        return None


def some_avg10(text: str) -> float | None:
    """Return ``some avg10`` from the text of a pressure file, 0 to 100; None when it has none."""
    match = _SOME.search(text)
    percent = float(match[1]) if match else None
    return percent if percent is None or percent <= 100 else None

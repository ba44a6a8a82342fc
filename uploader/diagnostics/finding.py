"""One line of the report of ``check``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``error``: recordings will not be uploaded. ``warning``: they will, but check this."""

    what: str
    text: str
    severity: str = "ok"  # ok | warning | error

    def __str__(self) -> str:
        return f"{self.severity:<8}{self.what:<15}{self.text}"

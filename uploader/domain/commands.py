"""The command lines that texts for operators tell them to type. Pure."""

from __future__ import annotations

import shlex

from uploader.domain.model import EVERYTHING, shown


def typed(command: str, name: str) -> str:
    """Return the command line that an operator types for one file or folder, or for everything."""
    return f"valt-uploader {command}" + ("" if name == EVERYTHING else f" {shlex.quote(shown(name))}")

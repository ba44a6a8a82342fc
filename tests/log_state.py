"""Leaves logging as it was: its level, handlers and hooks, and what is captured."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from uploader.runtime import log


@contextmanager
def log_as_before() -> Iterator[None]:
    """Give the log a redactor of its own; afterwards logging is as before."""
    root, ours = logging.getLogger(), logging.getLogger(log.LOGGER_ROOT)
    levels = root.level, ours.level
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(log, "redactor", log.Redactor())
        monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
        monkeypatch.setattr(root, "handlers", root.handlers[:])
        for module, hook in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
            monkeypatch.setattr(module, hook, getattr(module, hook))
        yield
    logging.captureWarnings(capture=False)
    root.setLevel(levels[0])
    ours.setLevel(levels[1])

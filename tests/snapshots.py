"""What a status report is made from, for the tests of ``status`` and ``explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uploader.app.status import StatusSnapshot
from uploader.config import Config
from uploader.domain.model import ServerCapabilities, Sighting, Upload
from uploader.stages.settle import Candidate

SETTLING = Candidate(Sighting("/rec/new.mp4", "/rec", 5, 1), found_at=0.0, reason="it must be unchanged")


def config_of(tmp_path: Path, *watch: dict[str, Any], **server: Any) -> Config:
    """A configuration with these folders."""
    return Config.model_validate(
        {
            "server": {"url": "https://valt.example.com", "username": "uploader"} | server,
            "watch": list(watch) or [{"path": str(tmp_path)}],
            "state": {"dir": str(tmp_path / "state")},
        }
    )


def known(*uploads: Upload, **more: Any) -> StatusSnapshot:
    """What is known of these uploads."""
    facts: dict[str, Any] = {"uploads": uploads, "orphans": (), "capabilities": ServerCapabilities(), "done": 0}
    return StatusSnapshot(**(facts | more))

"""What of an upload follows the configuration in force, once it has begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import an_upload

from uploader.config import Config, ServerConfig, WatchConfig
from uploader.domain.model import State
from uploader.stages.file_rules import FileRules

RULES = FileRules(
    Config(server=ServerConfig(url="http://127.0.0.1:9", username="u"), watch=(WatchConfig(path=Path("/rec")),))
)


@pytest.mark.parametrize(
    ("had", "configured", "has"),
    [(0, 70, 70), (100, 70, 70), (70, 100, 70), (70, 0, 70), (0, 0, 0)],
    ids=["whole to chunks", "smaller", "larger", "chunks to whole", "whole"],
)
@pytest.mark.parametrize("parked", [False, True])
def test_a_smaller_chunk_size_holds_for_an_upload_that_has_begun(
    had: int, configured: int, has: int, parked: bool
) -> None:
    """So a file that was parked for the size of its requests goes on once that is configured; no larger one does."""
    state = State.PARKED if parked else State.SENDING
    changed = RULES.reconfigured(an_upload(state, parked_from=State.SENDING, chunk_size=had), configured)
    assert changed is not None
    assert changed.chunk_size == has


@pytest.mark.parametrize("state", [State.CREATING, State.IN_DOUBT, State.VERIFYING])
def test_a_request_that_was_made_keeps_its_size(state: State) -> None:
    """What is in doubt is found out as it was sent."""
    changed = RULES.reconfigured(an_upload(state, chunk_size=100), 70)
    assert changed is not None
    assert changed.chunk_size == 100

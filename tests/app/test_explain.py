"""Explain says why a file is, or is not, uploaded."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import EPOCH, LAST_ERROR, an_upload
from snapshots import SETTLING, config_of, known

from uploader import files
from uploader.app import explain
from uploader.app.status import NEXT_ACTION, StatusSnapshot, iso
from uploader.domain.commands import typed
from uploader.domain.completeness import Moved, StableSince
from uploader.domain.model import ActionBy, Identity, Sighting, Snapshot, State
from uploader.stages.settle import Candidate
from uploader.store import ledger


def sent(path: Path) -> ledger.LedgerEntry:
    """The ledger's entry of a file as it is now."""
    status = path.stat()
    return ledger.LedgerEntry(status.st_size, status.st_mtime_ns, "e1", "d1", "record-1", 3, str(path))


@pytest.mark.parametrize("name", ["a.mp4", "b.mp4"])
def test_explain_knows_a_renamed_file_by_either_name(tmp_path: Path, name: str) -> None:
    """By the name that its upload began with and by its name now; both are shown."""
    renamed = an_upload(State.SENDING, path=str(tmp_path / "a.mp4"), renamed_to=str(tmp_path / "b.mp4"))
    text = explained(tmp_path, tmp_path / name, known(renamed))
    assert "state    sending, 40 of 100 bytes acknowledged" in text
    assert f"file     was {tmp_path}/a.mp4 when its upload began, is {tmp_path}/b.mp4 now" in text
    assert text.endswith("result   not finished: the next chunk begins at byte 40")


async def test_a_hung_share_does_not_delay_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is shown as unreadable, with the reason."""
    gate = threading.Event()
    monkeypatch.setattr(explain, "FILE_LOOK_TIMEOUT", 0.05)
    monkeypatch.setattr(files, "look", lambda *_: gate.wait())
    try:
        assert await explain.look_at("/rec/a.mp4") == "unreadable (the share has not answered for 0.05 s)"
    finally:
        gate.set()


def explained(
    tmp_path: Path, path: Path | str, everything: StatusSnapshot, *finished: ledger.LedgerEntry, **settings: Any
) -> str:
    """What explain says, in one text."""
    config = config_of(tmp_path, {"path": str(tmp_path)} | settings)
    seen = asyncio.run(explain.look_at(str(path)))
    facts = explain.facts_of(everything, str(path), finished)
    return "\n".join(explain.explanation(config, str(path), facts, EPOCH, seen))


def test_explain_names_the_rule_and_ends_with_the_result(tmp_path: Path) -> None:
    """Each folder with its answer, the file as it is, and what that makes of it."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"12345")
    text = explained(tmp_path, path, known())
    assert f"rule     watch[0] {tmp_path}: takes it" in text
    assert "disk     5 bytes, last written 20" in text
    assert text.endswith("result   it will be sent when the daemon runs (or: valt-uploader once)")
    assert explained(tmp_path, path, known(process=1)).endswith("result   it will be sent")


def test_explain_says_what_keeps_moving_how_often_and_when(tmp_path: Path) -> None:
    """The part that moved last comes first; times are those of the wall clock."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"12345")
    snapshot = Snapshot(Identity(5, 1, "e"), 7, (1, 2))
    stable = StableSince(snapshot, 90.0, 50.0, {"size": Moved(1, 50.0), "ctime": Moved(4, 90.0)})
    reason = "it must be unchanged for 10 s; moved so far: its ctime 4 times, its size 1 time"
    candidate = Candidate(Sighting(str(path), str(tmp_path), 5, 1), 0.0, stable=stable, reason=reason)
    config = config_of(tmp_path, {"path": str(tmp_path)})
    facts = explain.FileFacts(candidate=candidate, running=True, monotonic=100.0)
    text = "\n".join(explain.explanation(config, str(path), facts, EPOCH, "file"))
    first, second = iso(EPOCH - 10), iso(EPOCH - 50)
    assert f"moved    ctime: 4 times while it is waited for, last seen at {first}\nmoved    size: 1 time " in text
    assert f"last seen at {second}\nresult   settling: {reason}" in text


def test_explain_says_why_a_file_is_not_taken(tmp_path: Path) -> None:
    """Because of its name, its place, or because it does not exist."""
    (tmp_path / "a.txt").write_bytes(b"x")
    text = explained(tmp_path, tmp_path / "a.txt", known())
    assert "its name matches no include pattern" in text
    assert text.endswith("result   not sent: no [[watch]] takes it")
    assert "not below this folder" in explained(tmp_path, "/elsewhere/a.mp4", known())
    missing = explained(tmp_path, tmp_path / "gone.mp4", known())
    assert "disk     does not exist" in missing
    assert missing.endswith("result   not sent: the file does not exist")
    (tmp_path / "link.mp4").symlink_to("a.txt")
    assert "disk     link: only regular files are sent" in explained(tmp_path, tmp_path / "link.mp4", known())
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert explained(tmp_path, tmp_path / "empty.mp4", known()).endswith("result   not sent: it is empty")


def test_explain_names_the_first_folder_that_takes_the_file(tmp_path: Path) -> None:
    """Another folder that would take it as well says which one has it."""
    config = config_of(tmp_path, {"path": str(tmp_path)}, {"path": str(tmp_path / "room")})
    path = str(tmp_path / "room" / "a.mp4")
    text = "\n".join(explain.explanation(config, path, explain.FileFacts(), EPOCH, "missing"))
    assert f"watch[0] {tmp_path}: takes it" in text
    assert f"watch[1] {tmp_path}/room: the file belongs to an earlier [[watch]]" in text


def test_explain_shows_state_reason_and_next_step_of_an_upload(tmp_path: Path) -> None:
    """With the number of failures, and what happens next."""
    path = str(tmp_path / "a.mp4")
    text = explained(
        tmp_path, path, known(an_upload(State.PARKED, path=path, last_error=replace(LAST_ERROR, next_try=None)))
    )
    assert "state    parked, 40 of 100 bytes acknowledged" in text
    assert "reason   the server said no (failures in a row: 2)" in text
    asks = NEXT_ACTION[ActionBy.OPERATOR].format(command=typed("retry", path))
    assert text.endswith(f"result   not finished: {asks}")


def test_explain_covers_settling_and_sent_files(tmp_path: Path) -> None:
    """A settling file has its reason; a sent one its ledger line."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    settling = replace(SETTLING, sighting=replace(SETTLING.sighting, path=str(path)))
    assert explained(tmp_path, path, known(settling=[settling])).endswith("result   settling: it must be unchanged")
    text = explained(tmp_path, path, known(), sent(path))
    assert "ledger   line 3: sent as record record-1, 1 B" in text
    assert text.endswith("result   uploaded; it is sent again only if its content changes")


@pytest.mark.parametrize(("word", "said"), [("failed", True), ("created", False), ("ready", False), ("", False)])
def test_explain_shows_an_unexpected_video_status(tmp_path: Path, word: str, *, said: bool) -> None:
    """A server that says "failed" is reported at once, not only after the ready time-out."""
    upload = an_upload(State.VERIFYING)
    facts = explain.FileFacts(upload, last_word=word)
    lines = explain.explanation(config_of(tmp_path), upload.path, facts, EPOCH, "missing")
    assert ("reason   the server says: failed" in lines) is said


def test_an_mtime_of_the_far_future_is_a_date(tmp_path: Path) -> None:
    """Shares report such times."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    os.utime(path, (0, 2**33))
    assert "last written 2242-03-1" in explained(tmp_path, path, known())

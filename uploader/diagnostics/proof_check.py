"""Tests, for ``check``, which evidence of an arrival can be had: asks about the last recording that was sent."""

from __future__ import annotations

from typing import Final

from uploader.config import Config
from uploader.diagnostics.finding import Finding
from uploader.domain import errors
from uploader.domain.model import FinishedUpload, RecordIds, shown
from uploader.server.port import Server
from uploader.store import LedgerLine
from uploader.store.codec import UnreadableContent, from_json
from uploader.store.disk import StateFolder, may_exist
from uploader.store.ledger import LEDGER_FILE

TAIL: Final = 64 * 1024  # bytes of the ledger's end that are read; a line is at most some KiB
KEPT: Final = "recordings are kept until that works"


async def check_proof(config: Config, valt: Server) -> Finding:
    """Ask for the size of the last recording that was sent."""
    if all((config.upload.proof if watch.proof is None else watch.proof) == "ready" for watch in config.watch):
        return Finding("proof", 'skipped, since proof = "ready": the server is believed', "warning")
    last = last_finished(config)
    if last is None:
        text = "not tried, since nothing was sent yet; to try it with a test video, type: valt-uploader check --probe"
        return Finding("proof", text)
    try:
        size = await valt.video_size(RecordIds(last.record, last.video), confirm=True)
    except errors.RecordGone:
        return Finding("proof", f"not tried, since {shown(last.path)} is no longer on the server")
    except errors.UploaderError as error:
        return Finding("proof", f"arrivals cannot be proven: {error}; {KEPT}", "error")
    if size is None:
        return Finding("proof", "the server tells no sizes, so recordings are fetched back to be compared")
    if size == last.size:
        return Finding("proof", "the server hands out what it got: arrivals are proven by their size")
    text = f"the server hands out {size} bytes of {shown(last.path)}, where {last.size} were sent"
    if last.proof == "duration":
        return Finding("proof", f"{text}: it transcodes, so durations are compared")
    return Finding(
        "proof", f"{text}: it transcodes, or has lost a part; valt-uploader check --probe finds out", "error"
    )


def last_finished(config: Config) -> FinishedUpload | None:
    """Read the last line of the ledger; None when there is none, or it cannot be read."""
    folder = config.state.dir
    try:
        if not may_exist(folder):
            return None
        disk = StateFolder(folder, lock=False)
        try:
            size = disk.size(LEDGER_FILE) or 0
            tail = disk.read_at(LEDGER_FILE, max(0, size - TAIL), min(size, TAIL))
        finally:
            disk.close()
        complete = tail.rpartition(b"\n")[0]
        return from_json(LedgerLine, complete.rpartition(b"\n")[2]).upload if complete else None
    except (OSError, UnreadableContent, errors.UploaderError):  # another line of the report is about that
        return None

"""Reads state and ledger at a start. An unreadable or lost file is never taken for an empty one."""

from __future__ import annotations

from typing import Final

from uploader.domain import errors
from uploader.store import codec
from uploader.store import ledger as ledger_file
from uploader.store.disk import PREVIOUS_SUFFIX, Disk
from uploader.store.ledger import Ledger

STATE_FILE: Final = "state.json"


def load_state(disk: Disk) -> codec.StateSnapshot:
    """Read ``state.json``; a first start creates it. Raises ``StateUnusable`` with what to do about it."""
    content, where = disk.read(STATE_FILE), disk.where(STATE_FILE)
    if content is None:
        return _first_start(disk)
    try:
        return codec.decode_state(content)
    except codec.NewerVersion as error:
        raise errors.StateUnusable(
            f"{where}: {error}", hint="install that version again, or newer; this one will not touch the file"
        ) from None
    except codec.UnreadableContent as error:
        raise errors.StateUnusable(f"{where} is damaged: {error}", hint=_hint_for_damage(disk)) from None


def read_state(disk: Disk) -> codec.StateSnapshot:
    """Read ``state.json`` without creating it; a folder that was never used has an empty state."""
    if disk.size(STATE_FILE) is not None:
        return load_state(disk)
    _refuse_lost_state(disk)
    return codec.StateSnapshot()


def read_both(disk: Disk) -> tuple[codec.StateSnapshot, Ledger]:
    """Read both files without changing them. Raises ``StateUnusable``."""
    saved = read_state(disk)  # first: a running daemon writes a line before the state that counts it
    return saved, open_ledger(disk, saved, repair=False)


def open_ledger(disk: Disk, saved: codec.StateSnapshot, *, repair: bool) -> Ledger:
    """Read the ledger, whose end the state knows. *repair*: cut off a torn last line. Raises ``StateUnusable``."""
    try:
        return Ledger(disk, repair=repair, expected_head=saved.ledger)
    except codec.UnreadableContent as error:
        raise ledger_file.unusable(disk, error) from None
    except OSError as error:  # from cutting off a torn line; errors of reading are StateUnusable
        raise _unwritable(disk, ledger_file.LEDGER_FILE, error) from None


def _unwritable(disk: Disk, name: str, error: OSError) -> errors.StateUnusable:
    return errors.StateUnusable(
        f"{disk.where(name)} cannot be written: {error.strerror}", hint="make the state folder writable", exit_code=73
    )


def _refuse_lost_state(disk: Disk) -> None:
    """Raise ``StateUnusable`` when only ``state.json`` is missing: it was lost then, and this is no first start."""
    for name in (STATE_FILE + PREVIOUS_SUFFIX, ledger_file.LEDGER_FILE):
        if disk.size(name) is not None:
            raise errors.StateUnusable(
                f"{disk.where(STATE_FILE)} is missing, but {name} is there",
                hint=f"{_hint_for_damage(disk)}; or, to start with an empty state, move {name} away too",
            )


def _first_start(disk: Disk) -> codec.StateSnapshot:
    _refuse_lost_state(disk)
    saved = codec.StateSnapshot(sequence=1)
    try:
        disk.replace(STATE_FILE, codec.encode_state(saved, now=0.0))
    except OSError as error:
        raise _unwritable(disk, STATE_FILE, error) from None
    return saved


def _hint_for_damage(disk: Disk) -> str:
    previous = disk.read(STATE_FILE + PREVIOUS_SUFFIX)
    if previous is not None:
        try:
            codec.decode_state(previous)
        except codec.UnreadableContent:
            return f"{STATE_FILE}{PREVIOUS_SUFFIX} is damaged, too; put {STATE_FILE} back from a copy"
        return f"the save before it, {STATE_FILE}{PREVIOUS_SUFFIX}, is whole: copy it to {STATE_FILE} and start again"
    return f"put {STATE_FILE} back from a copy"

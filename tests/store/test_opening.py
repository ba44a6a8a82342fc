"""A start reads state and ledger: no empty start over a file that is unreadable or lost."""

from __future__ import annotations

import pytest
from fakes import EPOCH, FailingDisk, MemoryDisk, VirtualClock, an_upload

from uploader.domain import errors, events
from uploader.domain.model import State
from uploader.store import Store
from uploader.store import ledger as ledger_file
from uploader.store.codec import StateSnapshot, encode_state
from uploader.store.opening import STATE_FILE, load_state, read_state

SENDING = an_upload(State.SENDING)


def test_a_first_start_makes_the_state() -> None:
    """So that a state that is missing later is known to be lost."""
    disk = MemoryDisk()
    assert load_state(disk).uploads == ()
    assert STATE_FILE in disk.files


def test_a_first_start_that_cannot_write_ends_the_daemon() -> None:
    """Exit 73: it never runs without a saved state."""
    with pytest.raises(errors.StateUnusable, match="cannot be written: No space left") as caught:
        load_state(FailingDisk(MemoryDisk(), "replace"))
    assert caught.value.exit_code == 73


def test_reading_the_state_makes_no_file() -> None:
    """Status on a machine where the daemon never ran shows an empty state."""
    disk = MemoryDisk()
    assert read_state(disk) == StateSnapshot()
    assert disk.files == {}


@pytest.mark.parametrize("left", [STATE_FILE + ".1", ledger_file.LEDGER_FILE])
def test_a_missing_state_beside_a_ledger_is_refused(left: str) -> None:
    """It was deleted or lost: starting empty would send everything again."""
    disk = MemoryDisk(**{left: encode_state(StateSnapshot(1), now=EPOCH) if left != ledger_file.LEDGER_FILE else b""})
    with pytest.raises(errors.StateUnusable, match=f"state.json is missing, but {left} is there") as caught:
        load_state(disk)
    assert caught.value.exit_code == 78
    assert STATE_FILE not in disk.files
    assert f"move {left} away" in caught.value.hint


WHOLE = encode_state(StateSnapshot(1, (SENDING,)), now=EPOCH)


@pytest.mark.parametrize("content", [b"", b"\0" * 300, WHOLE[:-9], WHOLE.replace(b"sending", b"sendinh"), b"[]"])
def test_a_damaged_state_stops_the_daemon_and_is_left_alone(content: bytes) -> None:
    """Truncated, empty, zeros, flipped, foreign: exit 78, and the file stays."""
    disk = MemoryDisk(**{STATE_FILE: content})
    with pytest.raises(
        errors.StateUnusable, match=r"state.json is damaged: .*; put state.json back from a copy"
    ) as caught:
        Store(disk, VirtualClock(), events.Bus())
    assert caught.value.exit_code == 78
    assert disk.files == {STATE_FILE: content}


@pytest.mark.parametrize(
    ("previous", "hint"),
    [(WHOLE, r"state.json.1, is whole: copy it to state.json"), (WHOLE[:-1], "state.json.1 is damaged, too")],
)
def test_the_hint_recommends_the_previous_generation_only_if_it_is_valid(previous: bytes, hint: str) -> None:
    """It is read first."""
    with pytest.raises(errors.StateUnusable, match=hint):
        load_state(MemoryDisk(**{STATE_FILE: b"", STATE_FILE + ".1": previous}))


def test_a_state_of_a_newer_version_is_left_alone() -> None:
    """Exit 78 with the remedy: install that version again."""
    content = WHOLE.replace(b'"version": 1', b'"version": 2')
    disk = MemoryDisk(**{STATE_FILE: content})
    with pytest.raises(errors.StateUnusable, match=r"newer valt-uploader .* install that version again") as caught:
        load_state(disk)
    assert (caught.value.exit_code, disk.files) == (78, {STATE_FILE: content})


def test_a_broken_ledger_stops_the_daemon() -> None:
    """It says which line, and the ledger is not touched."""
    disk = MemoryDisk(**{STATE_FILE: WHOLE, ledger_file.LEDGER_FILE: b"{}\n"})
    with pytest.raises(errors.StateUnusable, match=r"ledger.jsonl: line 1: .*it is never rewritten") as caught:
        Store(disk, VirtualClock(), events.Bus())
    assert (caught.value.exit_code, disk.files[ledger_file.LEDGER_FILE]) == (78, b"{}\n")

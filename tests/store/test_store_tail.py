"""The state confirms the ledger's end: it is written after the line that it counts, and compared at each start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from fakes import EPOCH, FailingDisk, MemoryDisk, VirtualClock, a_finish, an_upload, next_value
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain import errors, events
from uploader.domain.model import Orphan, ServerCapabilities, State
from uploader.store import Store
from uploader.store.codec import LedgerHead, StateSnapshot, UnreadableContent, decode_state, encode_state
from uploader.store.disk import Disk, Piece, StateFolder
from uploader.store.ledger import GENESIS, LEDGER_FILE, Ledger
from uploader.store.opening import STATE_FILE, read_both

SENDING = an_upload(State.SENDING)
T = TypeVar("T")

# As the first builds of 0.1.0 wrote it: no word of the ledger.
BEFORE = b"""\
{"format": "valt-uploader state", "version": 1, "sequence": 9, "saved": "2027-01-15T08:00:00+00:00", \
"sha256": "82038ec89b2c10e076bfa7c86efb00f3a67b7da1ed372c66023c37c73a2bf712",
 "uploads": [
  {"path": "/rec/a.mp4", "root": "/rec", "identity": {"size": 100, "mtime_ns": 1700000000000000000, "edges": "e1"}, \
"record": {"name": "a", "template": {}, "share": {"users": [], "groups": []}}, "chunk_size": 40, "state": "sending", \
"after_upload": "keep", "ids": {"record": "record-1", "video": "video-1"}, "offset": 40, "digest": "d1", "chunks": 1, \
"doubt_digest": "", "intent_at": 1800000000.0, "begun_at": 1800000000.0, "restarts": 0}
 ],
 "orphans": [
  {"record": "record-9", "name": "a", "path": "/rec/a.mp4", "since": 1800000000.0, "next_look": 1800000020.0, \
"landed": false}
 ],
 "learnt": {"chunk_limit": 65536, "login_refusals": 0}
}
"""


def opened(disk: Disk) -> Store:
    """A store over this disk."""
    return Store(disk, VirtualClock(), events.Bus())


def tail_of(disk: MemoryDisk) -> LedgerHead | None:
    """What the state on the disk says of the ledger."""
    return decode_state(disk.files[STATE_FILE]).ledger


async def with_history(count: int = 3) -> MemoryDisk:
    """A disk with *count* finished files, and a save after them."""
    disk = MemoryDisk()
    store = opened(disk)
    for number in range(1, count + 1):
        await store.finish(a_finish(f"/rec/{number}.mp4", f"record-{number}"))
    await store.save(SENDING)
    await store.close()
    return disk


async def test_a_save_counts_the_lines_that_were_written_before_it() -> None:
    """With the hash of the last one; a line alone writes no state."""
    disk = MemoryDisk()
    store = opened(disk)
    await store.save(SENDING)
    assert tail_of(disk) == LedgerHead(0, GENESIS)
    await store.finish(a_finish())
    assert tail_of(disk) == LedgerHead(0, GENESIS)
    store.drop(store.uploads[SENDING.path])
    await store.commit()
    assert tail_of(disk) == store.ledger.head == LedgerHead(1, store.ledger.head.last)
    await store.close()


async def test_a_ledger_that_lost_its_end_stops_the_daemon() -> None:
    """Exit 78 with the file, what is missing and both remedies; nothing is changed."""
    disk = await with_history()
    lines = disk.files[LEDGER_FILE].splitlines(keepends=True)
    for left in (lines[:2], lines[:1], [], [*lines[:2], lines[2][:40]], [*lines[:2], lines[2].rstrip(b"\n")]):
        before = disk.files | {LEDGER_FILE: b"".join(left)}
        spoilt = MemoryDisk(**before)
        with pytest.raises(errors.StateUnusable, match=r"ledger.jsonl: it .*, but the state has seen line 3") as caught:
            opened(spoilt)
        assert caught.value.exit_code == 78
        assert "put the whole file back from a copy" in caught.value.hint
        assert spoilt.files == before
        with pytest.raises(errors.StateUnusable):
            read_both(spoilt)
    del disk.files[LEDGER_FILE]
    with pytest.raises(errors.StateUnusable, match="it is missing or empty"):
        opened(disk)


async def test_a_last_line_that_was_changed_stops_the_daemon() -> None:
    """No later line confirms it, but the state does."""
    disk = await with_history()
    disk.files[LEDGER_FILE] = disk.files[LEDGER_FILE].replace(b"record-3", b"record-4")
    assert Ledger(disk).count == 3
    with pytest.raises(errors.StateUnusable, match="line 3: it is not the line that the state has seen") as caught:
        opened(disk)
    assert caught.value.exit_code == 78


async def test_a_state_without_its_count_accepts_the_remaining_lines() -> None:
    """As the hint says: its count and checksum are removed by the operator."""
    disk = await with_history()
    lines = disk.files[LEDGER_FILE].splitlines(keepends=True)
    disk.files[LEDGER_FILE] = b"".join(lines[:2])
    tail, state = tail_of(disk), disk.files[STATE_FILE].decode()
    assert tail is not None
    state = state.replace(f',\n "ledger": {{"count": 3, "last": "{tail.last}"}}', "")
    head, rest = state.split("\n", 1)
    disk.files[STATE_FILE] = (head[: head.index(', "sha256"')] + ",\n" + rest).encode()
    store = opened(disk)
    assert store.ledger.count == 2
    await store.save(next_value(store, SENDING))
    assert tail_of(disk) == store.ledger.head
    await store.close()


async def test_a_state_of_an_older_version_without_a_count_loads() -> None:
    """Everything in it is there, and the next save counts the ledger's lines."""
    history = await with_history(2)
    disk = MemoryDisk(**{STATE_FILE: BEFORE, LEDGER_FILE: history.files[LEDGER_FILE]})
    assert decode_state(BEFORE) == StateSnapshot(
        9,
        (SENDING,),
        (Orphan("record-9", "a", "/rec/a.mp4", EPOCH, EPOCH + 20),),
        ServerCapabilities(chunk_limit=65536),
        ledger=None,
    )
    store = opened(disk)
    assert store.ledger.count == 2
    await store.save(next_value(store, replace(SENDING, offset=80)))
    assert tail_of(disk) == store.ledger.head
    await store.close()


@pytest.mark.parametrize(
    ("value", "said"),
    [("null", "ledger: expected an object"), ('{"count": 1}', "missing last"), ('{"count": -1, "last": ""}', "count")],
)
def test_a_count_of_the_wrong_shape_is_refused(value: str, said: str) -> None:
    """The state counts as damaged."""
    text = encode_state(StateSnapshot(1), now=EPOCH).decode()
    head, rest = text.split("\n", 1)
    rest = rest.replace("\n}\n", f',\n "ledger": {value}\n}}\n')
    with pytest.raises(UnreadableContent, match=said):
        decode_state((head[: head.index(', "sha256"')] + ",\n" + rest).encode())


class Diary(MemoryDisk):
    """A disk that keeps what it held after every write: what a kill or a power cut right then leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[tuple[dict[str, bytes], int]] = []  # files, and how much was acknowledged then
        self.acknowledged = 0

    def replace(self, name: str, *content: Piece) -> None:
        """Replace, and note it."""
        super().replace(name, *content)
        self.pages.append((dict(self.files), self.acknowledged))

    def append(self, name: str, content: bytes) -> None:
        """Append in three writes, and note each."""
        third = len(content) // 3
        for piece in (content[:third], content[third:-1], content[-1:]):
            super().append(name, piece)
            self.pages.append((dict(self.files), self.acknowledged))


@given(st.lists(st.sampled_from(["finish", "save", "finish", "again"]), max_size=8))
async def test_every_crash_leaves_a_state_that_starts(steps: list[str]) -> None:
    """Between two writes and within a line: state and ledger match, and no confirmed line is missing."""
    disk = Diary()
    store = opened(disk)
    finished = 0
    for number, step in enumerate(steps):
        if step == "save":
            await store.save(next_value(store, replace(SENDING, restarts=number)))
        elif step == "again":  # after a crash between line and save the upload is finished once more
            await store.finish(a_finish(record=f"record-{finished}"))
        else:
            finished += 1
            await store.finish(a_finish(record=f"record-{finished}"))
        disk.acknowledged = store.ledger.count
    await store.close()
    for files, acknowledged in disk.pages:
        again = opened(MemoryDisk(**files))
        assert again.ledger.count in {acknowledged, acknowledged + 1}
        await again.close()
    # The generation before, which the hint for a damaged state recommends, fits too.
    for files, acknowledged in disk.pages:
        if STATE_FILE + ".1" in files:
            again = opened(MemoryDisk(**(files | {STATE_FILE: files[STATE_FILE + ".1"]})))
            assert again.ledger.count in {acknowledged, acknowledged + 1}
            await again.close()


class Busy(MemoryDisk):
    """A disk on which a daemon finishes a file, line and save, after each thing that a reader has read."""

    def __init__(self, **files: bytes) -> None:
        super().__init__(**files)
        self.daemon = Ledger(MemoryDisk(**files))

    def read(self, name: str) -> bytes | None:
        """Return the whole file as it was."""
        return self._and_then(super().read(name))

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return that part of the file as it was."""
        return self._and_then(super().read_at(name, offset, length))

    def _and_then(self, content: T) -> T:
        self.daemon.append(a_finish(record=f"record-{self.daemon.count + 1}"))
        self.files[LEDGER_FILE] = self.daemon._disk.read(LEDGER_FILE) or b""
        self.files[STATE_FILE] = encode_state(StateSnapshot(1, ledger=self.daemon.head), now=EPOCH)
        return content


async def test_a_reader_beside_the_daemon_finds_no_damage() -> None:
    """It reads the state first, so the ledger has at least as many lines as the state counts."""
    disk = Busy(**(await with_history(2)).files)
    saved, ledger = read_both(disk)
    assert saved.ledger is not None
    assert saved.ledger.count == 2 < ledger.count < disk.daemon.count


async def test_a_reader_cuts_nothing_off() -> None:
    """The last line may be in the middle of being written."""
    disk = await with_history(2)
    disk.files[LEDGER_FILE] += b'{"seq": 3, "prev'
    before = dict(disk.files)
    assert read_both(disk)[1].count == 2
    assert disk.files == before


async def test_every_error_names_the_file_with_its_folder(tmp_path: Path) -> None:
    """A machine may have two daemons."""
    folder = tmp_path / "state"
    store = opened(StateFolder(folder))
    await store.finish(a_finish())
    await store.save(SENDING)
    await store.close()
    state, ledger = (folder / STATE_FILE).read_bytes(), (folder / LEDGER_FILE).read_bytes()
    spoils = [
        (LEDGER_FILE, b"{}\n", f"{folder}/ledger.jsonl: line 1: "),
        (LEDGER_FILE, ledger[:-9], f"{folder}/ledger.jsonl: it is missing or empty"),
        (STATE_FILE, b"{", f"{folder}/state.json is damaged: "),
        (
            STATE_FILE,
            state.replace(b'"version": 1', b'"version": 2'),
            f"{folder}/state.json: it was written by a newer",
        ),
        (STATE_FILE, None, f"{folder}/state.json is missing, but state.json.1 is there"),
    ]
    for name, content, complaint in spoils:
        (folder / STATE_FILE).write_bytes(state)
        (folder / LEDGER_FILE).write_bytes(ledger)
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        disk = StateFolder(folder)
        with pytest.raises(errors.StateUnusable) as caught:
            opened(disk)
        disk.close()
        assert str(caught.value).startswith(complaint)
    (folder / LEDGER_FILE).unlink()
    (folder / LEDGER_FILE).mkdir()
    (folder / STATE_FILE).write_bytes(state)
    disk = StateFolder(folder)
    with pytest.raises(errors.StateUnusable, match=f"{folder}/ledger.jsonl cannot be read: it is not a regular file"):
        opened(disk)
    disk.close()


async def test_an_incomplete_line_that_cannot_be_cut_off_ends_the_daemon() -> None:
    """Exit 73, as it could not write later either."""
    memory = await with_history(1)
    memory.files[LEDGER_FILE] += b'{"seq": 2'
    with pytest.raises(errors.StateUnusable, match=r"ledger.jsonl cannot be written: No space left") as caught:
        opened(FailingDisk(memory, "truncate"))
    assert caught.value.exit_code == 73

"""The index of the ledger: answers for a scan come from memory, proofs from the line itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from fakes import FailingDisk, MemoryDisk, a_finish
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain import errors
from uploader.domain.model import FinishedUpload, Identity
from uploader.store import index
from uploader.store import ledger as ledger_file
from uploader.store import touched as touched_file
from uploader.store.ledger import LEDGER_FILE, Ledger, LedgerEntry

# Few of each, so that they meet: two paths that only raw bytes tell apart, and times before 1970 and after 2262.
PATHS = ["/rec/a.mp4", "/rec/b.mp4", os.fsdecode(b"/rec/\xff.mp4"), "/rec/ä.mp4", "/rec/a\u0308.mp4"]
SIZES = [1, 2, 2**50]
TIMES = [1_700_000_000_000_000_000, 0, -11_644_473_600_000_000_000, 2**63 + 5]
EDGES = ["e1", "e2"]


def known_of(finished: FinishedUpload, seq: int) -> LedgerEntry:
    """What the ledger is to say of this line."""
    return LedgerEntry(
        finished.size, finished.mtime_ns, finished.edges, finished.sha256, finished.record, seq, finished.path
    )


@dataclass
class Plain:
    """A ledger as one would write it if memory were free: the words that the real one is held to."""

    lines: list[LedgerEntry] = field(default_factory=list)
    touched: dict[str, LedgerEntry] = field(default_factory=dict)

    def of(self, path: str) -> tuple[LedgerEntry, ...]:
        """Everything of this path; what was looked at anew and is as its line says is no more than that line."""
        lines = [line for line in self.lines if line.path == path]
        again = self.touched.get(path)
        return (*lines, *([] if again is None or again in lines else [again]))

    def knows(self, path: str, size: int, mtime_ns: int) -> bool:
        """Whether a line, or what was touched, says so."""
        return (size, mtime_ns) in {(known.size, known.mtime_ns) for known in self.of(path)}

    def newest(self, identity: Identity, path: str, *, here: bool) -> LedgerEntry | None:
        """The newest line of this content, of this path or of any other."""
        fitting = (
            line
            for line in reversed(self.lines)
            if (line.path == path) is here and (line.size, line.edges) == (identity.size, identity.edges)
        )
        return next(fitting, None)


finishes = st.builds(
    a_finish,
    st.sampled_from(PATHS),
    st.sampled_from(["record-1", "record-2", "record-3"]),
    size=st.sampled_from(SIZES),
    mtime_ns=st.sampled_from(TIMES),
    edges=st.sampled_from(EDGES),
)
touches = st.tuples(st.sampled_from(PATHS), st.integers(0, 9), st.sampled_from(TIMES))


def agree(ledger: Ledger, plain: Plain) -> None:
    """Ask both everything there is to ask."""
    for path in PATHS:
        assert ledger.of(path) == plain.of(path)
        for size in SIZES:
            for mtime_ns in TIMES:
                assert ledger.knows(path, size, mtime_ns) == plain.knows(path, size, mtime_ns)
            for edges in EDGES:
                identity = Identity(size, 7, edges)
                assert ledger.alike(path, identity) == plain.newest(identity, path, here=True)
                assert ledger.alike_elsewhere(identity, path) == plain.newest(identity, path, here=False)
    for record in ("record-1", "record-2", "record-4"):
        assert ledger.holds(record) == (record in {line.record for line in plain.lines})


def filled(disk: MemoryDisk, history: list[FinishedUpload | tuple[str, int, int]]) -> tuple[Ledger, Plain]:
    """A ledger with this history, and its plain twin: lines, and what was touched of them."""
    ledger, plain = Ledger(disk), Plain()
    for step in history:
        if isinstance(step, FinishedUpload):
            ledger.append(step)
            plain.lines.append(known_of(step, len(plain.lines) + 1))
        elif plain.lines:
            path, number, mtime_ns = step
            known = plain.lines[number % len(plain.lines)]
            line = replace(known, line=hashlib.sha256(disk.files[LEDGER_FILE].split(b"\n")[known.seq - 1]).hexdigest())
            ledger.touch(path, line, mtime_ns)
            ledger.note_touched(path, line, mtime_ns)
            plain.touched[path] = LedgerEntry(
                known.size, mtime_ns, known.edges, known.sha256, known.record, known.seq, known.path
            )
    return ledger, plain


@given(st.lists(finishes | touches, max_size=12))
def test_every_answer_equals_that_of_a_plain_list(history: list[FinishedUpload | tuple[str, int, int]]) -> None:
    """After any history, also over a restart, and when the record of touched files is lost."""
    disk = MemoryDisk()
    ledger, plain = filled(disk, history)
    agree(ledger, plain)
    agree(Ledger(disk), plain)
    disk.files.pop(touched_file.TOUCHED_FILE, None)
    agree(Ledger(disk), Plain(plain.lines))


@pytest.fixture
def one_key() -> Iterator[None]:
    """The worst that a short key can do: all are equal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_file, "key_of_value", lambda value: 7)
        patch.setattr(ledger_file, "_fingerprint_key", lambda fingerprint: 7)
        yield


@pytest.mark.usefixtures("one_key")
@given(st.lists(finishes, max_size=8))
def test_no_answer_rests_on_a_key(history: list[FinishedUpload]) -> None:
    """When all keys are equal, nothing is called sent that was not, and every path still finds its own lines.

    Only a copy elsewhere is not found then, and is sent.
    """
    disk = MemoryDisk()
    _, plain = filled(disk, list(history))
    ledger = Ledger(disk)
    for path in PATHS:
        assert ledger.of(path) == plain.of(path)
        assert ledger.alike_elsewhere(Identity(1, 0, "e1"), path) is None
        for size in SIZES:
            assert ledger.alike(path, Identity(size, 7, "e1")) == plain.newest(Identity(size, 7, "e1"), path, here=True)
            for mtime_ns in TIMES:
                assert ledger.knows(path, size, mtime_ns) == plain.knows(path, size, mtime_ns)
    assert ledger.holds("record-1") == any(line.record == "record-1" for line in plain.lines)


def test_a_copy_is_found_by_its_content_and_not_by_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the keys of all contents are equal, the lines decide."""
    key_of_value = index.key_of_value
    monkeypatch.setattr(
        ledger_file, "key_of_value", lambda value: 7 if isinstance(value, tuple) else key_of_value(value)
    )
    ledger, _ = filled(MemoryDisk(), [a_finish("/rec/a.mp4", size=1), a_finish("/rec/b.mp4", size=2)])
    found = ledger.alike_elsewhere(Identity(1, 0, "e1"), "/rec/c.mp4")
    assert found is not None
    assert found.path == "/rec/a.mp4"
    assert ledger.alike_elsewhere(Identity(3, 0, "e1"), "/rec/c.mp4") is None


def test_size_and_time_are_separate_in_a_key() -> None:
    """1 and 11 are not 11 and 1."""
    ledger, _ = filled(MemoryDisk(), [a_finish("/rec/a.mp4", size=1, mtime_ns=11)])
    assert ledger.knows("/rec/a.mp4", 1, 11)
    assert not ledger.knows("/rec/a.mp4", 11, 1)


@pytest.mark.usefixtures("one_key")
def test_a_touched_time_applies_to_its_own_path_alone() -> None:
    """Also when two paths have equal keys."""
    ledger = Ledger(MemoryDisk())
    ledger.append(a_finish("/rec/a.mp4", size=1))
    ledger.touch("/rec/a.mp4", ledger.of("/rec/a.mp4")[0], 5)
    assert ledger.knows("/rec/a.mp4", 1, 5)
    assert not ledger.knows("/rec/b.mp4", 1, 5)
    assert ledger.of("/rec/b.mp4") == ()


def test_a_scan_reads_no_ledger_line() -> None:
    """Memory answers for every file, even while the disk does not."""
    memory = MemoryDisk()
    filled(memory, [a_finish(f"/rec/{number}.mp4", size=number) for number in range(5)])
    disk = FailingDisk(memory)
    ledger = Ledger(disk)
    ledger.touch("/rec/4.mp4", ledger.of("/rec/4.mp4")[0], 9)
    disk.refuses.add("read")
    mtime_ns = a_finish().mtime_ns
    assert [ledger.knows(f"/rec/{number}.mp4", number, mtime_ns) for number in range(6)] == [True] * 5 + [False]
    assert ledger.knows("/rec/4.mp4", 4, 9)
    assert not ledger.knows("/rec/4.mp4", 4, 10)


def test_a_proof_reads_only_the_lines_it_needs() -> None:
    """However long the history is: those of one path, and none when no line can match."""
    memory = MemoryDisk()
    history = [a_finish(f"/rec/{number % 30}.mp4", f"record-{number}", size=number) for number in range(60)]
    filled(memory, list(history))
    disk = FailingDisk(memory)
    ledger = Ledger(disk)

    def reads() -> int:
        asked, disk.asked = len(disk.asked), []
        return asked

    reads()
    assert len(ledger.of("/rec/7.mp4")) == reads() == 2
    assert ledger.of("/rec/other.mp4") == ()
    assert ledger.holds("record-other") is False
    assert ledger.alike("/rec/7.mp4", Identity(7, 0, "other")) is None
    assert ledger.alike_elsewhere(Identity(7, 0, "e1"), "/rec/7.mp4") is None
    assert reads() == 0
    assert ledger.holds("record-7")
    assert ledger.alike("/rec/7.mp4", Identity(37, 0, "e1")) is not None
    assert ledger.alike_elsewhere(Identity(7, 0, "e1"), "/rec/other.mp4") is not None
    assert reads() == 3


def test_a_copy_elsewhere_is_named_with_its_path() -> None:
    """The file's own line does not count."""
    ledger, _ = filled(MemoryDisk(), [a_finish("/rec/a.mp4", "record-1"), a_finish("/rec/b.mp4", "record-2")])
    identity = a_finish().identity
    elsewhere = ledger.alike_elsewhere(identity, "/rec/c.mp4")
    assert elsewhere is not None
    assert (elsewhere.path, elsewhere.record, elsewhere.seq) == ("/rec/b.mp4", "record-2", 2)
    own = ledger.alike_elsewhere(identity, "/rec/b.mp4")
    assert own is not None
    assert own.path == "/rec/a.mp4"


def test_touched_times_cost_one_entry_for_each_path() -> None:
    """Only the last time is kept, besides the one in the line."""
    ledger, _ = filled(MemoryDisk(), [a_finish("/rec/a.mp4", size=1)])
    known = ledger.of("/rec/a.mp4")[0]
    for mtime_ns in range(100):
        ledger.touch("/rec/a.mp4", known, mtime_ns)
    assert len(ledger._touched) == 1
    assert ledger.knows("/rec/a.mp4", 1, 99)
    assert ledger.knows("/rec/a.mp4", 1, known.mtime_ns)
    assert not ledger.knows("/rec/a.mp4", 1, 98)


def test_every_line_is_found_after_the_index_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, however often the table was enlarged."""
    monkeypatch.setattr(index, "SMALLEST_TABLE", 2)
    monkeypatch.setattr(index, "GROWTH", 2)
    table = index.Index()
    keys = [number % 50 * (2**58) + number % 3 for number in range(500)]
    for key in keys:
        table.add(key)
    for key in set(keys):
        assert table.find(key) == [number for number in range(500, 0, -1) if keys[number - 1] == key]
    assert table.find(2**64 - 1) == []
    assert len(table._heads) == 512
    chained = [(number, before) for number, before in enumerate(table._before, start=1) if before]
    assert all(keys[number - 1] % 512 == keys[before - 1] % 512 for number, before in chained)  # and no longer ones


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (b"", "line 2 cannot be read: it was changed since the start: it is empty"),
        (b"{}", "line 2 cannot be read: it was changed since the start: ledgerline: missing"),
    ],
)
def test_a_line_that_has_gone_raises(left: bytes, said: str) -> None:
    """The ledger was damaged while the daemon runs: the error names file and line."""
    disk = MemoryDisk()
    ledger, _ = filled(disk, [a_finish("/rec/a.mp4"), a_finish("/rec/b.mp4")])
    first = disk.files[LEDGER_FILE].index(b"\n") + 1
    disk.files[LEDGER_FILE] = disk.files[LEDGER_FILE][:first] + left
    with pytest.raises(errors.LedgerUnreadable, match=f"ledger.jsonl: {said}"):
        ledger.of("/rec/b.mp4")
    disk.files[LEDGER_FILE] = disk.files[LEDGER_FILE][:first] + disk.files[LEDGER_FILE][:first]
    with pytest.raises(errors.LedgerUnreadable, match=r"changed since the start: it says it is line 1"):
        ledger.of("/rec/b.mp4")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/rec/b.mp4", b"/rec/c.mp4"),
        (b"record-2", b"record-3"),
        (b'"size": 100', b'"size": 101'),
        (b'"edges": "e1"', b'"edges": "e2"'),
    ],
)
def test_a_line_that_has_been_replaced_raises(old: bytes, new: bytes) -> None:
    """It is valid, but not the line that was read at the start."""
    disk = MemoryDisk()
    ledger, _ = filled(disk, [a_finish("/rec/a.mp4"), a_finish("/rec/b.mp4", "record-2")])
    first = disk.files[LEDGER_FILE].index(b"\n") + 1
    assert disk.files[LEDGER_FILE][first:].count(old) == 1
    disk.files[LEDGER_FILE] = disk.files[LEDGER_FILE][:first] + disk.files[LEDGER_FILE][first:].replace(old, new)
    for question in (
        lambda: ledger.of("/rec/b.mp4"),
        lambda: ledger.alike("/rec/b.mp4", Identity(100, 0, "e1")),
        lambda: ledger.alike_elsewhere(Identity(100, 0, "e1"), "/rec/c.mp4"),
        lambda: ledger.holds("record-2"),
    ):
        with pytest.raises(errors.LedgerUnreadable, match="line 2 cannot be read") as caught:
            question()
        assert "put the whole file back from a copy" in caught.value.hint
    assert ledger.of("/rec/a.mp4")  # all other lines say what they said
    assert not ledger.holds("record-4")


def test_a_read_error_after_the_start_ends_nothing() -> None:
    """Fatal at the start, it is later an error about one line."""

    class Spoilt(MemoryDisk):
        def read_at(self, name: str, offset: int, length: int) -> bytes:
            raise errors.StateUnusable("ledger.jsonl cannot be read: Input/output error")

    disk = MemoryDisk()
    ledger, _ = filled(disk, [a_finish("/rec/a.mp4")])
    ledger._disk = Spoilt(**disk.files)
    with pytest.raises(errors.LedgerUnreadable, match=r"line 1 cannot be read: .*Input/output error"):
        ledger.of("/rec/a.mp4")


def test_a_record_is_found_beside_a_line_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two records with one key, the readable line is enough for a yes, but not for a no."""
    monkeypatch.setattr(ledger_file, "key_of_value", lambda value: 7)
    disk = MemoryDisk()
    ledger, _ = filled(disk, [a_finish("/rec/a.mp4", "record-1"), a_finish("/rec/b.mp4", "record-2")])
    disk.files[LEDGER_FILE] = b"x" + disk.files[LEDGER_FILE][1:]
    assert ledger.holds("record-2")
    for record in ("record-1", "record-3"):
        with pytest.raises(errors.LedgerUnreadable, match="line 1"):
            ledger.holds(record)

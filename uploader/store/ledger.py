"""Keeps the ledger, ``ledger.jsonl``: one line for each finished upload, with the hash of the line before it.

It is append-only and fsynced, and is also the list of what was sent. Memory holds indices alone, about 130 bytes a
line; the lines are read from the file when they are needed. The file is never rewritten: it is the proof of what was
sent. Only a torn last line is cut off, which a power cut during an append leaves, and which was never acknowledged.
A file counts as sent only by a full sha256, never by a shorter key. A file is *touched* when its time was changed after
it was sent, but not its content.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final

from uploader.domain import errors
from uploader.domain.model import FinishedUpload, Identity, Proof
from uploader.store import codec
from uploader.store.codec import LedgerHead, UnreadableContent
from uploader.store.disk import Disk
from uploader.store.index import Index, key_of_value
from uploader.store.line import IndexKeys, LedgerLine, index_keys_of
from uploader.store.renames import Renames
from uploader.store.touched import Proofs, Touched, TouchedFile, fingerprint_of

LEDGER_FILE: Final = "ledger.jsonl"
GENESIS: Final = "0" * 64  # the first line has this instead of a hash
LEDGER_READ_BLOCK: Final = 1024 * 1024  # bytes of one read
# bytes of a line; the longest possible one has 75 KiB (three names of 4 KiB, in escapes)
LINE_LENGTH_LIMIT: Final = 1024 * 1024
MOST_ALIKE: Final = 20  # entries of equal size and ends that are looked at for a renamed file
FINGERPRINT_SIZE: Final = 32  # bytes of a sha256
RESTORE_HINT: Final = "put the whole file back from a copy; it is never rewritten"


class LedgerHeadMismatch(UnreadableContent):
    """The chain of the lines is whole, but ``state.json`` has seen other lines, or more."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What the ledger says of a file that was sent; enough to tell a touched file from a new recording."""

    size: int
    mtime_ns: int
    edges: str
    sha256: str
    record: str
    seq: int  # number of its line
    path: str  # where it was sent from
    line: str = field(default="", compare=False)  # sha256 (hex) of its line
    proof: Proof = field(default="ready", compare=False)  # what has shown that it arrived
    kept: bool = field(default=True, compare=False)  # its file was neither moved nor deleted afterwards


class Ledger:
    """The ledger: appends lines, and answers what was sent from a path or with a content.

    ``append`` may run on one thread while another asks.
    """

    def __init__(self, disk: Disk, *, repair: bool = True, expected_head: LedgerHead | None = None) -> None:
        """Read the ledger block by block, and check the hash of every line.

        Raises ``UnreadableContent`` with the first line that is wrong.

        *repair*: cut a torn last line off; without it (the daemon may be writing just now) it is ignored.
        *expected_head*: where the state has seen the ledger end; ``LedgerHeadMismatch`` when that is missing.
        """
        self._disk = disk
        self._lock = Lock()  # for all that follows; never held during I/O
        self.head = LedgerHead(0, GENESIS)  # number and hash of the last line
        self._ends = array("Q")  # offset of the end of each line, its line feed included
        self._fingerprints, self._fingerprint_index = bytearray(), Index()
        self._paths, self._contents = Index(), Index()
        self._records = array("Q")
        self._touched: dict[int, tuple[bytes, int, int]] = {}  # by key of path: newest fingerprint, line, mtime
        self.renames = Renames()  # of the files of the lines; under the lock, too
        self._half_written = False
        self._touched_file = TouchedFile(disk)
        proofs = Proofs() if self._touched_file.is_there else None
        lines = Lines(disk)
        for keys, raw, digest in chain(lines, expected_head):
            self._remember(keys, len(raw) + 1)
            self.head = LedgerHead(keys.seq, digest)
            if proofs is not None:
                proofs.add(keys.size, digest)
        self.cut = lines.torn  # what a power cut has left of a last line
        if self.cut and repair:
            disk.truncate(LEDGER_FILE, self._end)
        if proofs is not None:
            for entry in filter(proofs.hold, self._touched_file.entries()):
                self._touched[key_of_value(entry.path)] = bytes.fromhex(entry.fingerprint), entry.seq, entry.mtime_ns
                if entry.renamed:
                    self.renames.note_name(entry.seq, entry.path)

    @property
    def count(self) -> int:
        """Number of lines."""
        return self.head.count

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def append(self, upload: FinishedUpload) -> None:
        """Write the line durably, then index it. Raises ``OSError``; nothing has changed then."""
        raw = codec.to_json(LedgerLine(self.count + 1, self.head.last, upload)).encode("ascii")
        keys = index_keys_of(raw)  # before it is written: a line that cannot be read back must not be written
        if self._half_written and (self._disk.size(LEDGER_FILE) or 0) > self._end:
            self._disk.truncate(LEDGER_FILE, self._end)  # a failed write may have left a part of a line
        self._half_written = True
        self._disk.append(LEDGER_FILE, raw + b"\n")
        self._half_written = False
        with self._lock:
            self._remember(keys, len(raw) + 1)
            self.head = LedgerHead(keys.seq, _hash(raw))  # one assignment: a save sees count and hash together

    def _remember(self, keys: IndexKeys, length: int) -> None:
        fingerprint = fingerprint_of(keys.path, keys.size, keys.mtime_ns)
        self._ends.append(self._end + length)
        self._fingerprints += fingerprint
        self._fingerprint_index.add(_fingerprint_key(fingerprint))
        self._paths.add(key_of_value(keys.path))
        self._contents.add(key_of_value((keys.size, keys.edges)))
        self._records.append(key_of_value(keys.record))

    def touch(self, path: str, entry: LedgerEntry, mtime_ns: int) -> bool:
        """Note in memory that the file at *path* with this mtime has the content of *entry*.

        False when that was known already. ``note_touched`` keeps it for the next start.
        """
        touched = fingerprint_of(path, entry.size, mtime_ns), entry.seq, mtime_ns
        with self._lock:
            key = key_of_value(path)
            before, self._touched[key] = self._touched.get(key), touched
        return touched != before

    def note_touched(self, path: str, known: LedgerEntry, mtime_ns: int, *, renamed: bool = False) -> None:
        """Write what ``touch`` has noted to ``touched.jsonl``, on the thread that appends. Disk errors are ignored.

        *renamed*: the file was renamed to *path*.
        """
        fingerprint = fingerprint_of(path, known.size, mtime_ns).hex()
        entry = Touched(path, mtime_ns, known.seq, known.line, fingerprint, renamed)
        self._touched_file.add(entry, len(self._touched), self._is_current)

    def _is_current(self, entry: Touched) -> bool:
        with self._lock:
            touched = self._touched.get(key_of_value(entry.path))
        return touched == (bytes.fromhex(entry.fingerprint), entry.seq, entry.mtime_ns)

    def has(self, path: str) -> bool:
        """True when a line is probably of *path*. A scan may skip the file then; every tenth scan skips none."""
        return bool(self._numbers_of(path))

    def knows(self, path: str, size: int, mtime_ns: int) -> bool:
        """True when a file with this path, size and mtime was sent. Memory only."""
        return self._line_of(path, size, mtime_ns) > 0

    def _line_of(self, path: str, size: int, mtime_ns: int) -> int:
        """Return the number of the line of a file with this path, size and mtime; 0 when there is none."""
        fingerprint = fingerprint_of(path, size, mtime_ns)
        with self._lock:
            for number in self._fingerprint_index.find(_fingerprint_key(fingerprint)):
                if self._fingerprints[FINGERPRINT_SIZE * (number - 1) : FINGERPRINT_SIZE * number] == fingerprint:
                    return number
            touched = self._touched.get(key_of_value(path))
        return touched[1] if touched is not None and touched[0] == fingerprint else 0

    def note_inode(self, path: str, size: int, mtime_ns: int, inode: tuple[int, ...]) -> None:
        """Note the device and inode of a file that was sent, so that it is known by them when it is renamed."""
        if (number := self._line_of(path, size, mtime_ns)) > 0:
            with self._lock:
                self.renames.note_inode(number, inode)

    def may_have_alike(self, path: str, identity: Identity) -> bool:
        """True when ``alike`` probably finds something; False when it certainly does not. Memory only."""
        return bool(self._alike(path, identity))

    def may_have_elsewhere(self, identity: Identity, path: str) -> bool:
        """True when ``alike_elsewhere`` probably finds something; False when it certainly does not. Memory only."""
        return bool(self._elsewhere(identity, path))

    # The questions above are answered from memory. The methods below read lines from the file, and raise
    # ``LedgerUnreadable`` for a line that cannot be read or was changed since the start: it proves neither that a file
    # was sent nor that it was not.

    def of(self, path: str) -> tuple[LedgerEntry, ...]:
        """Return everything that was sent from *path*, oldest first. If it was touched since, that comes last."""
        found = [entry for entry in map(self._entry, reversed(self._numbers_of(path))) if entry.path == path]
        with self._lock:
            touched = self._touched.get(key_of_value(path))
        if touched is not None:
            fingerprint, number, mtime_ns = touched
            again = replace(self._entry(number), mtime_ns=mtime_ns)
            if fingerprint == fingerprint_of(path, again.size, mtime_ns) and again not in found:
                found.append(again)
        return tuple(found)

    def alike(self, path: str, identity: Identity) -> LedgerEntry | None:
        """Find the newest entry of *path* with equal size and edges: probably the same content, touched."""
        found = map(self._entry, self._alike(path, identity))
        return next((entry for entry in found if entry.path == path and _like(entry, identity)), None)

    def _alike(self, path: str, identity: Identity) -> list[int]:
        content, here = key_of_value((identity.size, identity.edges)), self._numbers_of(path)
        with self._lock:
            return [number for number in here if self._contents.key_of(number) == content]

    def alike_elsewhere(self, identity: Identity, path: str) -> LedgerEntry | None:
        """Find the newest entry of another path with equal size and edges: probably the same content, copied."""
        found = map(self._entry, self._elsewhere(identity, path))
        return next((entry for entry in found if _like(entry, identity)), None)

    def all_alike_elsewhere(self, identity: Identity, path: str) -> tuple[LedgerEntry, ...]:
        """Return the newest entries of other paths with equal size and edges, at most ``MOST_ALIKE``."""
        found = map(self._entry, self._elsewhere(identity, path)[:MOST_ALIKE])
        return tuple(entry for entry in found if _like(entry, identity))

    def _elsewhere(self, identity: Identity, path: str) -> list[int]:
        here = key_of_value(path)
        with self._lock:
            numbers = self._contents.find(key_of_value((identity.size, identity.edges)))
            # Two paths with the same key count as one: then a copy is sent again, and nothing is lost.
            return [number for number in numbers if self._paths.key_of(number) != here]

    def holds(self, record: str) -> bool:
        """True when the ledger has a line of this record, under whatever path.

        Raises ``LedgerUnreadable`` when a line that cannot be read may be the one: then no second may be written.
        """
        key, number, unreadable = key_of_value(record), 0, None
        while True:
            with self._lock:
                try:
                    number = self._records.index(key, number) + 1
                except ValueError:
                    break
            try:
                if self._entry(number).record == record:
                    return True
            except errors.LedgerUnreadable as error:
                unreadable = error
        if unreadable is not None:
            raise unreadable
        return False

    def _numbers_of(self, path: str) -> list[int]:
        """Return the numbers of the lines that are probably of *path*, newest first."""
        with self._lock:
            return self._paths.find(key_of_value(path))

    def _entry(self, number: int) -> LedgerEntry:
        line, digest = self._line(number)
        sent = line.upload
        content = sent.size, sent.mtime_ns, sent.edges, sent.sha256
        kept = sent.after_upload == "keep"
        return LedgerEntry(*content, sent.record, number, sent.path, digest, sent.proof, kept)

    def line(self, number: int) -> LedgerLine:
        """Read line *number*, which counts from 1. Raises ``LedgerUnreadable``."""
        return self._line(number)[0]

    def _line(self, number: int) -> tuple[LedgerLine, str]:
        """Read a line; return it with its sha256."""
        start, end = self._ends[number - 2] if number > 1 else 0, self._ends[number - 1]
        try:
            raw = self._disk.read_at(LEDGER_FILE, start, end - start - 1)
            line = codec.from_json(LedgerLine, raw)
        except errors.StateUnusable as error:
            raise self._unreadable(number, error.what) from None
        except UnreadableContent as error:
            raise self._unreadable(number, f"it was changed since the start: {error}") from None
        if line.seq != number:
            raise self._unreadable(number, f"it was changed since the start: it says it is line {line.seq}")
        if not self._is_as_indexed(number, line.upload):
            raise self._unreadable(number, "it was changed since the start: it is about another file")
        return line, _hash(raw)

    def _is_as_indexed(self, number: int, sent: FinishedUpload) -> bool:
        fingerprint = fingerprint_of(sent.path, sent.size, sent.mtime_ns)
        with self._lock:
            return (
                self._fingerprints[FINGERPRINT_SIZE * (number - 1) : FINGERPRINT_SIZE * number] == fingerprint
                and self._records[number - 1] == key_of_value(sent.record)
                and self._contents.key_of(number) == key_of_value((sent.size, sent.edges))
            )

    def _unreadable(self, number: int, why: str) -> errors.LedgerUnreadable:
        return errors.LedgerUnreadable(
            f"{self._disk.where(LEDGER_FILE)}: line {number} cannot be read: {why}", hint=RESTORE_HINT
        )


class Lines:
    """The whole lines of the ledger, without their line feeds, read block by block."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.torn = b""  # after the last line: what follows the last line feed

    def __iter__(self) -> Iterator[bytes]:
        """Read the file up to its size at the start. Raises ``UnreadableContent`` for a line that is too long."""
        size, offset, rest, number = self._disk.size(LEDGER_FILE) or 0, 0, b"", 0
        while offset < size and (
            block := self._disk.read_at(LEDGER_FILE, offset, min(LEDGER_READ_BLOCK, size - offset))
        ):
            offset += len(block)
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
            number += len(whole)
            if len(rest) > LINE_LENGTH_LIMIT:
                raise UnreadableContent(f"line {number + 1}: it is longer than any line of this program")
        self.torn = rest


def chain(lines: Iterable[bytes], expected_head: LedgerHead | None = None) -> Iterator[tuple[IndexKeys, bytes, str]]:
    """Check the hash of each line, and yield its index keys, its bytes and their hash.

    *expected_head*: where the state has seen the ledger end. Raises ``UnreadableContent`` at the first line that is
    wrong, ``LedgerHeadMismatch`` where the state has seen another line, or more lines.
    """
    previous, number = GENESIS, 0
    for number, raw in enumerate(lines, start=1):
        try:
            keys = index_keys_of(raw)
        except UnreadableContent as error:
            raise UnreadableContent(f"line {number}: {error}") from None
        if keys.seq != number:
            raise UnreadableContent(f"line {number}: it says it is line {keys.seq}; a line was added or taken out")
        if keys.previous != previous:
            raise UnreadableContent(f"line {number}: the line before it was changed")
        previous = _hash(raw)
        if expected_head is not None and number == expected_head.count and previous != expected_head.last:
            raise LedgerHeadMismatch(f"line {number}: it is not the line that the state has seen; it was changed")
        yield keys, raw, previous
    if expected_head is not None and number < expected_head.count:
        what = f"it ends after line {number}" if number else "it is missing or empty"
        raise LedgerHeadMismatch(f"{what}, but the state has seen line {expected_head.count}; its end was cut off")


def unusable(disk: Disk, error: UnreadableContent) -> errors.StateUnusable:
    """Make the error that says which file is damaged, where, and what to do about it."""
    hint = RESTORE_HINT
    if isinstance(error, LedgerHeadMismatch):
        hint = (
            "put the whole file back from a copy; if there is none, remove ledger and sha256 from state.json: "
            "the files of the lost lines are then sent again"
        )
    return errors.StateUnusable(f"{disk.where(LEDGER_FILE)}: {error}", hint=hint)


def _like(entry: LedgerEntry, identity: Identity) -> bool:
    return (entry.size, entry.edges) == (identity.size, identity.edges)


def _fingerprint_key(fingerprint: bytes) -> int:
    return int.from_bytes(fingerprint[:8])


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()

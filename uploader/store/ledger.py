"""``ledger.jsonl``: one line for each finished upload, each carrying the hash of the line before it.

Append-only and fsynced; it is also the list of what is done. In memory are indices alone, about 130 bytes a line;
what a line says is read from the file when it is asked for. Must never be rewritten: a torn last line, which only a
power cut in the middle of an append can leave and which nobody was told of, is the one thing that is cut off. Must
never call a file sent because of a hash that is shorter than the chain's own.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final

from uploader.domain import errors
from uploader.domain.model import FinishedUpload, Identity
from uploader.store import codec
from uploader.store.codec import LedgerHead, UnreadableContent
from uploader.store.disk import Disk
from uploader.store.index import Index, key_of_value
from uploader.store.line import IndexKeys, LedgerLine, index_keys_of
from uploader.store.touched import Proofs, Touched, TouchedFile, fingerprint_of

LEDGER_FILE: Final = "ledger.jsonl"
GENESIS: Final = "0" * 64  # what the first line carries in place of a hash
LEDGER_READ_BLOCK: Final = 1024 * 1024  # bytes of one read
# bytes of a line; ours do not come near (three names of 4 KiB, in escapes: 75 KiB)
LINE_LENGTH_LIMIT: Final = 1024 * 1024
FINGERPRINT_SIZE: Final = 32  # bytes of a sha256
RESTORE_HINT: Final = "put the whole file back from a copy; it is never rewritten"


class LedgerHeadMismatch(UnreadableContent):
    """The lines that are there hold together, but the state has seen others, or more."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What the ledger says of a content: enough to tell a touched file from a new recording."""

    size: int
    mtime_ns: int
    edges: str
    sha256: str
    record: str
    seq: int  # of its line
    path: str  # that it was sent from
    line: str = field(default="", compare=False)  # sha256 (hex) of its line


class Ledger:
    """The chain, as far as it must be in memory: where it ends, and how to find what a path or a content was.

    ``append`` may run on another thread than everything else.
    """

    def __init__(self, disk: Disk, *, repair: bool = True, expected_head: LedgerHead | None = None) -> None:
        """Read the ledger, proving every link, in constant memory.

        Raises ``UnreadableContent`` with the line that breaks it.

        *repair*: cut a torn last line off; without it (the daemon may be writing just now) it is passed over.
        *expected_head*: how far the state has seen it; what is missing of that is ``LedgerHeadMismatch``.
        """
        self._disk = disk
        self._lock = Lock()  # over what follows, for as long as it is looked at; never while the disk is
        self.head = LedgerHead(0, GENESIS)
        self._ends = array("Q")  # of each line, its line feed included: where the next one begins
        self._fingerprints, self._fingerprint_index = bytearray(), Index()
        self._paths, self._contents = Index(), Index()
        self._records = array("Q")
        self._touched: dict[int, tuple[bytes, int, int]] = {}  # by path's key: seal, line, mtime; the newest of each
        self._half_written = False
        self._touched_file = TouchedFile(disk)
        proofs = Proofs() if self._touched_file.is_there else None
        lines = Lines(disk)
        for facts, raw, digest in chain(lines, expected_head):
            self._remember(facts, len(raw) + 1)
            self.head = LedgerHead(facts.seq, digest)
            if proofs is not None:
                proofs.add(facts.size, digest)
        self.cut = lines.torn  # what a power cut had left of a last line
        if self.cut and repair:
            disk.truncate(LEDGER_FILE, self._end)
        if proofs is not None:
            for entry in filter(proofs.hold, self._touched_file.entries()):
                self._touched[key_of_value(entry.path)] = bytes.fromhex(entry.fingerprint), entry.seq, entry.mtime_ns

    @property
    def count(self) -> int:
        """How many lines there are."""
        return self.head.count

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def append(self, upload: FinishedUpload) -> None:
        """Write the line, durably, and remember it. Raises ``OSError``; then it is as if it had not been tried."""
        raw = codec.to_json(LedgerLine(self.count + 1, self.head.last, upload)).encode("ascii")
        facts = index_keys_of(raw)  # before it is written: what cannot be read again must not be
        if self._half_written and (self._disk.size(LEDGER_FILE) or 0) > self._end:
            self._disk.truncate(LEDGER_FILE, self._end)  # a refused write may have left a piece, and the disk kept it
        self._half_written = True
        self._disk.append(LEDGER_FILE, raw + b"\n")
        self._half_written = False
        with self._lock:
            self._remember(facts, len(raw) + 1)
            self.head = LedgerHead(facts.seq, _hash(raw))  # in one step: a save must never see half of it

    def _remember(self, keys: IndexKeys, length: int) -> None:
        fingerprint = fingerprint_of(keys.path, keys.size, keys.mtime_ns)
        self._ends.append(self._end + length)
        self._fingerprints += fingerprint
        self._fingerprint_index.add(_fingerprint_key(fingerprint))
        self._paths.add(key_of_value(keys.path))
        self._contents.add(key_of_value((keys.size, keys.edges)))
        self._records.append(key_of_value(keys.record))

    def touch(self, path: str, entry: LedgerEntry, mtime_ns: int) -> bool:
        """Remember, in memory, that *entry* content stands at *path* with this mtime: its own path or another.

        False when that was known already. ``note_touched`` remembers it over a restart.
        """
        touched = fingerprint_of(path, entry.size, mtime_ns), entry.seq, mtime_ns
        with self._lock:
            key = key_of_value(path)
            before, self._touched[key] = self._touched.get(key), touched
        return touched != before

    def note_touched(self, path: str, known: LedgerEntry, mtime_ns: int) -> None:
        """Write down what ``touch`` has remembered. On the thread that appends; no error of the disk is raised."""
        entry = Touched(path, mtime_ns, known.seq, known.line, fingerprint_of(path, known.size, mtime_ns).hex())
        self._touched_file.add(entry, len(self._touched), self._is_current)

    def _is_current(self, entry: Touched) -> bool:
        with self._lock:
            touched = self._touched.get(key_of_value(entry.path))
        return touched == (bytes.fromhex(entry.fingerprint), entry.seq, entry.mtime_ns)

    def has(self, path: str) -> bool:
        """True when a line is probably of *path*: enough to spare a look, as every tenth scan looks all the same."""
        return bool(self._from(path))

    def knows(self, path: str, size: int, mtime_ns: int) -> bool:
        """True when this file, as its inode shows it, has been sent. Asks memory alone."""
        fingerprint = fingerprint_of(path, size, mtime_ns)
        with self._lock:
            for number in self._fingerprint_index.find(_fingerprint_key(fingerprint)):
                if self._fingerprints[FINGERPRINT_SIZE * (number - 1) : FINGERPRINT_SIZE * number] == fingerprint:
                    return True
            touched = self._touched.get(key_of_value(path))
        return touched is not None and touched[0] == fingerprint

    def may_have_alike(self, path: str, identity: Identity) -> bool:
        """True when ``alike`` is likely to find something; False proves that it finds nothing. Asks memory alone."""
        return bool(self._alike(path, identity))

    def may_have_elsewhere(self, identity: Identity, path: str) -> bool:
        """The same for ``alike_elsewhere``."""
        return bool(self._elsewhere(identity, path))

    # What follows reads the lines that it speaks of. Raises ``LedgerUnreadable`` for one that cannot be read, or is no
    # longer what it was: it vouches for nothing then, and says nothing against having been sent either.

    def of(self, path: str) -> tuple[LedgerEntry, ...]:
        """Everything that was sent from *path*, oldest first; and at last what was touched there since."""
        known = [known for known in map(self._known, reversed(self._from(path))) if known.path == path]
        with self._lock:
            touched = self._touched.get(key_of_value(path))
        if touched is not None:
            fingerprint, number, mtime_ns = touched
            again = replace(self._known(number), mtime_ns=mtime_ns)
            if fingerprint == fingerprint_of(path, again.size, mtime_ns) and again not in known:
                known.append(again)
        return tuple(known)

    def alike(self, path: str, identity: Identity) -> LedgerEntry | None:
        """Find the newest entry of *path* with equal size and edges: probably the same content, touched."""
        known = map(self._known, self._alike(path, identity))
        return next((known for known in known if known.path == path and _like(known, identity)), None)

    def _alike(self, path: str, identity: Identity) -> list[int]:
        content, here = key_of_value((identity.size, identity.edges)), self._from(path)
        with self._lock:
            return [number for number in here if self._contents.key_of(number) == content]

    def alike_elsewhere(self, identity: Identity, path: str) -> LedgerEntry | None:
        """Find the newest entry of another path with equal size and edges: probably the same content, copied."""
        known = map(self._known, self._elsewhere(identity, path))
        return next((known for known in known if _like(known, identity)), None)

    def _elsewhere(self, identity: Identity, path: str) -> list[int]:
        here = key_of_value(path)
        with self._lock:
            numbers = self._contents.find(key_of_value((identity.size, identity.edges)))
            # Two paths with one key are taken for one: then a copy is sent, and nothing is lost.
            return [number for number in numbers if self._paths.key_of(number) != here]

    def holds(self, record: str) -> bool:
        """True when the line of this very upload is written, whatever name its file had then.

        Raises ``LedgerUnreadable`` when it may be a line that cannot be read: no second one may be written then.
        """
        key, number, unreadable = key_of_value(record), 0, None
        while True:
            with self._lock:
                try:
                    number = self._records.index(key, number) + 1
                except ValueError:
                    break
            try:
                if self._known(number).record == record:
                    return True
            except errors.LedgerUnreadable as error:
                unreadable = error
        if unreadable is not None:
            raise unreadable
        return False

    def _from(self, path: str) -> list[int]:
        """Return the numbers of the lines that are probably of *path*, newest first."""
        with self._lock:
            return self._paths.find(key_of_value(path))

    def _known(self, number: int) -> LedgerEntry:
        line, digest = self._line(number)
        sent = line.upload
        return LedgerEntry(sent.size, sent.mtime_ns, sent.edges, sent.sha256, sent.record, number, sent.path, digest)

    def line(self, number: int) -> LedgerLine:
        """Read line *number*, which counts from 1. Raises ``LedgerUnreadable``."""
        return self._line(number)[0]

    def _line(self, number: int) -> tuple[LedgerLine, str]:
        """Read a line and its sha256."""
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
            raise self._unreadable(number, "it was changed since the start: it speaks of another file")
        return line, _hash(raw)

    def _is_as_indexed(self, number: int, sent: FinishedUpload) -> bool:
        fingerprint = fingerprint_of(sent.path, sent.size, sent.mtime_ns)
        with self._lock:
            return (
                self._fingerprints[FINGERPRINT_SIZE * (number - 1) : FINGERPRINT_SIZE * number] == fingerprint
                and self._records[number - 1] == key_of_value(sent.record)
                and self._contents.key_of(number) == key_of_value((sent.size, sent.edges))
            )

    def _unreadable(self, number: int, how: str) -> errors.LedgerUnreadable:
        return errors.LedgerUnreadable(
            f"{self._disk.where(LEDGER_FILE)}: line {number} cannot be read: {how}", hint=RESTORE_HINT
        )


class Lines:
    """The whole lines of the ledger, without their line feeds, read block by block."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.torn = b""  # once they are through: what follows the last line feed

    def __iter__(self) -> Iterator[bytes]:
        """Read as far as the file went at the start. Raises ``UnreadableContent`` for what is too long to be a line."""
        size, offset, rest, number = self._disk.size(LEDGER_FILE) or 0, 0, b"", 0
        while offset < size and (
            block := self._disk.read_at(LEDGER_FILE, offset, min(LEDGER_READ_BLOCK, size - offset))
        ):
            offset += len(block)
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
            number += len(whole)
            if len(rest) > LINE_LENGTH_LIMIT:
                raise UnreadableContent(f"line {number + 1}: it is longer than any line of ours")
        self.torn = rest


def chain(lines: Iterable[bytes], expected_head: LedgerHead | None = None) -> Iterator[tuple[IndexKeys, bytes, str]]:
    """Walk the lines, proving each link: what each says, its bytes and their hash.

    *expected_head*: how far the state has seen them. Raises ``UnreadableContent`` at the first that breaks,
    ``LedgerHeadMismatch`` where the state has seen another line, or more lines.
    """
    previous, number = GENESIS, 0
    for number, raw in enumerate(lines, start=1):
        try:
            facts = index_keys_of(raw)
        except UnreadableContent as error:
            raise UnreadableContent(f"line {number}: {error}") from None
        if facts.seq != number:
            raise UnreadableContent(f"line {number}: it says it is line {facts.seq}; a line was added or taken out")
        if facts.previous != previous:
            raise UnreadableContent(f"line {number}: the line before it was changed")
        previous = _hash(raw)
        if expected_head is not None and number == expected_head.count and previous != expected_head.last:
            raise LedgerHeadMismatch(f"line {number}: it is not the line that the state has seen; it was changed")
        yield facts, raw, previous
    if expected_head is not None and number < expected_head.count:
        what = f"it ends after line {number}" if number else "it is missing or empty"
        raise LedgerHeadMismatch(f"{what}, but the state has seen line {expected_head.count}; its end was cut off")


def unusable(disk: Disk, error: UnreadableContent) -> errors.StateUnusable:
    """Say which file is damaged, where, and what to do about it."""
    hint = RESTORE_HINT
    if isinstance(error, LedgerHeadMismatch):
        hint = (
            "put the whole file back from a copy; if there is none, take ledger and sha256 out of state.json, "
            "and what the lost lines vouched for is sent again"
        )
    return errors.StateUnusable(f"{disk.where(LEDGER_FILE)}: {error}", hint=hint)


def _like(entry: LedgerEntry, identity: Identity) -> bool:
    return (entry.size, entry.edges) == (identity.size, identity.edges)


def _fingerprint_key(fingerprint: bytes) -> int:
    return int.from_bytes(fingerprint[:8])


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()

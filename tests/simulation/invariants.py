"""Checks what must hold: at every act that reaches the world (``Watch``), and when a world has ended (``check_end``).

The numbers are those of docs/reliability.md. The checks look at bytes, records and files alone, not at the product's
memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from simulation.disk import LEDGER, STATE
from simulation.folder import ROOT
from simulation.kernel import NEVER
from simulation.server import PASSWORD, USER, Record, Request
from simulation.spoilt import holds_all
from uploader.domain import events
from uploader.stages.queues import bug_reason

if TYPE_CHECKING:
    from simulation.world import World

SECRET_MARK: Final = "marked-secret-"  # every secret of a world begins with it
UNEXPECTED_ERROR: Final = bug_reason(Exception()).partition(" (")[0]
LOGS: Final[list[str]] = []  # what the product has logged in the world that runs


class Broken(AssertionError):  # noqa: N818 - says what has happened
    """An invariant does not hold. The text begins with its number."""


class Watch:
    """Checks each request and removal at the ports, before it happens."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._in_flight: Counter[str] = Counter()

    def before_request(self, request: Request) -> None:
        """I3 and I4, as far as the first byte of a request goes; I15."""
        kind, record = _kind_of(request)
        if self._world.disk.read_in != self._world.life:
            self._world.fail("I15: a request before the state was read")
        self._world.orders.before_request(request)
        self._world.spoilt.before_request(request)
        if kind == "chunk":
            self._in_flight[record] += 1
            if self._in_flight[record] > 1:
                self._world.fail(f"I3: two requests in flight for {record}")
            if not any(_record(upload) == record for upload in self._uploads()):
                self._world.fail(f"I4: a chunk for {record}, whose ids are not saved")
        if kind == "create":
            name = request.payload.get("name")
            if not any(_creating(upload, name) for upload in self._uploads()):
                self._world.fail(f"I4: create-upload of {name!r}, and its intent is not saved")
        if kind == "delete" and not any(orphan["record"] == record for orphan in self._saved()["orphans"]):
            self._world.fail(f"I4: {record} is to be deleted, and it is not saved as an orphan")
        self._world.count("requests")

    def before_last_byte(self, request: Request) -> None:
        """I4: the mark is saved before the last byte goes."""
        kind, record = _kind_of(request)
        if kind != "chunk":
            return
        start, end = (int(part) for part in request.range.removeprefix("bytes ").partition("/")[0].split("-"))
        for upload in self._uploads():
            if _record(upload) == record and upload["state"] == "in-doubt":
                if (upload["offset"], upload["doubt_end"]) != (start, end + 1):
                    self._world.fail(f"I2: {request.range} goes to {record}, but saved is {upload['offset']}")
                return
        self._world.fail(f"I4: the last byte of {request.range} goes to {record}, and its mark is not saved")

    def ended(self, request: Request) -> None:
        """Note that the client no longer waits for this request."""
        kind, record = _kind_of(request)
        self._world.orders.ended(request)
        if kind == "chunk":
            self._in_flight[record] -= 1

    def born(self) -> None:
        """Note that a new life has begun, which has no requests in flight."""
        self._in_flight.clear()
        self._world.orders.born()
        self._world.spoilt.born()

    def before_delete(self, record: Record) -> None:
        """I13 and I27: only the product's own records are deleted; empty ones, and spoilt ones that are replaced."""
        if record in self._world.foreign:
            self._world.fail(f"I13: {record.id} is not the product's, and is deleted")
        if record.completed_at is not None and not self._world.spoilt.may_delete(record):
            self._world.fail(f"I13: {record.id} holds a video, and is deleted")

    def look_at_saved(self) -> None:
        """I16 and I27. Called after each save."""
        self._world.spoilt.look_at_saved()
        self._world.orders.look_at_saved()

    def before_removal(self, path: str, content: bytes) -> None:
        """I5 and I25: a file is removed only when the server holds its very bytes, and this was proven and saved.

        It is unchanged, and its line is in the ledger or a copy at the target.
        """
        world = self._world
        world.orders.before_removal(path)
        ready = [record for record in world.server.records.values() if world.server.is_ready(record)]
        if not any(not record.deleted and record.content == content for record in ready):
            world.fail(f"I5: {path} is removed, and no ready record holds its bytes")
        ending = [upload for upload in self._uploads() if upload["state"] == "finishing" and _where(upload) == path]
        if not ending:
            world.fail(f"I5: {path} is removed, and that it is ready was not saved")
        if ending[0].get("proof") not in proofs(world):
            world.fail(f"I25: {path} is removed, and its arrival was not proven: {ending[0].get('proof')}")
        if ending[0].get("moving_to") is not None:
            if not world.folder.holds_durably(content):
                world.fail(f"I5: {path} is removed, and a power cut would leave no copy in the archive")
        elif f'"record": "{_record(ending[0])}"'.encode() not in world.disk.ledger:
            world.fail(f"I5: {path} is removed before its line is in the ledger")

    def _saved(self) -> dict[str, Any]:
        return self._world.disk.announced()

    def _uploads(self) -> list[dict[str, Any]]:
        uploads: list[dict[str, Any]] = self._saved()["uploads"]
        return uploads


def _kind_of(request: Request) -> tuple[str, str]:
    parts = request.path.removeprefix("/api/v3/").split("/")
    if request.range:
        return "chunk", parts[1]
    if parts[-1] == "create-upload":
        return "create", ""
    return ("delete", parts[1]) if parts[-1] == "delete" else ("", "")


def _record(upload: dict[str, Any]) -> str:
    return str((upload.get("ids") or {}).get("record", ""))


def _creating(upload: dict[str, Any], name: str | None) -> bool:
    return bool(upload["state"] == "creating" and name in {None, upload["record"]["name"]})


def _where(upload: dict[str, Any]) -> str:
    return str(upload.get("renamed_to") or upload["path"])


def proofs(world: World) -> set[str]:
    """Return what may show here that a file has arrived."""
    return {"duration"} if world.server.transcodes else {"size", "bytes"}


def check_end(world: World) -> None:
    """Check what a world leaves when it has ended. Raises ``Broken``."""
    if world.server.broken:
        raise Broken(world.server.broken[0])
    _every_file_once(world)
    _nothing_half(world)
    _nothing_left(world)
    _nothing_hidden(world)
    _no_secret(world)
    _few_logins(world)
    _no_unexpected_error(world)
    _ledger_is_true(world)


def _landed(world: World) -> list[Record]:
    """Return the records that hold a whole file as it was sent, and are there."""
    return [record for record in world.server.records.values() if holds_all(record) and record not in world.foreign]


def _every_file_once(world: World) -> None:
    """I1: each complete file became one record, and one more for each time it was forgotten (I16)."""
    landed = Counter(record.content for record in _landed(world))
    names: dict[bytes, set[str]] = {}
    for version in world.folder.versions:
        names.setdefault(version.content, set()).add(version.path)
    last = {path: file.data for path, file in world.folder.files.items() if path.startswith(f"{ROOT}/")}
    for path, content in {**world.folder.removed, **last}.items():
        if content and not landed[content] and (path not in last or world.orders.takes(path)):
            raise Broken(f"I1: {path} is lost: no record holds its bytes")
    for content, times in landed.items():
        allowed = len(names.get(content, ())) + world.orders.again[hashlib.sha256(content).hexdigest()]
        if times > allowed and content in names:
            raise Broken(f"I1: the content of {sorted(names[content])} was finished {times} times")


def _nothing_half(world: World) -> None:
    """I1 and I27: each finished record holds a file as it was while it stood still; what is spoilt is gone or told."""
    if wrong := world.spoilt.check_end():
        raise Broken(wrong)
    whole = {
        version.content: version
        for version in world.folder.versions
        if min(version.until, world.now) - version.since >= world.settle or version.until == NEVER
    }
    refused = any(isinstance(event, events.RecordsNameless) for event in world.heard)
    for record in _landed(world):
        if not record.name and not refused:
            raise Broken(f"I1: {record.id} has no name, and nobody was told")
        if record.content not in whole:
            raise Broken(f"I1: {record.id} holds what no file was: {record.content!r}")


def _nothing_left(world: World) -> None:
    """I13: abandoned records are gone, and records of others are still there.

    When either of two records with one name may be the abandoned one, both are left to the operator, and an event says
    so. It happens when an upload was parked before it was known whether its record was made, and another file of the
    same name has come meanwhile.
    """
    told = {
        prefix + event.path.rpartition("/")[2].removesuffix(".mp4")
        for prefix in ("", "new ")  # what a reload makes of the name
        for event in world.heard
        if isinstance(event, events.DoubtResolved) and "left alone" in event.outcome
    }
    if told and world.server.by_get:
        told.add("")  # records without a name cannot be told apart by it
    for record in world.server.records.values():
        foreign = record in world.foreign
        if foreign and record.deleted:
            raise Broken(f"I13: {record.id} was not the product's, and is deleted")
        abandoned = record.completed_at is None and not record.deleted and record.author == USER
        if not foreign and abandoned and record.name not in told:
            raise Broken(f"I13: {record.id} of {record.name!r} was abandoned, and is still there")


def _nothing_hidden(world: World) -> None:
    """I24: no recording is left under a hidden name, and none that was removed has come back after a power cut.

    A recording whose removal a power cut has undone may stay if the configuration was changed to keep it before the
    next start.
    """
    if hidden := world.folder.hidden():
        raise Broken(f"I24: {hidden} is left under a hidden name")
    # So may one whose upload the operator has forgotten in between: nothing is to be removed on its account any more.
    # And so does one that somebody has touched after it came back: it is not the file that was sent any more.
    lines = [json.loads(line)["upload"] for line in world.disk.ledger.splitlines()]
    as_sent = {(line["path"], line["mtime_ns"], line["sha256"]) for line in lines}
    kept = {event.path for event in world.heard if isinstance(event, events.UploadFinished) and event.file == "kept"}
    kept |= {
        path
        for path, file in world.folder.files.items()
        if (path, file.mtime_ns, hashlib.sha256(file.data).hexdigest()) not in as_sent
    }
    if back := sorted(set(world.folder.come_back()) - kept - world.orders.forgotten_files):
        raise Broken(f"I24: {back} was removed, and is there again")


def _no_secret(world: World) -> None:
    """I7: no password or token is in anything that is written, shown or logged."""
    for name in (STATE, LEDGER):
        if SECRET_MARK.encode() in (world.disk.names[name].data if name in world.disk.names else b""):
            raise Broken(f"I7: a secret in {name}")
    if SECRET_MARK in repr(world.heard):
        raise Broken(f"I7: a secret in {next(repr(event) for event in world.heard if SECRET_MARK in repr(event))}")
    if SECRET_MARK in repr(LOGS):
        raise Broken(f"I7: a secret in the log: {next(line for line in LOGS if SECRET_MARK in line)}")
    assert PASSWORD.startswith(SECRET_MARK)


def _few_logins(world: World) -> None:
    """I8: there is one log-in for each start and each token that was lost, and two for each log-in without an answer.

    A log-in whose answer is lost may arrive late and end the token of a later log-in.
    """
    allowed = world.lives + world.server.expiries + 2 * world.lost_logins
    allowed += world.orders.asked["reload"] + world.orders.asked["retry"]
    if len(world.server.tokens) > allowed:
        raise Broken(f"I8: {len(world.server.tokens)} log-ins, where {allowed} were needed")


def _no_unexpected_error(world: World) -> None:
    """I11: no upload was parked or delayed by an unexpected exception."""
    for event in world.heard:
        if isinstance(event, events.UploadParked | events.UploadRetryScheduled) and UNEXPECTED_ERROR in event.reason:
            raise Broken(f"I11: {event.reason}: {LOGS[-1:]}")


def _ledger_is_true(world: World) -> None:
    """I14 and I25: the ledger has at most one line for each record, with its sha256 and with what has proven it."""
    seen = set()
    for line in world.disk.ledger.splitlines():
        finished = json.loads(line)["upload"]
        record = world.server.records[finished["record"]]
        if record.id in seen:
            raise Broken(f"I14: two lines of the ledger for {record.id}")
        seen.add(record.id)
        if hashlib.sha256(record.content).hexdigest() != finished["sha256"]:
            raise Broken(f"I14: the ledger's line for {record.id} is not about what it holds")
        if record.deleted or finished.get("proof", "ready") not in proofs(world):
            raise Broken(f"I25: the ledger's line for {record.id} says that it is proven by {finished.get('proof')!r}")

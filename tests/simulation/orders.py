"""Records the operator's commands and their answers, and checks what must hold from each answer on (I16 to I22).

The checks look at commands, answers, requests and saved states alone. A command that was not answered, because the
process was killed, may have been done or not; both are right.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from simulation.commands import RENAMED
from simulation.server import Request
from uploader.config import Config
from uploader.domain import mapping, selection
from uploader.domain.model import EVERYTHING, State, Upload, covers
from uploader.server.valt.wire import create_payload

if TYPE_CHECKING:
    from simulation.world import World

TIME_TO_END: Final = 60.0  # s from SIGTERM to the end of the process, at most: ``drain`` is 10, the last save takes 3


@dataclass(eq=False)
class Order:
    """One command: what it is about, and the upload it was about when it was given."""

    verb: str
    about: str
    upload: Upload | None = None  # at the moment it was given
    config: Config | None = None  # of a reload
    crossed: bool = False  # a later command has undone it before it was answered
    released: bool = False


@dataclass(eq=False)
class Orders:
    """All commands of a world, and the checks that follow from them."""

    world: World
    under_way: list[Order] = field(default_factory=list)
    paused: set[str] = field(default_factory=set)
    possible: list[Config] = field(default_factory=list)  # one of these is in force
    asked: Counter[str] = field(default_factory=Counter)  # by verb, for what each allows: log-ins, tries
    again: Counter[str] = field(default_factory=Counter)  # by sha256 of a content: how often it may be sent anew
    _forgotten: set[str] = field(default_factory=set)  # records, and the intents of those that had none yet
    _forgetting: set[str] = field(default_factory=set)  # the same of every ``forget`` that was given
    _forgotten_orphans: set[str] = field(default_factory=set)  # records that are to be reported no more
    _adoptable: set[str] = field(default_factory=set)  # records that were given up, and may have landed whole
    forgotten_files: set[str] = field(default_factory=set)
    _known: dict[str, set[str]] = field(default_factory=dict)  # by path: its records and intents, as they were saved
    _begun: set[str] = field(default_factory=set)  # paths of uploads that were begun under an older configuration
    _in_flight: list[Request] = field(default_factory=list)
    _may_repeat: list[Request] = field(default_factory=list)  # calls that may be made once more, after a 401
    _one_more: set[str] = field(default_factory=set)  # paths that were at work when they were paused
    _disposing: Counter[str] = field(default_factory=Counter)

    # The commands

    def born(self) -> None:
        """Note that a new life has begun, with the current configuration."""
        self.under_way.clear()
        self._in_flight.clear()
        self._may_repeat.clear()
        self._one_more.clear()
        self._disposing.clear()
        self.in_force(self.world.config)

    def in_force(self, config: Config) -> None:
        """Note that *config*, or one that was asked for later, is in force."""
        if config not in self.possible or len(self.possible) > 1:
            self._begun = {upload["path"] for upload in self._uploads() if _begun(upload)}
        later = [order.config for order in self.under_way if order.config is not None and not order.crossed]
        self.possible = [config, *later]

    def give(self, order: Order) -> Order:
        """Note that a command is given."""
        self.world.note(f"{order.verb} {order.about}")
        self.world.count("commands")
        self.asked[order.verb] += 1
        self.under_way.append(order)
        if order.config is not None:
            self.possible.append(order.config)
        elif order.verb == "forget":
            self._allow_again(order)
        elif order.verb == "resume":
            self.paused = {name for name in self.paused if not _same(name, order.about)}
            for other in self.under_way:
                other.crossed |= other.verb == "pause" and _same(other.about, order.about)
        return order

    def _allow_again(self, order: Order) -> None:
        """Count which contents may be sent again: that of the forgotten upload, and that of the file now."""
        if order.upload is not None:
            self._forgetting |= self._known.get(order.upload.path, set())
        contents = {order.upload.identity.edges} if order.upload is not None else set()
        for name in (
            order.about,
            order.about.replace(".mp4", RENAMED),
            order.about.replace(RENAMED, ".mp4"),
        ):
            if (file := self.world.folder.files.get(name)) is not None:
                contents.add(hashlib.sha256(file.data).hexdigest())
        self.again.update(contents)

    def answered(self, order: Order, done: bool, now: Upload | None, at_work: set[str]) -> None:
        """Note the answer to a command. *now*: its upload as it is now; *at_work*: paths that are worked on now."""
        before = self.under_way[: self.under_way.index(order)]
        self.under_way.remove(order)
        self.world.note(f"answer to {order.verb} {order.about}: {done}")
        if order.verb == "pause":
            self._pause(order, at_work)
        elif order.verb == "forget" and done:
            self._forget(order, now)
        elif order.config is not None and not order.crossed:
            for other in before:
                other.crossed |= other.config is not None  # its answer says nothing more about what is in force
            self.in_force(order.config)
        elif order.verb == "retry":
            self._check_retried(order, done, now)

    def refused(self, order: Order, error: Exception) -> None:
        """Note that a command ended with an error that was shown to the operator."""
        self.under_way.remove(order)
        self.world.note(f"refused {order.verb} {order.about}: {error}")

    def _pause(self, order: Order, at_work: set[str]) -> None:
        resumes = any(other.verb == "resume" and _same(other.about, order.about) for other in self.under_way)
        if not (order.crossed or resumes):
            self.paused.add(order.about)
            self._may_repeat += self._in_flight
            self._one_more |= at_work

    def _forget(self, order: Order, now: Upload | None) -> None:
        if order.about.startswith("record-"):
            self._forgotten_orphans.add(order.about)
            self.look_at_saved()
        if order.upload is None:
            return  # found, or given up, a moment after the command was given
        marks = self._known.pop(order.upload.path, set())
        if now is not None and now.serial != order.upload.serial:  # its file was found again before the answer
            kept = {f"the intent of {now.intent_at} for {now.path}"} | ({now.ids.record} if now.ids else set())
            self._known[now.path] = marks & kept
            marks -= kept
        self._forgotten |= marks
        self.forgotten_files |= {order.upload.path, order.upload.where}
        self.look_at_saved()

    def _check_retried(self, order: Order, done: bool, now: Upload | None) -> None:
        """I20: retry lets a parked upload go on."""
        before = order.upload
        if before is None or before.state is not State.PARKED or now is None or order.crossed:
            return
        if not done:
            self.world.fail(f"I20: retry of {order.about}, which is parked, is answered: no such upload")
        if now.state is State.PARKED and not order.released:
            self.world.fail(f"I20: retry of {order.about} succeeds, and it is still parked")

    def released(self, path: str) -> None:
        """Note that an upload has gone on; it may be parked again a moment later."""
        for order in self.under_way:
            order.released |= order.upload is not None and order.upload.path == path

    # The saved state

    def look_at_saved(self) -> None:
        """I16: no save contains what was forgotten. Called after each save."""
        saved = self.world.disk.announced()
        for orphan in saved["orphans"]:
            if orphan["record"] in self._forgotten_orphans:
                self.world.fail(f"I16: the report of {orphan['record']} was forgotten, and it is saved")
            if orphan.get("identity"):
                self._adoptable.add(orphan["record"])
        for upload in self._uploads():
            if upload.get("forgotten"):
                continue  # whether its record was made is still to be found out
            for mark in _marks(upload):
                self._known.setdefault(upload["path"], set()).add(mark)
                if mark in self._adoptable - {orphan["record"] for orphan in saved["orphans"]}:
                    self._forgotten.discard(mark)  # it has landed whole, and its file was queued again: it is adopted
                if mark in self._forgotten:
                    self.world.fail(f"I16: {upload['path']} was forgotten, and {mark} is saved as {upload['state']}")

    def may_be_forgotten(self, record: str) -> bool:
        """True when the operator has forgotten the upload of a record, or a kill has left that unanswered."""
        return record in self._forgotten | self._forgetting

    def look_at_ledger(self, line: bytes) -> None:
        """I16: no ledger line is written for what was forgotten."""
        if self._forgotten and (record := json.loads(line)["upload"]["record"]) in self._forgotten:
            self.world.fail(f"I16: {record} was forgotten, and the ledger gets its line")

    # Requests

    def before_request(self, request: Request) -> None:
        """I17, I19, I21: check a request against the commands so far."""
        self._in_flight.append(request)
        parts = request.path.removeprefix("/api/v3/").split("/")
        if parts[0] != "records":
            return
        if len(parts) == 1 or parts[1] == "create-upload":
            name = request.payload.get("name") or request.payload.get("search")  # none: any upload's
            creating = [one for one in self._uploads() if one["state"] == "creating"]
            about = [one for one in creating if not name or one["record"]["name"] == name]
        else:
            record = parts[2] if parts[1] == "download" else parts[1]
            about = [one for one in self._uploads() if _record(one) == record]
            if sum(_is_about(other, record) for other in self._in_flight) > 1:
                self.world.fail(f"I21: two requests about {record} at the same time")
        if about and all(self._is_paused(upload) for upload in about):
            if (first := self._repeated(request)) is not None:
                self._may_repeat.remove(first)
            elif about[0]["path"] in self._one_more:  # a stage was about to make this call, or waited for its log-in
                self._one_more.remove(about[0]["path"])
                self._may_repeat.append(request)
            else:
                self.world.fail(f"I17: {about[0]['path']} is paused, and a request begins: {_what(request)}")
        named = request.payload.get("name")
        if (
            named
            and about
            and parts[-1] == "create-upload"
            and not any(self._may_create(one, request) for one in about)
        ):
            self.world.fail(f"I19: {about[0]['path']} was queued, and becomes after the reload: {request.payload}")

    def _repeated(self, request: Request) -> Request | None:
        """Return the call that this one repeats with another token; None when it repeats none."""
        return next(
            (one for one in self._may_repeat if _what(one) == _what(request) and one.token != request.token), None
        )

    def ended(self, request: Request) -> None:
        """Note that the client no longer waits for this request."""
        if request in self._in_flight:
            self._in_flight.remove(request)

    def _is_paused(self, upload: dict[str, Any]) -> bool:
        names: tuple[str, ...] = (upload["path"], upload.get("renamed_to") or upload["path"])
        return any(covers(self.paused, name) for name in names)

    def _may_create(self, upload: dict[str, Any], request: Request) -> bool:
        path: str = upload["path"]
        if path in self._begun:
            return True
        for config in self.possible:
            watch = selection.owner(config.watch, path)
            relpath = None if watch is None else selection.relative(watch.path, path)
            if watch is not None and relpath is not None:
                mapped = mapping.record_for(watch.record, relpath=relpath, mtime=0.0)
                if create_payload(mapped.record) == request.payload:
                    return True
        return False

    # Disposal of the file

    def before_removal(self, path: str) -> None:
        """I16, I17, I18: check a removal against the commands so far."""
        here = [one for one in self._uploads() if (one.get("renamed_to") or one["path"]) == path]
        ready = any(upload["state"] == "finishing" for upload in here)
        if any(_record(upload) in self._forgotten for upload in here) or (path in self.forgotten_files and not ready):
            self.world.fail(f"I16: {path} is removed on account of an upload that was forgotten")
        if any(self._is_paused(upload) and upload["path"] not in self._one_more for upload in here):
            self.world.fail(f"I17: {path} is paused, and is removed")
        if self.possible and all(config.watch[0].after_upload == "keep" for config in self.possible):
            self.world.fail(f"I18: {path} is removed, and the configuration says that it is kept")

    @contextmanager
    def disposing(self, path: str) -> Iterator[None]:
        """I21: a file is never disposed of by two tasks at once."""
        self._disposing[path] += 1
        if self._disposing[path] > 1:
            self.world.fail(f"I21: {path} is disposed of twice at the same time")
        try:
            yield
        finally:
            self._disposing[path] -= 1

    def takes(self, path: str) -> bool:
        """True when a file is to be sent by the configuration as it is now."""
        return selection.owner(self.world.config.watch, path) is not None

    def _uploads(self) -> list[dict[str, Any]]:
        uploads: list[dict[str, Any]] = self.world.disk.announced()["uploads"]
        return uploads


def _same(name: str, other: str) -> bool:
    """True when two names may belong to one file, or one of them means everything."""
    return EVERYTHING in {name, other} or name.replace(RENAMED, ".mp4") == other.replace(RENAMED, ".mp4")


def _record(upload: dict[str, Any]) -> str:
    return str((upload.get("ids") or {}).get("record", ""))


def _marks(upload: dict[str, Any]) -> list[str]:
    """Return what tells an upload from another one of its path: its record or, before that, when it was asked for."""
    if record := _record(upload):
        return [record]
    intent = upload.get("intent_at")
    return [] if intent is None else [f"the intent of {intent} for {upload['path']}"]


def _begun(upload: dict[str, Any]) -> bool:
    """True when the server may know of an upload."""
    return bool((upload.get("parked_from") or upload["state"]) != "queued")


def _what(request: Request) -> str:
    return f"{request.method} {request.path} {request.range} {request.payload}"


def _is_about(request: Request, record: str) -> bool:
    return record == request.path.removeprefix("/api/v3/records/").removeprefix("download/").partition("/")[0]

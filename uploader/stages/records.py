"""Creates the record of an upload, and finds out what became of a create call whose answer was lost.

The server cannot tell a repeated create call from a new one (docs/protocol.md, rule 6). So the intent is saved before
the call, and after a lost answer the record is searched for by its exact name, user and age.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from uploader.domain import errors, events, lifecycle
from uploader.domain.lifecycle import Step
from uploader.domain.model import Orphan, RecordIds, Upload
from uploader.domain.retry import DAY
from uploader.server.capabilities import CapabilityTracker
from uploader.server.port import RecordDetails, RecordListed, RecordServer
from uploader.stages.context import StageContext
from uploader.stages.lease import raise_if_paused

SERVER_CLOCK_RESOLUTION: Final = 2.0  # s; the Date header and ``created`` have whole seconds
RECEIVED_STATUSES: Final = frozenset({"created", "ready"})
CREATE_LIMIT: Final = 600.0  # s after its intent in which a record must have been created to be this program's own
FOUND_RECORD_AGE: Final = DAY  # s that a record found by its name is left alone: another client may be sending to it
INTENT_LIMIT: Final = 10.0  # s that the save of an intent may take: after a longer one it is timed, and saved, anew
SAME_NAME_PAUSE: Final = 1.0  # s, at least, until a record with the name of one in doubt is created


class RecordCreator:
    """Creates records, one at a time for each name."""

    def __init__(
        self,
        context: StageContext,
        username: str,
        doubt_settle: float,
        valt: RecordServer,
        capabilities: CapabilityTracker,
    ) -> None:
        """*doubt_settle*: seconds after which the server has ended a request whose answer was lost."""
        self._store, self._clock, self._bus = context.store, context.clock, context.bus
        self._username, self._doubt_settle, self._valt, self._capabilities = username, doubt_settle, valt, capabilities
        # One at a time, so that after a crash a record of that name belongs to one upload only (rule 6).
        self._names: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._ended: dict[str, float] = {}  # by path: since when its call has certainly been over; monotonic

    async def create(self, path: str, is_as_configured: Callable[[Upload], bool]) -> None:
        """Save the intent, create the record, save its ids. Raises ``UploaderError`` and ``Paused``.

        Does nothing if a reload has changed the upload's configuration meanwhile, as *is_as_configured* says.
        """
        nameless = self._capabilities.makes_nameless()
        name = "" if nameless else self._store.uploads[path].record.name
        async with self._names.setdefault(name, asyncio.Lock()):
            in_doubt = self._store.table.creating(None if nameless else name)
            if any(other.path != path for other in in_doubt):  # they could not be told apart
                same = "" if nameless else " of the same name"
                what = f"it is not known yet whether the record of another file{same} was created"
                raise errors.StillInDoubt(what, wait=max(SAME_NAME_PAUSE, self._doubt_settle))
            await self._valt.agree_on_time()  # the intent is timed by the server's clock
            raise_if_paused(self._store, path)
            await self._capabilities.refresh()
            upload = raise_if_paused(self._store, path)
            if not is_as_configured(upload):  # the calls above may have taken long
                return
            upload = await self._save_intent(upload)
            if self._store.is_paused(upload):
                await self._store.save(lifecycle.advance(upload, Step.NOT_CREATED))
                return
            try:
                by_name = partial(self._valt.create_record, upload.record)
                ids = await (self._valt.create_nameless_record if nameless else by_name)()
            except errors.ServerRefused as error:
                await self._store.save(lifecycle.advance(self._store.uploads[path], Step.NOT_CREATED))
                if not await self._other_way(error, nameless=nameless):
                    raise
                return
            except errors.AnswerLost as error:
                self._time_in_doubt(upload)  # called so that the time counts from now; the result is not used
                self._bus.publish(events.UploadInDoubt(path, "", str(error)))
                raise
            except errors.UploaderError:
                await self._store.save(lifecycle.advance(self._store.uploads[path], Step.NOT_CREATED))
                raise
            await self._store.save(lifecycle.advance(self._store.uploads[path], Step.CREATED, ids=ids))
            self._bus.publish(events.RecordCreated(path, ids.record, ids.video))

    async def _other_way(self, error: errors.ServerRefused, *, nameless: bool) -> bool:
        """Note that records may be made in the other way here: the next call tries that. False if it is another no.

        Raises ``CallFailed`` when both were refused, which may have been a proxy's doing.
        """
        if not nameless and isinstance(error, errors.NamelessOnly):
            await self._capabilities.learn_nameless(nameless=True)
            return True
        if not nameless or isinstance(error, errors.RightMissing | errors.PayloadRefused):
            return False
        await self._capabilities.learn_nameless(nameless=False)
        raise errors.CallFailed(f"{error.what}; one with a name was refused, too: is server.url a VALT server?")

    async def name(self, upload: Upload) -> None:
        """Give a record its name, if this server makes nameless ones. If it cannot, that is said once."""
        if not self._capabilities.makes_nameless() or self._store.capabilities.names_refused or upload.ids is None:
            return
        try:
            await self._valt.name_record(upload.ids.record, upload.record)
        except (errors.ServerRefused, errors.CallFailed) as error:
            self._store.learn(names_refused=True)
            self._bus.publish(events.RecordsNameless(upload.path, upload.ids.record, str(error)))

    async def _save_intent(self, upload: Upload) -> Upload:
        """Save that a record is about to be created, and when, by the server's clock.

        A disk may refuse for minutes. The record is then much younger than the intent, and would not be taken for this
        program's own. So the intent is saved again with a new time.
        """
        self.forget(upload.path)
        begun_at, intent_at = upload.begun_at or self._clock.now(), self._valt.server_now()
        changes = {"intent_at": intent_at, "begun_at": begun_at}
        upload = await self._store.save(lifecycle.advance(upload, Step.INTEND, **changes))
        while (now := self._valt.server_now()) - intent_at > INTENT_LIMIT:
            intent_at = now
            upload = await self._store.save(replace(upload, intent_at=intent_at))
        return upload

    async def find(self, upload: Upload) -> None:
        """Find out whether the record of a saved intent exists (rule 6)."""
        if self._capabilities.makes_nameless():
            async with self._names.setdefault("", asyncio.Lock()):  # no record without a name is being made meanwhile
                await self._find(upload)
        else:
            await self._find(upload)

    async def _find(self, upload: Upload) -> None:
        waited = self._time_in_doubt(upload)  # before the search: its answer may take long, and was true when it began
        found = await self._empty_records(upload)
        if not found and waited < self._doubt_settle:
            wait = self._doubt_settle - waited
            raise errors.StillInDoubt("it is not known yet whether its record was created", wait=wait)
        record = found[0] if len(found) == 1 else None
        upload = self._store.uploads[upload.path]
        if record is not None and record.videos is not None:  # the video's id is known
            ids = RecordIds(record.record, next(iter(record.videos)))
            await self._store.save(lifecycle.advance(upload, Step.CREATED, ids=ids))
            self._bus.publish(events.RecordAdopted(upload.path, record.record))
            return
        outcome = f"{len(found)} records may be it: left alone" if found else "no record was created"
        if record is not None:
            # Its video's id was in the lost answer only, so nothing can be sent to it. It is deleted if it is still
            # empty tomorrow: another client of this account may have just made a record of the same name.
            now = self._clock.now()
            due = now + FOUND_RECORD_AGE
            self._store.put_orphan(Orphan(record.record, record.name, upload.path, now, due, found=True))
            outcome = f"record {record.record} was created; its video is not known, so it is deleted later"
        await self._store.save(lifecycle.advance(upload, Step.NOT_CREATED))
        self._bus.publish(events.DoubtResolved(upload.path, "", outcome))

    def _time_in_doubt(self, upload: Upload) -> float:
        """Return the seconds for which the create call has certainly been over, by the monotonic clock.

        They count from the first call of this method after the call: when its answer was lost or, after a restart or a
        reload, when the record is first searched for. The time of the intent does not tell when the call ended.
        """
        now = self._clock.monotonic()
        return now - self._ended.setdefault(upload.path, now)

    def forget(self, path: str) -> None:
        """Forget since when the create call of *path* has been over: its outcome is known, or another call begins."""
        self._ended.pop(path, None)

    async def _empty_records(self, upload: Upload) -> list[RecordDetails]:
        """Return the records that may be this upload's and hold no data: those of its name, or of none."""
        empty = []
        rows = await self._valt.find_records(upload.record.name)
        if self._capabilities.makes_nameless():
            raise_if_paused(self._store, upload.path)
            rows += await self._valt.find_records("", since=upload.intent_at)
        for row in rows:
            if self._may_be_own(row, raise_if_paused(self._store, upload.path)):
                with suppress(errors.RecordGone):
                    details = await self._valt.details(row.record)
                    statuses = None if details.videos is None else list(details.videos.values())
                    if statuses is None or (len(statuses) == 1 and statuses[0] not in RECEIVED_STATUSES):
                        empty.append(details)
        return empty

    def _may_be_own(self, row: RecordListed, upload: Upload) -> bool:
        return (
            row.author == self._username
            and -SERVER_CLOCK_RESOLUTION <= row.created - (upload.intent_at or 0.0) <= CREATE_LIMIT
            and not self._store.table.has_record(row.record)
            and row.record not in self._store.orphans
        )

"""Carries out the calls of the built-in server: makes a ``SimulatedAnswer`` from a request's content.

``server`` does the rest of HTTP: it receives bodies, applies faults and sends answers.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from urllib.parse import urlencode

from uploader.domain.model import RecordSpec
from uploader.runtime.clock import Clock
from uploader.testing.simulator import wire
from uploader.testing.simulator.intake import Form
from uploader.testing.simulator.records import Record, Records
from uploader.testing.simulator.semantics import ContentRange, parse_content_range, receive
from uploader.testing.simulator.settings import Settings
from uploader.testing.simulator.tokens import JWT_FORM, ExpiringTokens
from uploader.testing.simulator.wire import SimulatedAnswer


class Api:
    """The calls of docs/protocol.md.

    ``base_url``: what download links begin with; ``closed_url``: the same for links to a closed port. ``server`` sets
    both. ``settings`` may be replaced at any time; lifetimes stay as they were at first.
    """

    def __init__(self, records: Records, settings: Settings, clock: Clock) -> None:
        self.base_url = ""
        self.closed_url = ""
        self.settings = settings
        self._records = records
        self._clock = clock
        self._tokens: ExpiringTokens[str] = ExpiringTokens(settings.token_lifetime, clock)
        self._links: ExpiringTokens[Record] = ExpiringTokens(settings.link_lifetime, clock)

    def forget_passes(self, *, links: bool = False) -> None:
        """End every token and, with *links*, every download link."""
        self._tokens.forget_all()
        if links:
            self._links.forget_all()

    def gatekeep(self, token: str | None) -> SimulatedAnswer | None:
        """Return the 401 answer to *token*, or None when it is valid."""
        if not token:
            return wire.NO_TOKEN
        return None if self._tokens.opens(token) else wire.BAD_TOKEN

    def login(self, body: bytes) -> SimulatedAnswer:
        """Issue an access token."""
        payload = wire.parse_object(body) or {}
        asked = (payload.get("username"), payload.get("password"))
        if asked != (self.settings.username, self.settings.password):
            return wire.WRONG_PASSWORD
        if self.settings.single_token:
            self._tokens.forget_all()
        return SimulatedAnswer(200, {"data": {"access_token": self._tokens.issue(self.settings.username)}})

    def create(self, body: bytes, method: str) -> SimulatedAnswer:
        """Make a record with one video, which has no bytes yet. By GET it has no name."""
        if method != self.settings.create.upper():
            return replace(wire.METHOD_NOT_ALLOWED, headers={"Allow": self.settings.create.upper()})
        spec = RecordSpec("") if method == "GET" else wire.parse_create(body)
        if spec is None:
            return wire.BAD_PAYLOAD
        record = Record(
            id=str(uuid.uuid4()),
            video=str(uuid.uuid4()),
            spec=spec,
            author=self.settings.username,
            created=self._clock.now(),
            semantics=self.settings.semantics,
        )
        self._records.add(record)
        return SimulatedAnswer(200, {"id": record.id, "videos": [record.video]})

    async def upload(
        self, record_id: str, video_id: str, header: str | None, form: Form, length: int
    ) -> SimulatedAnswer:
        """Take one chunk. *length*: of the request's body. The form's file may be moved; else the caller removes it."""
        record = self._records.get(record_id)
        if record is None or record.video != video_id:
            return wire.NOT_FOUND
        async with record.lock:
            if self._records.get(record_id) is None:  # deleted while this request waited
                return wire.NOT_FOUND
            if self.settings.form_limit is not None and length > self.settings.form_limit:
                form = Form()
            return await self._take(record, header, form)

    async def _take(self, record: Record, header: str | None, form: Form) -> SimulatedAnswer:
        """Store a chunk as the record's semantics say, or refuse it."""
        chunk = _announced(header, form.size)
        refusal = _refusal_of(header, chunk, form)
        taken = receive(record.semantics, record.held, chunk) if chunk and not refusal else None
        if taken is None or chunk is None or form.file is None:
            self._records.refuse(record, chunk)
            return refusal or wire.BAD_RANGE
        await asyncio.to_thread(self._records.take, record, chunk, taken, form.file, self._clock.now())
        headers = {} if taken.acknowledged is None else {"Range": f"0-{taken.acknowledged - 1}"}
        return SimulatedAnswer(201, headers=headers)

    def details(self, record_id: str) -> SimulatedAnswer:
        """Return one record, with its video once that is complete."""
        record = self._records.get(record_id)
        if record is None:
            return wire.NOT_FOUND
        status = record.status(self._clock.now(), self.settings.processing, self.settings.status_word)
        videos = None if status == "incomplete" else [{"id": record.video, "status": {"type": status}}]
        return SimulatedAnswer(200, {"data": self._entry(record) | {"videos": videos}})

    def list(self, body: bytes) -> SimulatedAnswer:
        """Return the records that match a query, the newest first."""
        query = wire.parse_query(body)
        if query is None:
            return wire.BAD_PAYLOAD
        found = [self._entry(record) for record in self._records if query.matches(record.spec, record.created)]
        end = None if query.limit is None else query.offset + query.limit
        page = found[::-1][query.offset : end]
        return SimulatedAnswer(200, {"data": page if self.settings.list_shape == "bare" else {"records": page}})

    def _entry(self, record: Record) -> dict[str, object]:
        """Return a record as ``list`` shows it; ``details`` adds its videos."""
        entry: dict[str, object] = {
            "id": record.id,
            "name": record.spec.name,
            "type": "record",
            "created": int(record.created),
            "author": {"id": 1, "name": record.author},
            "duration": record.duration if self.settings.durations == "right" else 0,
            "template": record.spec.template,
        }
        if self.settings.durations == "none":
            del entry["duration"]
        return entry

    def link(self, record_id: str, video_id: str) -> SimulatedAnswer:
        """Return a link to the video's bytes, valid for ``Settings.link_lifetime``."""
        record = self._records.get(record_id)
        if record is None or record.video != video_id or record.completed_at is None:
            return wire.NOT_FOUND
        secret = self._links.issue(record, form=JWT_FORM)
        query = urlencode({"filename": f"{record.spec.name}.mp4", "access_token": secret})
        own = self.settings.public_url or self.base_url
        base = self.closed_url if self.settings.download == "closed" else own
        return SimulatedAnswer(200, {"url": f"{base}/distribution/{record.id}/{record.video}.mp4?{query}"})

    def linked(self, record_id: str, video_id: str, secret: str) -> Record | SimulatedAnswer:
        """Return the record that a download link leads to, or the answer to a link that leads to none.

        403: it has expired, or was issued for another video. 404: the record was deleted.
        """
        record = self._links.opens(secret)
        if record is None or (record.id, record.video) != (record_id, video_id):
            return wire.html_answer(403)
        return record if self._records.get(record_id) is record else wire.NOT_FOUND

    def update(self, record_id: str, body: bytes) -> SimulatedAnswer:
        """Change the name and the template fields of a record."""
        record = self._records.get(record_id)
        if record is None:
            return wire.NOT_FOUND
        spec = wire.parse_update(body, record.spec)
        if spec is None:
            return wire.BAD_PAYLOAD
        self._records.rename(record, spec)
        return SimulatedAnswer(200, {"data": {"id": record_id}})

    def share(self, record_id: str, *, active: bool) -> SimulatedAnswer:
        """Give the link under which anybody may see a record, or take it back. Nothing is behind it here."""
        if self._records.get(record_id) is None:
            return wire.NOT_FOUND
        url = f"{self.settings.public_url or self.base_url}/share/{record_id}"
        return SimulatedAnswer(200, {"data": {"url": url} if active else {"id": record_id}})

    async def delete(self, record_id: str) -> SimulatedAnswer:
        """Remove a record for good."""
        record = self._records.get(record_id)
        if record is None:
            return wire.NOT_FOUND
        if self.settings.refuses_delete:
            return wire.FORBIDDEN
        async with record.lock:
            if self._records.get(record_id) is None:
                return wire.NOT_FOUND
            await asyncio.to_thread(self._records.forget, record)
        return SimulatedAnswer(200, {"data": {"id": record_id}})

    def version(self) -> SimulatedAnswer:
        """Return the server's version."""
        return SimulatedAnswer(200, {"data": {"version": self.settings.version}})


def _announced(header: str | None, size: int) -> ContentRange | None:
    """Return the range that a request announces. Without a header it is the whole file, as in PHP."""
    if header is not None:
        return parse_content_range(header)
    return ContentRange(0, size - 1, size) if size else None


def _refusal_of(header: str | None, chunk: ContentRange | None, form: Form) -> SimulatedAnswer | None:
    """Return the answer to an upload that is refused before any receiver sees it; else None."""
    if form.file is None and header is None:
        return wire.MISSING_FILE
    if form.size == 0:
        return wire.CHUNK_NOT_TRANSFERRED
    if chunk is None:
        return wire.BAD_RANGE
    return None if chunk.size == form.size else wire.CHUNK_NOT_TRANSFERRED

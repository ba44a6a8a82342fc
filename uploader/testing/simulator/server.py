"""The simulator: a VALT v3 server on plain HTTP, for trying the program out and for tests.

It receives whole requests, applies the scripted faults, lets ``api`` do the work, and keeps a list of the calls. It
never writes a token or a password anywhere. ``stop`` ends all work that it has started.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from uploader.runtime.clock import Clock, SystemClock
from uploader.testing.simulator import wire
from uploader.testing.simulator.api import Api
from uploader.testing.simulator.balancer import Balancer
from uploader.testing.simulator.downloads import Downloads
from uploader.testing.simulator.faults import CallName, Fault, FaultKind, fault_answer, strike
from uploader.testing.simulator.intake import READ_SIZE, BodyCutError, EarlyAnswerError, Form, Intake
from uploader.testing.simulator.page import RecordView, as_json, as_page, view
from uploader.testing.simulator.records import Records
from uploader.testing.simulator.responses import abort, as_response
from uploader.testing.simulator.settings import Settings
from uploader.testing.simulator.wire import SimulatedAnswer

CALLS_KEPT = 100_000
_LINGERING = 5.0  # seconds that an early answer waits for the client to stop sending, as nginx does

_NODE = web.RequestKey("node", str)  # that the balancer chose
_NAMED_FAULT = web.RequestKey("named-fault", Fault)  # one that the body of its request has called for

_ROUTES: tuple[tuple[str, str, CallName], ...] = (
    ("POST", "/api/v3/login", "login"),
    ("POST", "/api/v3/records/create-upload", "create"),
    ("GET", "/api/v3/records/create-upload", "create"),
    ("POST", "/api/v3/records/{record}/videos/{video}", "upload"),
    ("GET", "/api/v3/records/{record}", "details"),
    ("POST", "/api/v3/records", "list"),
    ("GET", "/api/v3/records/download/{record}/{video}", "link"),
    ("POST", "/api/v3/records/{record}/delete", "delete"),
    ("POST", "/api/v3/records/{record}/update", "update"),
    ("POST", "/api/v3/records/{record}/share", "share"),
    ("POST", "/api/v3/records/{record}/share/deactivate", "unshare"),
    ("GET", "/api/v3/admin/general", "version"),
)


@dataclass(frozen=True, slots=True)
class SeenCall:
    """One call that was made. It never holds a token or a password."""

    name: CallName
    status: int | None  # None: no answer was given
    record: str | None  # the id of its record
    content_range: str | None
    received: int  # bytes of its body
    at: float  # Unix seconds, when it ended
    fault: FaultKind | None = None  # the fault that was applied
    node: str | None = None  # which of the two nodes was called; None unless ``Settings.sticky``


class Simulator:
    """A VALT server that stores its records in *folder*, and loads those that are there.

    ``faults``, ``settings`` and ``change`` may be used while it runs.
    """

    def __init__(self, folder: Path, settings: Settings | None = None, *, clock: Clock | None = None) -> None:
        self.url = ""  # http://HOST:PORT while it runs
        self.faults: list[Fault] = []
        self.calls: deque[SeenCall] = deque(maxlen=CALLS_KEPT)
        self.on_call: Callable[[SeenCall], None] | None = None
        self._clock = clock or SystemClock()
        self._records = Records(folder)
        self._api = Api(self._records, settings or Settings(), self._clock)
        self.downloads = Downloads(self._records, self._api, self.faults, self._clock)
        self._runner: web.AppRunner | None = None
        self._download_runner: web.AppRunner | None = None  # with a port of its own
        self._closed_port: socket.socket | None = None
        self._balancer = Balancer()
        self._handlers: set[asyncio.Task[object]] = set()
        self._jobs: set[asyncio.Task[SimulatedAnswer]] = set()

    @property
    def settings(self) -> Settings:
        """What kind of server it is. New settings apply to every later request, with two exceptions.

        The lifetimes of tokens and links stay as they were at first. Downloads keep their port until the next start.
        """
        return self._api.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._api.settings = settings

    def change(self, **changes: Any) -> None:
        """Change some of the settings, say ``change(download="closed")``."""
        self.settings = replace(self.settings, **changes)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serve on *host* and *port* (0: any free one); return the base URL. Raises OSError when it is taken."""
        self._runner = runner = await _runner_of(self._app())
        try:
            self.url = self._api.base_url = await _listen(runner, host, port)
            if self.settings.own_download_port:
                self._download_runner = await _runner_of(self._app_of_downloads())
                self._api.base_url = await _listen(self._download_runner, host, 0)
            self._closed_port = socket.socket()
            self._closed_port.bind((host, 0))  # kept, so that no other program listens there
        except OSError:
            await self.stop()
            raise
        self._api.closed_url = f"http://{host}:{self._closed_port.getsockname()[1]}"
        return self.url

    async def stop(self) -> None:
        """Cut every connection, end all work, forget tokens and links. It may be started again."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        downloads, self._download_runner = self._download_runner, None
        runners = [each for each in (runner, downloads) if each is not None]
        for each in runners:
            for site in tuple(each.sites):
                await site.stop()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, *self._jobs, return_exceptions=True)
        for each in runners:
            await each.cleanup()
        if self._closed_port is not None:
            self._closed_port.close()
        self._records.sweep()
        self._api.forget_passes(links=True)

    def records(self) -> list[RecordView]:
        """Return every record as it is now, the oldest first."""
        now = self._clock.now()
        processing, processed = self.settings.processing, self.settings.status_word
        return [view(self._records, record, now, processing, processed) for record in self._records]

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._track])
        for method, path, name in _ROUTES:
            app.router.add_route(method, path, self._handler(name))
        if not self.settings.own_download_port:
            self.downloads.add_to(app)
        app.router.add_get("/simulator/records", self._show_json)
        app.router.add_get("/", self._show_page)
        return app

    def _app_of_downloads(self) -> web.Application:
        app = web.Application(middlewares=[self._track])
        self.downloads.add_to(app)
        return app

    @web.middleware
    async def _track(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Keep track of every running handler, and answer unknown routes as the real server does."""
        if self._runner is None:  # stopping: a request on an idle connection
            abort(request)
            return web.Response()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._handlers.add(task)
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed:
            return as_response(wire.METHOD_NOT_ALLOWED)
        except web.HTTPNotFound:
            return as_response(wire.NOT_FOUND)
        finally:
            self._handlers.discard(task)

    def _handler(self, name: CallName) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            record = request.match_info.get("record")
            known = self._records.get(record) if record else None
            fault = strike(self.faults, name, record=record, name=known.spec.name if known else None)
            answer: SimulatedAnswer | None = None
            close, cookie = False, ""
            if self.settings.sticky:
                request[_NODE], cookie = self._balancer.choose(request.headers.get("Cookie", ""))
            try:
                answer = await self._exchange(name, request, fault)
            except EarlyAnswerError as early:
                answer, close = early.answer, True
            except BodyCutError:
                pass
            self._note(name, request, fault or request.get(_NAMED_FAULT), answer)
            if answer is None:
                abort(request)
                return web.Response()  # not sent: the connection is closed
            if cookie:
                answer = replace(answer, headers={**answer.headers, "Set-Cookie": cookie})
            return as_response(answer, close=close)

        return handle

    async def _exchange(self, name: CallName, request: web.Request, fault: Fault | None) -> SimulatedAnswer | None:
        """Receive a request, do its work, apply *fault*; None: no answer is sent."""
        limit = self.settings.body_limit
        if limit is not None and (request.content_length or 0) > limit:
            raise EarlyAnswerError(wire.TOO_LARGE)
        if fault and fault.kind == "expire-token":
            self._api.forget_passes()
        intake = Intake(request, fault, self._clock)
        spool = self._records.spool / uuid.uuid4().hex
        try:
            body = await (intake.form(spool) if name == "upload" else intake.payload())
            fault = fault or self._fault_of_name(name, request, body)
            if fault and fault.kind == "status":
                return fault_answer(fault)
            if fault and fault.kind == "late":
                abort(request)
                await fault.stand_still(self._clock)
            answer = await self._work(name, request, body, intake.received)
        finally:
            if self._runner is not None:  # else a job may still read it, and stop() empties the spool
                spool.unlink(missing_ok=True)
        return await self._faulty(answer, fault)

    def _fault_of_name(self, call: CallName, request: web.Request, body: bytes | Form) -> Fault | None:
        """Return the fault that is due because the *body* says which record the call is about."""
        if call not in {"create", "list"} or not isinstance(body, bytes):
            return None
        name = (wire.parse_object(body) or {}).get("name" if call == "create" else "search")
        fault = strike(self.faults, call, name=name, only_named=True) if isinstance(name, str) else None
        if fault is not None:
            request[_NAMED_FAULT] = fault
            if fault.kind == "cut-body":
                raise BodyCutError
            if fault.kind == "expire-token":
                self._api.forget_passes()
        return fault

    async def _faulty(self, answer: SimulatedAnswer, fault: Fault | None) -> SimulatedAnswer | None:
        """Apply *fault* to the *answer* to work that was done; None: no answer is sent."""
        if fault is None:
            return answer
        match fault.kind:
            case "lose-answer" | "late":
                return None
            case "store-then-status":
                return fault_answer(fault)
            case "garbage":
                return SimulatedAnswer(200, "\x00\x01 not what you asked for {{{")
            case "stall" if fault.after_bytes is None:
                await fault.stand_still(self._clock)
        return answer

    async def _work(self, name: CallName, request: web.Request, body: bytes | Form, received: int) -> SimulatedAnswer:
        """Do the work of a call, to its end even when the connection or the simulator goes away meanwhile."""
        job = asyncio.create_task(self._answer(name, request, body, received))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return await asyncio.shield(job)

    async def _answer(self, name: CallName, request: web.Request, body: bytes | Form, received: int) -> SimulatedAnswer:
        api = self._api
        if isinstance(body, bytes) and name == "login":
            return api.login(body)
        refusal = api.gatekeep(request.query.get("access_token"))
        if refusal is not None:
            return refusal
        record, video = request.match_info.get("record", ""), request.match_info.get("video", "")
        if _NODE in request and record and not self._balancer.knows(request[_NODE], record):
            return wire.NOT_FOUND
        if isinstance(body, Form):
            return await api.upload(record, video, request.headers.get("Content-Range"), body, received)
        match name:
            case "create":
                return self._create(request, body)
            case "list":
                return api.list(body)
            case "link":
                return api.link(record, video)
            case "version":
                return api.version()
            case _:
                return await self._of_record(name, record, body)

    async def _of_record(self, name: CallName, record: str, body: bytes) -> SimulatedAnswer:
        match name:
            case "details":
                return self._api.details(record)
            case "update":
                return self._api.update(record, body)
            case "delete":
                return await self._api.delete(record)
            case _:
                return self._api.share(record, active=name == "share")

    def _create(self, request: web.Request, body: bytes) -> SimulatedAnswer:
        answer = self._api.create(body, request.method)
        if _NODE in request and isinstance(answer.body, dict) and "id" in answer.body:
            self._balancer.made(answer.body["id"], request[_NODE])
        return answer

    def _note(self, name: CallName, request: web.Request, fault: Fault | None, answer: SimulatedAnswer | None) -> None:
        call = SeenCall(
            name=name,
            status=answer.status if answer else None,
            record=request.match_info.get("record"),
            content_range=request.headers.get("Content-Range"),
            received=request.content.total_bytes,
            at=self._clock.now(),
            fault=fault.kind if fault else None,
            node=request.get(_NODE),
        )
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(call)

    async def _show_json(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"records": [as_json(seen) for seen in self.records()]})

    async def _show_page(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=as_page(self.records(), self.settings.semantics), content_type="text/html")


async def _runner_of(app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(
        app,
        access_log=None,  # its lines would hold tokens
        read_bufsize=READ_SIZE,
        lingering_time=_LINGERING,
        shutdown_timeout=0.1,  # stop() ends every handler before
    )
    await runner.setup()
    return runner


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    """Listen on *port* (0: any free one); return the base URL. Raises OSError when it is taken."""
    await web.TCPSite(runner, host, port, reuse_address=True).start()
    return f"http://{host}:{runner.addresses[0][1]}"

"""The simulator's calls over real HTTP: every answer and failure shape of the protocol."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from uploader.runtime.clock import SystemClock
from uploader.testing.simulator import Settings, Simulator

API = "/api/v3"
BAD_PAYLOAD = (500, {"error": {"code": 500, "message": "Invalid request payload"}})
BAD_TOKEN = (401, {"error": {"code": 401, "message": "Bad credentials."}})
NOT_FOUND = (
    404,
    {
        "type": "https://tools.ietf.org/html/rfc2616#section-10",
        "title": "An error occurred",
        "status": 404,
        "detail": "Not Found",
    },
)
BOUNDARY = "----valt"


class ShiftedClock(SystemClock):
    """The machine's clock with an offset that the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = 0.0

    def now(self) -> float:
        """Wall clock."""
        return super().now() + self.shift

    def monotonic(self) -> float:
        """Our own clock."""
        return super().monotonic() + self.shift


@dataclass
class Reply:
    """An answer: its status, its body as JSON (or text, or None), its headers."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def pair(self) -> tuple[int, Any]:
        """What most tests compare."""
        return self.status, self.body


class Client:
    """A plain client, of no more wit than a test needs."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self.token: str | None = None

    async def call(self, method: str, path: str, payload: object = None, **more: Any) -> Reply:
        """Make a call with the token that we have."""
        params = {"access_token": self.token} if self.token is not None else {}
        body: dict[str, Any] = {"json": payload} if payload is not None else {}
        async with self.http.request(method, path, params=params, **body, **more) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return Reply(response.status, json.loads(text) if is_json else text or None, dict(response.headers))

    async def login(self) -> Reply:
        """Log in, and keep the token."""
        settings = Settings()
        payload = {"username": settings.username, "password": settings.password}
        reply = await self.call("POST", f"{API}/login", payload)
        if reply.status == 200:
            self.token = reply.body["data"]["access_token"]
        return reply

    async def create(self, name: str = "a video", **more: object) -> tuple[str, str]:
        """Make a record; return its id and its video's."""
        reply = await self.call("POST", f"{API}/records/create-upload", {"name": name, **more})
        assert reply.status == 200, reply
        return reply.body["id"], reply.body["videos"][0]

    async def send(self, ids: tuple[str, str], data: bytes, start: int = 0, total: int | None = None) -> Reply:
        """Send one chunk the vendor's way."""
        total = start + len(data) if total is None else total
        header = f"bytes {start}-{start + len(data) - 1}/{total}"
        return await self.post(ids, form(data), header)

    async def post(self, ids: tuple[str, str], body: bytes, header: str | None) -> Reply:
        """Send any body to the upload call."""
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        if header is not None:
            headers["Content-Range"] = header
        return await self.call("POST", upload_path(ids), data=io.BytesIO(body), headers=headers)

    async def details(self, record: str) -> Reply:
        """Ask for one record."""
        return await self.call("GET", f"{API}/records/{record}")

    async def videos(self, record: str) -> Any:
        """What the record says of its videos."""
        return (await self.details(record)).body["data"]["videos"]


def upload_path(ids: tuple[str, str]) -> str:
    """Where chunks of a video go."""
    return f"{API}/records/{ids[0]}/videos/{ids[1]}"


def form(data: bytes, name: str = "file", disposition: str = '; filename="a.mp4"') -> bytes:
    """A form of one part."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{disposition}\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


@asynccontextmanager
async def client_of(simulator: Simulator, *, login: bool = True) -> AsyncIterator[Client]:
    """A client of a running simulator, logged in."""
    async with aiohttp.ClientSession(simulator.url) as http:
        client = Client(http)
        if login:
            await client.login()
        yield client


@asynccontextmanager
async def running(folder: Path, clock: SystemClock | None = None, **settings: Any) -> AsyncIterator[Simulator]:
    """A simulator that is stopped in the end."""
    simulator = Simulator(folder, Settings(**settings), clock=clock)
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.stop()


@asynccontextmanager
async def at_work(
    folder: Path, clock: SystemClock | None = None, **settings: Any
) -> AsyncIterator[tuple[Simulator, Client]]:
    """A simulator and a client that is logged in."""
    async with running(folder, clock, **settings) as simulator, client_of(simulator) as client:
        yield simulator, client


async def test_login_hands_out_a_token(tmp_path: Path) -> None:
    """The right password earns a token in a data wrapper."""
    async with running(tmp_path) as simulator, client_of(simulator, login=False) as client:
        reply = await client.login()
        assert reply.status == 200
        assert list(reply.body) == ["data"]
        assert list(reply.body["data"]) == ["access_token"]


@pytest.mark.parametrize("payload", [{"username": "uploader", "password": "wrong"}, {}, [], "text", {"username": None}])
async def test_wrong_password_is_refused(tmp_path: Path, payload: object) -> None:
    """Anything but the right pair earns the 401 whose data is a text."""
    async with running(tmp_path) as simulator, client_of(simulator, login=False) as client:
        reply = await client.call("POST", f"{API}/login", payload)
        assert reply.pair == (401, {"data": "Invalid username or password"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/records/create-upload"),
        ("POST", "/records/r/videos/v"),
        ("GET", "/records/r"),
        ("POST", "/records"),
        ("GET", "/records/download/r/v"),
        ("POST", "/records/r/delete"),
        ("GET", "/admin/general"),
    ],
)
async def test_every_call_but_login_needs_a_token(tmp_path: Path, method: str, path: str) -> None:
    """Without one, or with a wrong one, it is refused in the error shape, with its own text."""
    async with running(tmp_path) as simulator, client_of(simulator, login=False) as client:
        missing = await client.call(method, API + path)
        client.token = "made-up"
        assert missing.pair == (401, {"error": {"code": 401, "message": "No API token provided"}})
        assert (await client.call(method, API + path)).pair == BAD_TOKEN


async def test_token_expires(tmp_path: Path) -> None:
    """A token is good for its lifetime and not a second longer."""
    clock = ShiftedClock()
    async with at_work(tmp_path, clock, token_lifetime=1000) as (_, client):
        clock.shift = 990
        assert (await client.call("GET", f"{API}/admin/general")).status == 200
        clock.shift = 1001
        assert (await client.call("GET", f"{API}/admin/general")).pair == BAD_TOKEN


@pytest.mark.parametrize("single", [False, True])
async def test_a_new_log_in_ends_the_older_token_only_with_single_token(tmp_path: Path, single: bool) -> None:
    """Otherwise both are valid."""
    async with at_work(tmp_path, single_token=single) as (_, client):
        older = client.token
        await client.login()
        assert (await client.call("GET", f"{API}/admin/general")).status == 200
        client.token = older
        assert (await client.call("GET", f"{API}/admin/general")).status == (401 if single else 200)


async def test_restart_forgets_tokens(tmp_path: Path) -> None:
    """Tokens live in memory: after a restart the old one is unknown."""
    async with running(tmp_path) as simulator:
        async with client_of(simulator) as client:
            token = client.token
        await simulator.stop()
        await simulator.start()
        async with client_of(simulator, login=False) as client:
            client.token = token
            assert (await client.call("GET", f"{API}/admin/general")).pair == BAD_TOKEN


async def test_create_answers_without_a_wrapper(tmp_path: Path) -> None:
    """A new record is an id and a video's id at top level; nothing has landed in it."""
    async with at_work(tmp_path) as (simulator, client):
        payload = {"name": "Übung 1", "template": {"1": "Room 4"}, "share": {"users": [1, 2], "groups": [4]}}
        reply = await client.call("POST", f"{API}/records/create-upload", payload)
        assert reply.status == 200
        assert set(reply.body) == {"id", "videos"}
        assert len(reply.body["videos"]) == 1
        (record,) = simulator.records()
        assert (record.id, record.video) == (reply.body["id"], reply.body["videos"][0])
        assert (record.name, record.template, record.status) == ("Übung 1", {"1": "Room 4"}, "incomplete")
        assert (record.share.users, record.share.groups) == ((1, 2), (4,))


@pytest.mark.parametrize(
    "payload",
    [
        "not json {",
        "[]",
        "{}",
        '{"name": ""}',
        '{"name": 7}',
        json.dumps({"name": "x" * 256}),
        '{"name": "a", "template": ["b"]}',
        '{"name": "a", "template": {"1": 2}}',
        '{"name": "a", "template": null}',
        '{"name": "a", "share": [1]}',
        '{"name": "a", "share": {"users": "1"}}',
        '{"name": "a", "share": {"users": ["1"]}}',
        '{"name": "a", "share": {"groups": [true]}}',
        '{"name": "a", "share": {"user": [1]}}',
    ],
)
async def test_a_bad_create_payload_is_answered_with_500(tmp_path: Path, payload: str) -> None:
    """The body is "Invalid request payload", whatever is wrong with the request, and no record is made."""
    async with at_work(tmp_path) as (simulator, client):
        reply = await client.call("POST", f"{API}/records/create-upload", data=payload)
        assert reply.pair == BAD_PAYLOAD
        assert simulator.records() == []


async def test_name_may_have_255_characters(tmp_path: Path) -> None:
    """Characters count, not bytes."""
    async with at_work(tmp_path) as (simulator, client):
        await client.create("ü" * 255)
        assert len(simulator.records()) == 1


async def test_details_show_a_video_from_landed_to_ready(tmp_path: Path) -> None:
    """``videos`` is null until all has landed, then created, then ready when processing is over."""
    clock = ShiftedClock()
    async with at_work(tmp_path, clock, processing=60) as (_, client):
        record, video = ids = await client.create()
        assert await client.videos(record) is None
        await client.send(ids, b"abc", 0, 6)
        assert await client.videos(record) is None
        await client.send(ids, b"def", 3, 6)
        assert await client.videos(record) == [{"id": video, "status": {"type": "created"}}]
        clock.shift = 61
        assert await client.videos(record) == [{"id": video, "status": {"type": "ready"}}]


async def test_details_name_the_author_and_the_time(tmp_path: Path) -> None:
    """A record carries who made it and when, in whole seconds."""
    clock = ShiftedClock()
    async with at_work(tmp_path, clock) as (_, client):
        before = int(clock.now())
        record, _ = await client.create("mine")
        data = (await client.details(record)).body["data"]
        assert (data["id"], data["name"], data["author"]["name"]) == (record, "mine", "uploader")
        assert isinstance(data["created"], int)
        assert before <= data["created"] <= clock.now()


async def test_unknown_record_is_not_found(tmp_path: Path) -> None:
    """Every call that names a record answers 404 in the shape of RFC 2616 for one that does not exist."""
    async with at_work(tmp_path) as (_, client):
        record, _ = await client.create()
        assert (await client.details("nobody")).pair == NOT_FOUND
        assert (await client.send(("nobody", "v"), b"a")).pair == NOT_FOUND
        assert (await client.send((record, "nobody"), b"a")).pair == NOT_FOUND
        assert (await client.call("GET", f"{API}/records/download/nobody/v")).pair == NOT_FOUND
        assert (await client.call("POST", f"{API}/records/nobody/delete", {})).pair == NOT_FOUND
        assert (await client.call("GET", f"{API}/nowhere")).pair == NOT_FOUND
        assert (await client.call("GET", f"{API}/login")).status == 405

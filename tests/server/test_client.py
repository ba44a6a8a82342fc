"""The client: the meaning of each answer, time-out and broken connection, and that no secret leaks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from aioresponses import CallbackResult, aioresponses
from fakes import EPOCH, MemoryDisk, VirtualClock
from parts import BriskClock

from uploader.config import ServerConfig
from uploader.domain import errors, events
from uploader.domain.model import ActionBy, RecordIds, RecordSpec
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.valt import Valt
from uploader.server.valt.breaker import NoBreaker, Slot
from uploader.store import Store

URL = "http://127.0.0.1:9"
LOGIN = f"{URL}/api/v3/login"
CREATE = re.compile(rf"{URL}/api/v3/records/create-upload\?")
DETAILS = re.compile(rf"{URL}/api/v3/records/rec-1\?")
LIST = re.compile(rf"{URL}/api/v3/records\?")
DELETE = re.compile(rf"{URL}/api/v3/records/rec-1/delete\?")
VERSION = re.compile(rf"{URL}/api/v3/admin/general\?")
LINK = re.compile(rf"{URL}/api/v3/records/download/rec-1/vid-1\?")
TOKEN = {"data": {"access_token": "canary-token"}}
IDS = RecordIds("rec-1", "vid-1")
SPEC = RecordSpec("lecture")
HTML_502 = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
HTML_404 = "<html><head><title>404 Not Found</title></head><body>nginx</body></html>"
SORRY = "<!DOCTYPE html><html><head><title>St. Mary's: back soon</title></head></html>"
NOT_FOUND = {"title": "An error occurred", "status": 404, "detail": "Not Found"}


class CountingBreaker(NoBreaker):
    """Lets every call through, and notes how many slots were taken, how many at once, and how many good answers came.

    *freed*: slots that were given back while their call was still under way.
    """

    def __init__(self) -> None:
        self.answers = self.taken = self.held = self.most = self.freed = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Count it."""
        self.taken, self.held = self.taken + 1, self.held + 1
        self.most = max(self.most, self.held)
        try:
            yield CountedSlot(self)
        finally:
            self.held -= 1

    def record_success(self) -> None:
        """Count it."""
        assert self.held, "an answer to a call that holds no slot"
        self.answers += 1


class CountedSlot:
    """One slot of a ``CountingBreaker``."""

    def __init__(self, breaker: CountingBreaker) -> None:
        self._breaker = breaker
        self._held = True

    def free(self) -> bool:
        """Count it, the first time."""
        held, self._held = self._held, False
        self._breaker.freed += held
        return held


class Home:
    """A client, and what it told: secrets to remember, events, answers that showed a live server."""

    def __init__(self, url: str, **server: Any) -> None:
        self.secrets: list[str] = []
        self.heard: list[events.Event] = []
        self.breaker = CountingBreaker()
        self.passwords = ["canary-password"]
        bus = events.Bus()
        bus.listen(self.heard.append)
        config = ServerConfig(url=url, username="uploader", **({"stall_timeout": 5} | server))
        self.valt = Valt(
            config,
            password=lambda: self.passwords[-1],
            clock=BriskClock(),
            bus=bus,
            remember=self.secrets.append,
            breaker=self.breaker,
        )

    @property
    def answers(self) -> int:
        """How many answers were told to the breaker."""
        return self.breaker.answers


@asynccontextmanager
async def mocked(**server: Any) -> AsyncIterator[tuple[Home, aioresponses]]:
    """A client before a server that answers what the test says."""
    with aioresponses() as server_says:
        home = Home(URL, **server)
        async with home.valt:
            yield home, server_says


def calls_of(server_says: aioresponses, ending: str) -> int:
    """How many calls went to a path that ends like this."""
    return sum(len(calls) for (_, url), calls in server_says.requests.items() if url.path.endswith(ending))


# Answers

ANSWERS = [
    ("create", 400, {"data": {"message": "no"}, "code": 400}, errors.ServerRefused),
    ("create", 403, {"error": {"code": 403, "message": "Forbidden"}}, errors.RightMissing),
    ("create", 404, {"detail": "Not Found"}, errors.ServerRefused),
    ("create", 409, "", errors.ServerRefused),
    ("create", 413, "", errors.ServerRefused),
    ("create", 301, "", errors.ServerDown),
    ("create", 307, "", errors.ServerDown),
    ("create", 408, "", errors.ServerDown),
    ("create", 503, "", errors.ServerDown),
    ("create", 507, "", errors.ServerFull),
    ("create", 500, {"error": {"code": 500, "message": "Invalid request payload"}}, errors.PayloadRefused),
    ("create", 500, {"error": {"code": 500, "message": "boom"}}, errors.AnswerLost),
    ("create", 502, HTML_502, errors.AnswerLost),
    ("create", 504, "", errors.AnswerLost),
    ("create", 200, "garbage {{{", errors.AnswerLost),
    ("create", 200, {"id": "../../etc", "videos": ["v"]}, errors.AnswerLost),
    ("create", 200, {"id": "rec-1", "videos": []}, errors.AnswerLost),
    ("create", 200, "", errors.AnswerLost),
    ("details", 404, {"detail": "Not Found"}, errors.RecordGone),
    ("details", 500, "", errors.CallFailed),
    ("details", 502, HTML_502, errors.ServerDown),
    ("details", 200, "<html>portal</html>", errors.ProxyAnswered),
    ("details", 404, HTML_404, errors.ProxyAnswered),
    ("details", 404, "", errors.ProxyAnswered),
    ("create", 404, HTML_404, errors.ProxyAnswered),
    ("create", 200, SORRY, errors.AnswerLost),
    ("list", 200, SORRY, errors.ProxyAnswered),
    ("delete", 404, HTML_404, errors.ProxyAnswered),
    ("delete", 200, SORRY, errors.AnswerLost),
    ("delete", 200, {"error": {"code": 403, "message": "Forbidden"}}, errors.RightMissing),
    ("link", 404, {"message": "no Route matched with those values"}, errors.ProxyAnswered),
    ("link", 200, SORRY, errors.ProxyAnswered),
    ("details", 200, {"data": [1]}, errors.ServerDown),
    ("list", 200, {"data": "text"}, errors.ServerDown),
    ("list", 200, "[" * 100_000, errors.ServerDown),
    ("delete", 500, "", errors.AnswerLost),
    ("link", 404, NOT_FOUND, errors.RecordGone),
    ("link", 200, {"url": "ftp://somewhere"}, errors.ServerDown),
]


@pytest.mark.parametrize(("call", "status", "body", "kind"), ANSWERS)
async def test_every_bad_answer_becomes_a_known_error(
    call: str, status: int, body: Any, kind: type[errors.UploaderError]
) -> None:
    """Each refusal, and each 2xx without its content; the text names the problem without URL or token."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        said: dict[str, Any] = {"body": body} if isinstance(body, str) else {"payload": body}
        method = server.get if call in {"details", "link"} else server.post
        url = {"create": CREATE, "details": DETAILS, "list": LIST, "delete": DELETE, "link": LINK}[call]
        method(url, status=status, headers={"Location": "http://elsewhere.example/"}, **said)
        ask: dict[str, Callable[[], Awaitable[object]]] = {
            "create": lambda: home.valt.create_record(SPEC),
            "details": lambda: home.valt.details("rec-1"),
            "list": lambda: home.valt.find_records("a"),
            "delete": lambda: home.valt.delete_record("rec-1"),
            "link": lambda: home.valt.download_link(IDS),
        }
        with pytest.raises(errors.UploaderError) as caught:
            await ask[call]()
        assert type(caught.value) is kind
        assert "canary" not in str(caught.value)
        assert "http" not in str(caught.value).replace("a redirect to http://elsewhere.example,", "")


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("7", 7, 7), ("100000", 3600, 3600), ("-5", 1, 1), ("soon", 1, 1), (None, 1, 1)],
)
async def test_busy_server_says_how_long(header: str | None, low: float, high: float) -> None:
    """429 has its Retry-After, at most an hour; an invalid or missing one is a second."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        server.post(CREATE, status=429, headers={} if header is None else {"Retry-After": header})
        with pytest.raises(errors.ServerBusy) as caught:
            await home.valt.create_record(SPEC)
        assert low <= caught.value.retry_after <= high


async def test_busy_until_a_date() -> None:
    """A Retry-After that is a date is measured from now; a past one is no wait."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        server.post(CREATE, status=503, headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"})
        with pytest.raises(errors.ServerBusy) as caught:
            await home.valt.create_record(SPEC)
        assert caught.value.retry_after == 0.0


async def test_answers_of_a_good_server() -> None:
    """Ids, details, both shapes of a list, the link and the version are read; only good answers are counted."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        server.post(CREATE, payload={"id": "rec-1", "videos": ["vid-1"]})
        video = {"id": "vid-1", "status": {"type": "created"}}
        row = {"id": "rec-1", "name": "lecture", "created": 5, "author": {"id": 1, "name": "uploader"}}
        server.get(DETAILS, payload={"data": row | {"videos": [video]}})
        server.get(DETAILS, payload={"data": row | {"videos": None}})
        server.post(LIST, payload={"data": {"records": [row, row | {"name": "lecture 2"}, "nonsense"]}})
        server.post(LIST, payload={"data": [row]})
        server.get(LINK, payload={"url": "http://127.0.0.1:8000/x.mp4?access_token=jwt"})
        server.get(VERSION, payload={"data": {"version": "6.7.2"}})
        server.get(VERSION, status=403)
        assert await home.valt.create_record(SPEC) == IDS
        assert (await home.valt.details("rec-1")).status_of("vid-1") == "created"
        assert (await home.valt.details("rec-1")).videos is None
        assert [listed.record for listed in await home.valt.find_records("lecture")] == ["rec-1"]
        assert [listed.author for listed in await home.valt.find_records("lecture")] == ["uploader"]
        assert "jwt" in await home.valt.download_link(IDS)
        assert await home.valt.version() == "6.7.2"
        assert await home.valt.version() is None
        assert home.answers == 8


async def test_a_record_is_searched_for_on_every_page() -> None:
    """Pages are read until one is short or brings nothing new."""

    def rows(first: int, count: int) -> dict[str, Any]:
        names = {number: "lecture" if number in {7, 130} else "lecture 2" for number in range(first, first + count)}
        return {"data": {"records": [{"id": f"rec-{number}", "name": name} for number, name in names.items()]}}

    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        server.post(LIST, payload=rows(0, 100))
        server.post(LIST, payload=rows(100, 50))  # a server whose own limit is lower
        server.post(LIST, payload=rows(150, 3))
        assert [row.record for row in await home.valt.find_records("lecture")] == ["rec-7", "rec-130"]
        asked = [call.kwargs.get("json") for calls in server.requests.values() for call in calls]
        assert [body["offset"] for body in asked if body and "offset" in body] == [0, 100, 150]
        server.post(LIST, payload=rows(0, 300), repeat=True)  # one that knows no pages
        assert len(await home.valt.find_records("lecture")) == 2
        assert calls_of(server, "/api/v3/records") == 5


async def test_deleting_a_missing_record_succeeds() -> None:
    """It has been deleted already."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        server.post(DELETE, status=404, payload=NOT_FOUND)
        await home.valt.delete_record("rec-1")
        assert calls_of(server, "/rec-1/delete") == 1


async def test_an_invalid_date_of_the_server_is_ignored() -> None:
    """A valid Date header gives the server's clock."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN, headers={"Date": "Mon, 01 Jan 99999999999 00:00:00 GMT"})
        await home.valt.login_if_needed()
        assert home.valt.skew == 0.0
        server.get(DETAILS, status=404, payload=NOT_FOUND, headers={"Date": "Thu, 01 Jan 1970 00:00:10 GMT"})
        with pytest.raises(errors.RecordGone):
            await home.valt.details("rec-1")
        assert home.valt.server_now() == pytest.approx(10, abs=1)


async def test_the_server_s_time_does_not_depend_on_the_wall_clock() -> None:
    """It follows the monotonic clock; since that stops while a machine sleeps, the server is asked again."""
    date = {"Date": format_datetime(datetime.fromtimestamp(EPOCH + 30, UTC), usegmt=True)}
    async with mocked() as (home, server):
        home.valt._clock = clock = VirtualClock()
        server.post(LOGIN, payload=TOKEN, headers=date)
        await home.valt.agree_on_time()
        assert (home.valt.server_now(), home.valt.skew) == (EPOCH + 30, 30)
        await home.valt.agree_on_time()
        assert calls_of(server, "/general") == 0
        clock.jump(86400)
        assert home.valt.server_now() == EPOCH + 30
        server.get(VERSION, payload={}, headers=date)
        await home.valt.agree_on_time()
        assert calls_of(server, "/general") == 1


async def test_a_late_answer_does_not_set_the_server_s_clock_back() -> None:
    """Its Date was true when it was written; that of a quick answer is used."""
    async with mocked() as (home, server):
        home.valt._clock = clock = VirtualClock()
        date = {"Date": format_datetime(datetime.fromtimestamp(EPOCH, UTC), usegmt=True)}
        server.post(LOGIN, payload=TOKEN, headers=date)
        await home.valt.login_if_needed()

        async def slow(*_: Any, **__: Any) -> Any:
            await clock.advance(40)
            made: Any = CallbackResult
            return made(status=200, payload={"data": {"id": "rec-1", "videos": None}}, headers=date)

        server.get(DETAILS, callback=slow)
        await home.valt.details("rec-1")
        assert home.valt.server_now() == EPOCH + 40


# Log-in


async def test_log_in_is_shared() -> None:
    """Ten concurrent calls log in once, and every secret is passed to the log's redactor."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        server.get(DETAILS, payload={"data": {"id": "rec-1", "videos": None}}, repeat=True)
        await asyncio.gather(*(home.valt.details("rec-1") for _ in range(10)))
        assert calls_of(server, "/login") == 1
        assert set(home.secrets) == {"canary-password", "canary-token"}
        assert home.heard == [events.LoggedIn("uploader")]


async def test_expired_token_is_replaced_once_for_all() -> None:
    """Ten calls with an expired token log in once more, and each is repeated."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        await home.valt.login_if_needed()
        server.post(LOGIN, payload={"data": {"access_token": "second"}})

        def answer(url: Any, **_: Any) -> Any:
            good = url.query["access_token"] == "second"
            made: Any = CallbackResult
            return made(status=200 if good else 401, payload={"data": {"id": "rec-1", "videos": None}})

        server.get(DETAILS, callback=answer, repeat=True)
        await asyncio.gather(*(home.valt.details("rec-1") for _ in range(10)))
        assert calls_of(server, "/login") == 2


async def test_401_with_a_token_that_is_good_for_another_call_is_a_missing_right() -> None:
    """A call that is refused with a new token is not repeated again; the token stays, however often that happens."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN, repeat=True)
        server.get(DETAILS, status=401, repeat=True)
        server.post(LIST, payload={"data": []}, repeat=True)
        for _ in range(5):
            with pytest.raises(errors.RightMissing, match="right after a good log-in"):
                await home.valt.details("rec-1")
        assert not any(isinstance(event, events.AccountShared) for event in home.heard)


async def test_a_server_that_fails_while_a_token_is_tried_refuses_nobody() -> None:
    """Whether the token is good is not known then: the failure is the server's, and no file is parked."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN, repeat=True)
        server.get(DETAILS, status=401, repeat=True)
        server.post(LIST, status=503)
        with pytest.raises(errors.ServerDown, match="list records: answered 503"):
            await home.valt.details("rec-1")


class Fighting:
    """A server at which another program logs in as the same user right after each of our log-ins."""

    def __init__(self, home: Home, server: aioresponses) -> None:
        home.valt._clock = self.clock = VirtualClock()
        self.home, self.log_ins, self.fights = home, 0, True
        made: Any = CallbackResult

        def log_in(*_: Any, **__: Any) -> Any:
            self.log_ins += 1
            return made(status=200, payload={"data": {"access_token": f"canary-token-{self.log_ins}"}})

        def answer(url: Any, **_: Any) -> Any:
            good = not self.fights and url.query["access_token"] == f"canary-token-{self.log_ins}"
            return made(status=200 if good else 401, payload={"data": {"id": "rec-1", "videos": None}})

        server.post(LOGIN, callback=log_in, repeat=True)
        server.get(DETAILS, callback=answer, repeat=True)
        server.post(LIST, callback=answer, repeat=True)

    async def ask(self) -> errors.UploaderError | None:
        """Ask about a record; the error that comes of it."""
        try:
            await self.home.valt.details("rec-1")
        except errors.UploaderError as error:
            return error
        return None


async def test_another_program_on_the_account_is_said_in_words_and_causes_no_storm_of_log_ins() -> None:
    """Every token is dead at once: nobody is refused for ever, log-ins grow rarer, the operator learns why, once."""
    async with mocked() as (home, server):
        fight = Fighting(home, server)
        for _ in range(3600):  # one call a second
            error = await fight.ask()
            assert isinstance(error, errors.AccountShared)
            await fight.clock.advance(1.0)
        assert "another program logs in as this user" in str(error)
        assert error is not None
        assert error.action_by is ActionBy.OPERATOR
        assert fight.log_ins <= 30
        told = [event for event in home.heard if isinstance(event, events.AccountShared)]
        assert told == [
            events.AccountShared(
                "uploader", "another program logs in as this user; give each uploader an account of its own"
            )
        ]
        fight.fights = False
        await fight.clock.advance(300.0)
        assert await fight.ask() is None


async def test_the_operator_ends_the_pause_of_log_ins() -> None:
    """After ``retry`` the next call logs in at once."""
    async with mocked() as (home, server):
        fight = Fighting(home, server)
        for _ in range(100):
            await fight.ask()
        fight.fights = False
        assert isinstance(await fight.ask(), errors.AccountShared)
        home.valt.forget_refusal()
        assert await fight.ask() is None


async def test_refused_password_is_tried_once_for_all() -> None:
    """Of ten calls one logs in with a wrong password, as more tries could lock the account."""
    async with mocked() as (home, server):
        server.post(LOGIN, status=401, payload={"data": "Invalid username or password"}, repeat=True)
        results = await asyncio.gather(*(home.valt.details("rec-1") for _ in range(10)), return_exceptions=True)
        assert {type(result) for result in results} == {errors.PasswordRefused}
        assert calls_of(server, "/login") == 1
        with pytest.raises(errors.PasswordRefused):  # a chunk that ends a moment later, and finds no token
            await home.valt.details("rec-1")
        assert calls_of(server, "/login") == 1
        assert home.answers == 0


async def test_a_corrected_password_is_tried_at_once() -> None:
    """A refusal holds only for the password that was refused, and until the operator says to try again."""
    async with mocked() as (home, server):
        server.post(LOGIN, status=401)
        server.post(LOGIN, status=401)
        server.post(LOGIN, payload=TOKEN)
        with pytest.raises(errors.PasswordRefused):
            await home.valt.login_if_needed()
        home.passwords.append("another")
        with pytest.raises(errors.PasswordRefused):
            await home.valt.login_if_needed()
        home.valt.forget_refusal()
        await home.valt.login_if_needed()
        assert calls_of(server, "/login") == 3


@pytest.mark.parametrize("body", ['{"data":{"access_token":"a b\\r\\n"}}', "{}", "OK"])
async def test_a_log_in_without_a_usable_token_is_a_server_that_is_down(body: str) -> None:
    """Nothing is sent with a token that cannot be part of a URL."""
    async with mocked() as (home, server):
        server.post(LOGIN, body=body)
        with pytest.raises(errors.ServerDown, match="not as a VALT server does"):
            await home.valt.login_if_needed()
        assert home.answers == 0


# Answers of something before VALT


async def test_a_portal_that_answers_200_to_everything_ends_no_pause() -> None:
    """Neither its answer to a log-in nor that to a call counts as an answer of the server."""
    async with mocked() as (home, server):
        server.post(LOGIN, body=SORRY, content_type="text/html")
        with pytest.raises(errors.ProxyAnswered, match=r"log-in: answered 200 with a page .*\(St. Mary's: back soon\)"):
            await home.valt.login_if_needed()
        server.post(LOGIN, payload=TOKEN)
        await home.valt.login_if_needed()
        assert home.answers == 1
        for url, body in ((DETAILS, SORRY), (DETAILS, "{}"), (VERSION, SORRY), (VERSION, "OK"), (LINK, '{"url": 7}')):
            server.get(url, body=body)
        for _ in range(2):
            with pytest.raises(errors.ServerDown):
                await home.valt.details("rec-1")
            assert await home.valt.version() is None
        with pytest.raises(errors.ServerDown):
            await home.valt.download_link(IDS)
        assert home.answers == 1


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ("<html><title>401 Authorization Required</title></html>", {}),
        ("401 Unauthorized", {"WWW-Authenticate": 'Basic realm="traefik"'}),
        ("", {"WWW-Authenticate": "Negotiate"}),
    ],
)
async def test_a_proxy_that_demands_a_log_in_is_no_wrong_password(body: str, headers: dict[str, str]) -> None:
    """The password is not held back for it, and the words say that it is the proxy's."""
    async with mocked() as (home, server):
        server.post(LOGIN, status=401, body=body, headers=headers)
        with pytest.raises(errors.ProxyAnswered, match=r"something before VALT.*it demands a log-in of its own"):
            await home.valt.login_if_needed()
        server.post(LOGIN, payload=TOKEN)
        await home.valt.login_if_needed()
        server.get(DETAILS, status=401, body=body, headers=headers)
        with pytest.raises(errors.ProxyAnswered):
            await home.valt.details("rec-1")
        assert calls_of(server, "/login") == 2  # its token is good


@pytest.mark.parametrize("body", ["", '{"code":401}', '{"data":"Invalid username or password"}'])
async def test_any_other_401_is_a_wrong_password(body: str) -> None:
    """Also one without words: tried again and again, a wrong password locks the account."""
    async with mocked() as (home, server):
        server.post(LOGIN, status=401, body=body, headers={"WWW-Authenticate": "Bearer"})
        with pytest.raises(errors.PasswordRefused):
            await home.valt.login_if_needed()


async def test_the_path_of_the_version_may_be_forbidden_by_a_proxy() -> None:
    """The version is then unknown, and nothing else follows: ``/admin`` is often closed to the outside."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        for status in (401, 403, 404, 405):
            server.get(VERSION, status=status, body=HTML_404)
            assert await home.valt.version() is None
        assert calls_of(server, "/login") == 1


async def test_secrets_in_a_page_are_masked() -> None:
    """The title of a sorry page is quoted, and it may repeat what was sent."""
    async with mocked() as (home, server):
        server.post(LOGIN, body="<html><title>no canary-password here</title></html>")
        with pytest.raises(errors.ProxyAnswered, match=r"no \*\*\* here"):
            await home.valt.login_if_needed()


# The circuit breaker


async def test_each_call_holds_one_slot_and_its_log_in_none_of_its_own() -> None:
    """Also when it is repeated after an expired token, as a half-open breaker has only one slot."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN, repeat=True)
        server.get(DETAILS, status=401)
        server.get(DETAILS, payload={"data": {"id": "rec-1", "videos": None}}, repeat=True)
        await home.valt.details("rec-1")
        assert (calls_of(server, "/login"), home.breaker.taken, home.breaker.most) == (2, 1, 1)
        await home.valt.login_if_needed()  # not needed: no call, no slot
        assert home.breaker.taken == 1
        await asyncio.gather(*(home.valt.details("rec-1") for _ in range(3)))
        assert (home.breaker.taken, home.breaker.held) == (4, 0)


async def test_a_log_in_alone_holds_a_slot() -> None:
    """As any other call; it is freed when the log-in raises."""
    async with mocked() as (home, server):
        server.post(LOGIN, status=503)
        server.post(LOGIN, payload=TOKEN)
        with pytest.raises(errors.ServerDown):
            await home.valt.login_if_needed()
        await home.valt.login_if_needed()
        assert (home.breaker.taken, home.breaker.held, home.breaker.answers) == (2, 0, 1)


async def test_nothing_is_called_while_the_breaker_is_open() -> None:
    """Neither a call nor its log-in; half-open, one slot is enough for both."""
    clock, bus = VirtualClock(), events.Bus()
    store = Store(MemoryDisk(), clock, bus)
    outage = CircuitBreaker(store, clock, bus)
    async with mocked() as (home, server):
        home.valt._breaker = outage
        server.post(LOGIN, payload=TOKEN)
        server.get(DETAILS, payload={"data": {"id": "rec-1", "videos": None}}, repeat=True)
        await clock.advance(pause := await outage.trip(errors.ServerDown("down")) - 0.5)
        with pytest.raises(errors.BreakerOpen, match="down"):
            await home.valt.details("rec-1")
        assert server.requests == {}
        await clock.advance(pause)
        async with asyncio.timeout(5):
            await asyncio.gather(*(home.valt.details("rec-1") for _ in range(3)))
        assert calls_of(server, "/login") == 1
        assert not outage.going_on
    await store.close()

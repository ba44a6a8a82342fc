"""The server is down or refuses the password, and the operator steps in: no file is at fault."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from harness import Rig
from parts import CHUNK, at, chunked, content_of, sha256, spans
from shares import identify

from uploader.domain import events
from uploader.domain.model import ActionBy, LastError, Orphan, RecordSpec, State, Upload
from uploader.runtime.clock import SystemClock
from uploader.testing.simulator import FAITHFUL, Semantics, Settings

CHUNKED = [kind for kind in FAITHFUL if kind is not Semantics.WHOLE]
DATA = content_of(4 * CHUNK + 9)


def settings(semantics: Semantics = Semantics.OFFSET, **more: Any) -> Settings:
    """A server whose videos are ready at once."""
    return Settings(semantics=semantics, **({"processing": 0.0} | more))


async def deliver(rig: Rig, data: bytes = DATA) -> str:
    """Send one file all the way, orphans cleared away; its path."""
    await rig.start()
    path = await rig.drop("a.mp4", data)
    await rig.finished(path)
    await rig.swept()
    return path


async def test_a_server_that_is_down_delays_all_files_and_counts_against_none(tmp_path: Path) -> None:
    """After its restart each file arrives on one record, with no failure counted and few calls made."""
    async with Rig(tmp_path, clock=SystemClock()) as rig:
        await rig.start()
        await rig.finished(await rig.drop("before.mp4", b"before"))
        port = int(rig.simulator.url.rsplit(":", 1)[1])
        await rig.simulator.stop()
        paths = [rig.write(f"{number}.mp4", content_of(CHUNK + number, number)) for number in range(6)]
        await rig.scan()
        down = await rig.event(events.OutageBegan)
        assert "cannot be reached" in down.reason
        assert rig.application.breaker.wait > 0
        await rig.simulator.start(port=port)
        await rig.finished(*paths)
        assert rig.most_attempts == 0
        assert len(rig.seen(events.OutageBegan)) <= 3
        assert len(rig.seen(events.OutageEnded)) == 1
        assert {record.sha256 for record in rig.records} >= {sha256(at(path).read_bytes()) for path in paths}
        assert len(rig.records) == 7


async def test_a_gateway_without_a_server_is_an_outage(tmp_path: Path) -> None:
    """502 to every call: the pauses grow, and the outage does not end between two failures."""
    async with Rig(tmp_path) as rig:
        rig.fault("login", "status", status=502, times=3)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        (began,) = rig.seen(events.OutageBegan)
        assert [began.again_in, *(event.again_in for event in rig.seen(events.OutageContinues))] == [1.0, 2.0, 4.0]
        await rig.event(events.OutageEnded)
        assert len(rig.seen(events.OutageEnded)) == 1


async def test_uploads_in_flight_survive_an_outage(tmp_path: Path) -> None:
    """The server dies with chunks of four files in flight and comes back: every file arrives, once."""
    async with Rig(tmp_path, settings(Semantics.APPEND)) as rig:
        stalls = [rig.fault("upload", "stall", skip=4) for _ in range(4)]
        await rig.start()
        paths = [rig.write(f"{number}.mp4", content_of(5 * CHUNK, number)) for number in range(4)]
        await rig.scan()
        async with asyncio.timeout(10):
            await stalls[0].standing.wait()
        rig.simulator.faults.clear()
        port = int(rig.simulator.url.rsplit(":", 1)[1])
        await rig.simulator.stop()
        await rig.event(events.OutageBegan)
        await rig.simulator.start(port=port)
        await rig.finished(*paths)
        await rig.swept()
        assert sorted(record.sha256 or "" for record in rig.records) == sorted(
            sha256(at(path).read_bytes()) for path in paths
        )


async def test_uploads_in_flight_delay_no_other_call_after_an_outage(tmp_path: Path) -> None:
    """Four whole files are being sent; after a 503 to another call, records are checked and orphans deleted."""
    slow, fast = settings(Semantics.WHOLE, processing=3600.0), settings(Semantics.WHOLE)
    async with Rig(tmp_path, slow, upload={"chunk_size": "whole", "workers": 4}) as rig:
        await rig.start()
        sent = await rig.drop("sent.mp4", b"sent")
        await rig.event(events.UploadSent, path=sent)
        stalls = [rig.fault("upload", "stall") for _ in range(4)]
        paths = [rig.write(f"{number}.mp4", content_of(CHUNK, number)) for number in range(4)]
        await rig.scan()
        async with asyncio.timeout(10):
            for stall in stalls:
                await stall.standing.wait()
        rig.fault("details", "status", status=503, body="")
        rig.become(fast)
        await rig.event(events.OutageBegan)
        now = rig.clock.now()
        rig.store.put_orphan(Orphan(rig.plant("lost"), "lost", "/rec/lost.mp4", since=now, next_look=now))
        await rig.event(events.VideoReady, path=sent)
        await rig.event(events.OrphanCleared)
        assert len(rig.calls("upload")) == 1  # the four are still under way
        for stall in stalls:
            stall.release()
        await rig.finished(*paths)


# The password


async def test_wrong_password_parks_nothing_and_is_not_repeated(tmp_path: Path) -> None:
    """Four workers, six files and a wrong password: one log-in, no file parked; corrected and retried, all arrive."""
    async with Rig(tmp_path) as rig:
        rig.environ["VALT_UPLOADER_PASSWORD"] = "wrong"
        await rig.start()
        paths = [rig.write(f"{number}.mp4", content_of(CHUNK, number)) for number in range(6)]
        await rig.scan()
        down = await rig.event(events.OutageBegan)
        assert down.again_in == 300.0
        await rig.until(lambda: len(rig.seen(events.FileQueued)) == 6)
        await rig.until(lambda: not rig.application.transfer.active)
        assert [call.status for call in rig.calls("login")] == [401]
        assert rig.seen(events.UploadParked) == []
        await rig.restart()  # a restart is no reason to try again
        await rig.scan()
        await rig.until(lambda: len(rig.seen(events.FileQueued)) >= 6)
        await rig.until(lambda: rig.application.queues.jobs.qsize() <= 2)  # the four workers hold one each
        assert not rig.application.transfer.active
        assert len(rig.calls("login")) == 1
        assert rig.application.breaker.wait > 200
        rig.environ["VALT_UPLOADER_PASSWORD"] = "secret"
        await rig.until(lambda: paths[0] in rig.store.uploads)
        assert await rig.retry(paths[0])
        await rig.finished(*paths)
        assert len(rig.calls("login")) == 2
        assert rig.most_attempts == 0
        assert rig.store.capabilities.login_refusals == 0


async def test_a_password_changed_during_uploads_is_refused_once(tmp_path: Path) -> None:
    """The token expires with four chunks in flight: one refused log-in, and all wait."""
    async with Rig(tmp_path, settings(Semantics.APPEND)) as rig:
        stalls = [rig.fault("upload", "stall") for _ in range(4)]
        await rig.start()
        paths = [rig.write(f"{number}.mp4", content_of(2 * CHUNK, number)) for number in range(4)]
        await rig.scan()
        async with asyncio.timeout(10):
            for stall in stalls:
                await stall.standing.wait()
        rig.simulator._api.forget_passes()
        rig.environ["VALT_UPLOADER_PASSWORD"] = "wrong"
        stalls[0].release()
        await rig.event(events.OutageBegan, again_in=300.0)
        for stall in stalls[1:]:
            stall.release()
        await rig.until(lambda: not rig.application.transfer.active)
        assert [call.status for call in rig.calls("login")] == [200, 401]
        rig.environ["VALT_UPLOADER_PASSWORD"] = "secret"
        assert await rig.retry(paths[0])
        await rig.finished(*paths)
        assert all(spans(record) == chunked(2 * CHUNK) for record in rig.records)


async def test_a_missing_password_is_waited_for(tmp_path: Path) -> None:
    """The application reports it, and goes on when there is one."""
    async with Rig(tmp_path) as rig:
        del rig.environ["VALT_UPLOADER_PASSWORD"]
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        assert "no password" in (await rig.event(events.OutageBegan)).reason
        rig.environ["VALT_UPLOADER_PASSWORD"] = "secret"
        await rig.finished(path)
        assert rig.seen(events.UploadParked) == []


# The operator


async def test_retry_lets_a_waiting_upload_go_on_now(tmp_path: Path) -> None:
    """It does not wait for the time of its next try."""
    async with Rig(tmp_path) as rig:
        path = rig.write("a.mp4", DATA)
        identity = await identify(path)
        last_error = LastError("the server said no", ActionBy.UPLOADER, attempts=3, next_try=rig.clock.now() + 3600)
        record = RecordSpec("a")
        rig.prepare(Upload(path, str(rig.watch), identity, record, CHUNK, restarts=2, last_error=last_error))
        await rig.start()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert rig.store.uploads[path].last_error == last_error
        assert await rig.retry(path)
        await rig.finished(path)
        assert not await rig.retry(path)


async def test_a_parked_upload_is_retried_by_the_operator(tmp_path: Path) -> None:
    """It was parked with the server's words; retried, it goes on with its failures cleared."""
    async with Rig(tmp_path) as rig:
        rig.fault("create", "status", status=403, body='{"error":{"code":403,"message":"Forbidden"}}')
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        parked = await rig.event(events.UploadParked, path=path)
        assert "Forbidden" in parked.reason
        assert rig.on_disk(path).state is State.PARKED
        await rig.restart()
        assert await rig.retry(path)
        await rig.finished(path)
        assert len(rig.calls("create")) == 2


async def test_payload_that_is_refused_three_times_parks_the_file(tmp_path: Path) -> None:
    """VALT's "invalid payload" comes as a 500: three tries tell it from an accident, and other files go on."""
    async with Rig(tmp_path, upload={"workers": 1}) as rig:
        body = '{"error":{"code":500,"message":"Invalid request payload"}}'
        rig.fault("create", "status", status=500, body=body, times=3)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadParked, path=path)
        assert len(rig.calls("create")) == 3
        await rig.finished(await rig.drop("b.mp4", DATA))


async def test_an_upload_can_be_forgotten_while_it_is_sent(tmp_path: Path) -> None:
    """The request is cut and its record deleted; a scan finds the file anew."""
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall", skip=1)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        async with asyncio.timeout(10):
            await stall.standing.wait()
        record = rig.record.id
        assert await rig.operator.forget(path)
        assert rig.seen(events.UploadForgotten) == [events.UploadForgotten(path, record)]
        assert rig.state_of(path) is None
        await rig.swept()
        assert rig.records == []
        assert not await rig.operator.forget(path)
        await rig.scan()  # the file is still there: it is a new one
        await rig.finished(path)

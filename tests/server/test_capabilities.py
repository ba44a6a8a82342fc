"""The capabilities of a server: learnt, used, and forgotten when the server has another version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, chunked, content_of, sha256, spans

from uploader.diagnostics.probe_results import ProbeResult, apply, parse_probe_result
from uploader.domain import errors, events
from uploader.domain.model import Orphan, ServerCapabilities
from uploader.domain.retry import DAY
from uploader.runtime.clock import SystemClock
from uploader.store import codec
from uploader.testing.simulator import Semantics, Settings

DATA = content_of(4 * CHUNK + 9)


def settings(semantics: Semantics = Semantics.OFFSET, **more: Any) -> Settings:
    """A server whose videos are ready at once."""
    return Settings(semantics=semantics, **({"processing": 0.0} | more))


async def deliver(rig: Rig, *, capabilities: ServerCapabilities | None = None) -> str:
    """Send one file, the answer to whose second chunk is lost; its path."""
    if capabilities is not None:
        rig.prepare(capabilities=capabilities)
    rig.fault("upload", "lose-answer", skip=1, name="a")
    await rig.start()
    path = await rig.drop("a.mp4", DATA)
    await rig.finished(path)
    await rig.swept()
    assert rig.record.sha256 == sha256(DATA)
    return path


def proven(rig: Rig, **changes: Any) -> ServerCapabilities:
    """What a probe has found here just now."""
    facts: dict[str, Any] = {"resend_is_safe": True, "probed_at": rig.clock.now(), "version": "6.7.2"}
    return ServerCapabilities(**(facts | changes))


async def test_a_chunk_in_doubt_is_resent_to_a_server_that_was_proved_safe(tmp_path: Path) -> None:
    """Into the same record: the upload does not start over."""
    async with Rig(tmp_path) as rig:
        await deliver(rig, capabilities=proven(rig))
        assert len(rig.calls("create")) == 1
        assert spans(rig.record) == sorted([*chunked(len(DATA)), (CHUNK, 2 * CHUNK)])
        assert rig.seen(events.DoubtResolved)[0].outcome == "sent again: that is safe here"


@pytest.mark.parametrize(
    "changes",
    [
        {"resend_is_safe": False},
        {"resend_is_safe": None},
        {"version": "6.7.1"},
        {"version": ""},
        {"probed_at": 0.0},
        {"probed_at": None},
    ],
)
async def test_a_chunk_in_doubt_is_resent_only_when_it_is_proved_safe(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Unsafe, unknown, another version, or proved long ago: the upload starts over.

    In the last cases the server is probed first, with three records.
    """
    async with Rig(tmp_path, settings(Semantics.APPEND)) as rig:
        await deliver(rig, capabilities=proven(rig, **changes))
        assert len(rig.calls("create")) - 3 * len(rig.seen(events.ServerProbed)) == 2


async def test_the_configuration_overrides_a_probe(tmp_path: Path) -> None:
    """resend_is_safe = false stays in force, whatever a probe has found."""
    async with Rig(tmp_path, server={"resend_is_safe": False}) as rig:
        await deliver(rig, capabilities=proven(rig))
        assert len(rig.calls("create")) == 2
        assert rig.calls("version") != []  # for what else was learnt


@pytest.mark.parametrize(
    "fault", [{"kind": "status", "status": status} for status in (403, 500, 502, 503)] + [{"kind": "lose-answer"}]
)
async def test_an_unknown_version_keeps_but_does_not_use_what_was_learnt(tmp_path: Path, fault: dict[str, Any]) -> None:
    """The call for it may fail: nothing waits for it, nothing is resent, and nothing is forgotten."""
    async with Rig(tmp_path, clock=SystemClock()) as rig:  # in a hurried one our clock would seem to be set
        rig.fault("version", times=None, **fault)
        await deliver(rig, capabilities=proven(rig))
        assert len(rig.calls("create")) == 2
        assert rig.store.capabilities.resend_is_safe is True
        assert rig.seen(events.OutageBegan) == []


async def test_a_probe_of_a_server_without_a_version_is_valid_for_a_month(tmp_path: Path) -> None:
    """Only its time counts."""
    async with Rig(tmp_path) as rig:
        rig.fault("version", "status", times=None, status=403)
        await deliver(rig, capabilities=proven(rig, version="", probed_at=rig.clock.now() - 29 * DAY))
        assert len(rig.calls("create")) == 1


async def test_another_version_resets_the_capabilities(tmp_path: Path) -> None:
    """An event reports it; the server is probed again, and files are sent in chunks again."""
    async with Rig(tmp_path, clock=SystemClock()) as rig:  # its two clocks do not drift apart
        until = rig.clock.now() + DAY
        rig.prepare(
            capabilities=proven(rig, version="5.9", whole_only_until=until, chunk_limit=1, chunk_limit_until=until)
        )
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", DATA))
        assert rig.seen(events.ServerChanged) == [events.ServerChanged("5.9", "6.7.2")]
        assert rig.store.capabilities == ServerCapabilities()
        await rig.finished(await rig.drop("b.mp4", DATA))
        assert (rig.store.capabilities.version, rig.store.capabilities.chunks) == ("6.7.2", True)
        assert spans(rig.records[-1]) == chunked(len(DATA))


async def test_a_capability_learnt_from_a_refusal_gets_the_version_at_the_next_log_in(tmp_path: Path) -> None:
    """A refusal carries no version; without anything learnt, the version is not asked for."""
    async with Rig(tmp_path, settings(Semantics.WHOLE)) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", DATA))
        assert rig.store.capabilities.whole_only_until is not None
        await rig.restart()
        await rig.finished(await rig.drop("b.mp4", DATA))
        assert rig.store.capabilities.version == "6.7.2"
        assert len(rig.calls("version")) <= 2


async def test_a_refusal_of_a_resent_chunk_does_not_mean_whole_only(tmp_path: Path) -> None:
    """With resend_is_safe on a strict server, the upload starts over, in chunks."""
    async with Rig(tmp_path, settings(Semantics.STRICT), server={"resend_is_safe": True}) as rig:
        await deliver(rig)
        assert rig.store.capabilities.whole_only_until is None
        assert spans(rig.record) == chunked(len(DATA))


# What a probe tells


async def test_a_probe_s_results_change_only_its_own_orphans(tmp_path: Path) -> None:
    """Not the orphans of uploads, nor what is saved of a refused password."""
    async with Rig(tmp_path) as rig:
        rig.build()
        ours = Orphan("r1", "a", "/rec/a.mp4", since=0.0, next_look=9e9)
        rig.store.put_orphan(ours)
        rig.store.learn(login_refusals=3)
        claimed = Orphan("r1", "a", "/rec/a.mp4", since=0.0, next_look=0.0, probe=True)
        probe = Orphan("r2", "p", "", since=0.0, next_look=9e9)
        apply(
            rig.store,
            ProbeResult(orphans=(claimed, probe), cleared=("r1", "r9"), learnt=ServerCapabilities(resend_is_safe=True)),
        )
        assert rig.store.orphans["r1"] == ours
        assert rig.store.orphans["r2"].probe
        assert (rig.store.capabilities.resend_is_safe, rig.store.capabilities.login_refusals) == (True, 3)
        apply(rig.store, ProbeResult(cleared=("r2",)))
        assert set(rig.store.orphans) == {"r1"}


def test_a_probe_s_results_survive_the_control_socket() -> None:
    """They are sent as JSON and read back equal; invalid ones raise."""
    news = ProbeResult(
        (Orphan("r", "n", "", 1.0, 2.0, probe=True),), ("x",), ServerCapabilities(chunk_limit=7, version="6")
    )
    assert parse_probe_result(codec.to_json(news)) == news
    for text in ("", "[]", '{"cleared": 7}', "é"):
        with pytest.raises(errors.UploaderError):
            parse_probe_result(text)

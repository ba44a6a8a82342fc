"""Every kind of server, honest or not, with the default configuration: what is gone here is whole there.

docs/reliability.md has the table of these receivers; each of its rows names one test of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from harness import Rig
from parts import CHUNK, at, sha256

from uploader.diagnostics.video import Video
from uploader.domain import events
from uploader.domain.model import AfterUpload, State
from uploader.testing.simulator import Semantics, Settings
from uploader.testing.simulator.semantics import FAITHFUL, SPOILING

RECORDING: Final = b"".join(Video(frames=150, width=80, height=80).pieces())  # six seconds, several chunks
SMALL: Final = b"".join(Video(frames=4, width=32, height=32).pieces())  # one request
DISPOSALS: Final[tuple[AfterUpload, ...]] = ("keep", "move", "delete")


@dataclass
class Outcome:
    """What became of the two recordings: the uploads that are unfinished, and what the server holds."""

    rig: Rig
    paths: list[str] = field(default_factory=list)

    def finished(self) -> list[str]:
        """Return the files that are reported as done."""
        return [event.path for event in self.rig.seen(events.UploadFinished)]

    def is_at_rest(self, path: str) -> bool:
        """True when an upload is finished, parked, or waits for a proof that cannot be had."""
        upload = self.rig.store.uploads.get(path)
        waits = upload is not None and upload.state is State.PROVING and upload.last_error is not None
        return path in self.finished() or waits or self.rig.state_of(path) is State.PARKED

    def held(self) -> set[str | None]:
        """Return the sha256 of every video on the server."""
        return {record.sha256 for record in self.rig.records}

    def check(self, *, transcodes: bool = False) -> None:
        """What is gone, or reported as done, is whole on the server; the ledger says how that was shown."""
        for path, data in zip(self.paths, (RECORDING, SMALL), strict=True):
            if path in self.finished():
                assert sha256(data) in self.held()
                (line,) = self.rig.store.ledger.of(path)
                proof = self.rig.store.ledger.line(line.seq).upload.proof
                assert proof == ("duration" if transcodes else "size")
            else:
                assert at(path).read_bytes() == data


def watch_of(folder: Path, after_upload: AfterUpload) -> dict[str, Any]:
    """Return the keys of a folder with this disposal."""
    return {"after_upload": after_upload} | ({"move_to": str(folder / "moved")} if after_upload == "move" else {})


async def sent(rig: Rig) -> Outcome:
    """Put two recordings into the folder, and wait until each is finished or parked."""
    assert len(RECORDING) > 2 * CHUNK > 2 * len(SMALL)
    outcome = Outcome(rig)
    await rig.start()
    outcome.paths = [rig.write("large.mp4", RECORDING), rig.write("small.mp4", SMALL)]
    await rig.scan()
    await rig.until(lambda: all(outcome.is_at_rest(path) for path in outcome.paths), "the end of both")
    return outcome


@pytest.mark.parametrize("after_upload", DISPOSALS)
@pytest.mark.parametrize("semantics", [*FAITHFUL, *SPOILING])
async def test_every_receiver_gets_every_recording_whole(
    tmp_path: Path, semantics: Semantics, after_upload: AfterUpload
) -> None:
    """First contact, default configuration: it is probed, and then gets chunks or whole files."""
    settings = Settings(semantics=semantics, processing=0.0)
    async with Rig(tmp_path, settings, probed=False, watch=watch_of(tmp_path, after_upload)) as rig:
        outcome = await sent(rig)
        assert sorted(outcome.finished()) == sorted(outcome.paths)
        outcome.check()
        await rig.swept()
        assert len(rig.records) == 2


@pytest.mark.parametrize("after_upload", DISPOSALS)
@pytest.mark.parametrize("semantics", SPOILING)
async def test_a_receiver_that_has_begun_to_spoil_chunks_is_found_out(
    tmp_path: Path, semantics: Semantics, after_upload: AfterUpload
) -> None:
    """It was seen to assemble them, and its version is the same. The spoilt record is removed after its replacement."""
    settings = Settings(semantics=semantics, processing=0.0)
    async with Rig(tmp_path, settings, watch=watch_of(tmp_path, after_upload)) as rig:
        outcome = await sent(rig)
        assert sorted(outcome.finished()) == sorted(outcome.paths)
        outcome.check()
        (again,) = rig.seen(events.UploadStartedOver)
        await rig.swept()
        assert len(rig.records) == 2
        assert rig.store.capabilities.chunks is False
        (line,) = rig.store.ledger.of(outcome.paths[0])
        calls = [(call.name, call.record) for call in rig.simulator.calls]
        assert calls.index(("link", line.record)) < calls.index(("delete", again.orphan))


@pytest.mark.parametrize("after_upload", DISPOSALS)
@pytest.mark.parametrize("semantics", [Semantics.OFFSET, *SPOILING])
async def test_a_server_that_transcodes_is_believed_by_its_durations(
    tmp_path: Path, semantics: Semantics, after_upload: AfterUpload
) -> None:
    """Its downloads cannot be compared with what was sent."""
    settings = Settings(semantics=semantics, processing=0.0, transcodes=True)
    async with Rig(tmp_path, settings, probed=False, watch=watch_of(tmp_path, after_upload)) as rig:
        outcome = await sent(rig)
        assert outcome.paths[0] in outcome.finished()
        outcome.check(transcodes=True)


async def test_a_file_that_was_replaced_after_it_was_sent_is_proven_by_the_length_that_it_had(tmp_path: Path) -> None:
    """On a server that transcodes. The new recording is sent afterwards."""
    settings = Settings(processing=0.0, transcodes=True, status_word="busy")
    async with Rig(tmp_path, settings) as rig:
        rig.build()
        rig.store.learn(transcodes=True)
        await rig.store.commit()
        await rig.restart()
        path = await rig.drop("a.mp4", RECORDING)
        await rig.event(events.UploadSent, path=path)
        rig.write("a.mp4", SMALL)
        rig.simulator.change(status_word="ready")
        await rig.event(events.UploadFinished, path=path)
        await rig.scan()
        await rig.event(events.UploadFinished, path=path, count=2)
        assert {record.sha256 for record in rig.records} == {sha256(RECORDING), sha256(SMALL)}


@pytest.mark.parametrize("durations", ["none", "zero"])
async def test_a_server_that_transcodes_and_tells_no_durations_proves_nothing(tmp_path: Path, durations: Any) -> None:
    """Both recordings are kept, with that reason."""
    settings = Settings(processing=0.0, transcodes=True, durations=durations)
    async with Rig(tmp_path, settings, probed=False, watch={"after_upload": "delete"}) as rig:
        outcome = await sent(rig)
        assert outcome.finished() == []
        outcome.check()


@pytest.mark.parametrize("own_port", [False, True], ids=["same port", "own port"])
@pytest.mark.parametrize("download", ["no-head", "no-length", "redirect"])
async def test_downloads_that_work_in_another_way_prove_as_well(tmp_path: Path, download: Any, own_port: bool) -> None:
    """HEAD refused, no length at all, a redirect on the same host; on the server's own port or another one."""
    settings = Settings(processing=0.0, download=download, own_download_port=own_port)
    async with Rig(tmp_path, settings, probed=False, watch={"after_upload": "delete"}) as rig:
        outcome = await sent(rig)
        assert sorted(outcome.finished()) == sorted(outcome.paths)
        assert {record.sha256 for record in rig.records} == {sha256(RECORDING), sha256(SMALL)}


@pytest.mark.parametrize("download", ["closed", "forbidden", "elsewhere", "page"])
async def test_without_downloads_recordings_are_kept_until_they_work(tmp_path: Path, download: Any) -> None:
    """It is said once. When the link works, they are finished."""
    settings = Settings(processing=0.0, download=download)
    async with Rig(tmp_path, settings, probed=False, watch={"after_upload": "delete"}) as rig:
        outcome = await sent(rig)
        assert outcome.finished() == []
        outcome.check()
        assert len(rig.seen(events.ProofUnavailable)) == 1
        rig.become(Settings(processing=0.0))
        await rig.finished(*outcome.paths)
        assert {record.sha256 for record in rig.records} == {sha256(RECORDING), sha256(SMALL)}


async def test_a_server_that_refuses_to_delete_keeps_what_it_has(tmp_path: Path) -> None:
    """The recording arrives whole; the spoilt record is named once."""
    settings = Settings(semantics=Semantics.LAST, processing=0.0, refuses_delete=True)
    async with Rig(tmp_path, settings, watch={"after_upload": "delete"}) as rig:
        outcome = await sent(rig)
        assert sorted(outcome.finished()) == sorted(outcome.paths)
        (stays,) = [await rig.event(events.OrphanNotDeleted)]
        assert stays.path == outcome.paths[0]


async def test_a_server_that_gives_a_video_up_parks_it(tmp_path: Path) -> None:
    """With its own word, after a minute."""
    settings = Settings(processing=0.0, status_word="failed")
    async with Rig(tmp_path, settings, probed=True, watch={"after_upload": "delete"}) as rig:
        outcome = await sent(rig)
        assert outcome.finished() == []
        outcome.check()
        assert {event.status for event in rig.seen(events.VideoStatus)} == {"failed"}


async def test_a_log_in_that_ends_the_one_before_it_delays_nothing(tmp_path: Path) -> None:
    """All workers share one token."""
    settings = Settings(processing=0.0, single_token=True)
    async with Rig(tmp_path, settings, probed=False, watch={"after_upload": "delete"}) as rig:
        outcome = await sent(rig)
        assert sorted(outcome.finished()) == sorted(outcome.paths)
        assert len(rig.calls("login")) == 1

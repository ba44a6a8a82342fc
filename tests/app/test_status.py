"""Status and the status line for systemd use the same words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import EPOCH, an_upload
from snapshots import SETTLING, config_of, known

from uploader.app import status as report
from uploader.domain.commands import typed
from uploader.domain.model import ActionBy, LastError, Orphan, ServerCapabilities, State, Upload


def test_status_is_one_json_document(tmp_path: Path) -> None:
    """It has counts per state, every unfinished file in order, orphans and warnings."""
    uploads = [an_upload(state, path=f"/rec/{state}.mp4") for state in State if state is not State.DONE]
    orphan = Orphan("record-9", "a", "/rec/a.mp4", EPOCH, EPOCH, landed=True)
    everything = known(*uploads, orphans=[orphan], done=7, settling=[SETTLING], process=42, warnings=["careful"])
    document = json.loads(json.dumps(report.status_document(config_of(tmp_path), everything, EPOCH)))
    assert document["server"] == "https://valt.example.com"
    assert (document["daemon"], document["outage"], document["warnings"]) == ({"pid": 42}, None, ["careful"])
    assert document["counts"] == {"settling": 1, "done": 7} | {str(upload.state): 1 for upload in uploads}
    assert list(document["counts"])[-1] == "done"
    assert [row["path"] for row in document["uploads"]] == sorted(upload.path for upload in uploads)
    assert document["settling"] == [{"path": "/rec/new.mp4", "size": 5, "reason": "it must be unchanged"}]
    assert document["orphans"] == [{"record": "record-9", "path": "/rec/a.mp4", "landed": True}]


def test_each_file_has_its_state_its_reason_and_its_next_step(tmp_path: Path) -> None:
    """For scripts: bytes, ids, the reason, who must act, and when."""
    document = report.status_document(
        config_of(tmp_path), known(an_upload(State.PARKED), an_upload(path="/rec/b.mp4")), EPOCH
    )
    parked, queued = document["uploads"]
    assert (parked["state"], parked["size"], parked["offset"]) == ("parked", 100, 40)
    assert (parked["record"], parked["video"], parked["name"]) == ("record-1", "video-1", "a")
    assert (parked["reason"], parked["turn"], parked["attempts"]) == ("the server said no", "operator", 2)
    assert re.fullmatch(r"2027-01-1\dT\d\d:01:00[+-]\d\d:\d\d", parked["next_try"])
    assert [queued[key] for key in ("record", "video", "reason", "turn", "next_try")] == [None] * 5
    assert (queued["attempts"], queued["next"]) == (0, "waits for a worker")


@pytest.mark.parametrize("state", [state for state in State if state is not State.DONE])
def test_every_state_has_a_next_step(state: State) -> None:
    """No state is shown without what happens next."""
    assert report.what_next(an_upload(state), EPOCH)


@pytest.mark.parametrize("turn", ActionBy)
def test_a_waiting_upload_says_who_must_act_or_when_it_is_tried_again(turn: ActionBy) -> None:
    """With a time it shows the time; without one, who must act; a time in the past is shown as now."""
    parked = an_upload(State.PARKED, last_error=LastError("why", turn))
    command = typed("retry", parked.path)
    assert report.what_next(parked, EPOCH) == report.NEXT_ACTION[turn].format(command=command)
    assert (command in report.what_next(parked, EPOCH)) is (turn is ActionBy.OPERATOR)
    waiting = replace(parked, last_error=LastError("why", turn, next_try=EPOCH + 90))
    operator = "an operator must act (see the reason); {}, or at once after: valt-uploader retry /rec/a.mp4"
    text = operator if turn is ActionBy.OPERATOR else "{}"
    assert report.what_next(waiting, EPOCH) == text.format("tried again automatically in 1 min 30 s")
    assert report.what_next(waiting, EPOCH + 1000) == text.format("tried again automatically in 0 s")


def test_a_forgotten_upload_says_that_its_record_is_looked_for() -> None:
    """Until it is known whether the server has a record; paused, it waits for the operator."""
    upload = an_upload(State.CREATING, forgotten=True)
    text = "forgotten by operator; the server may have a record of it, which is looked for first"
    assert report.what_next(upload, EPOCH) == text
    waiting = replace(upload, last_error=LastError("why", ActionBy.UPLOADER, next_try=EPOCH + 90))
    assert report.what_next(waiting, EPOCH) == f"{text}; tried again automatically in 1 min 30 s"
    assert report.what_next(upload, EPOCH, paused=True) == "continues after: valt-uploader resume"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("/", "valt-uploader resume"),
        ("/rec/a.mp4", "valt-uploader resume /rec/a.mp4"),
        ("/rec/Night shift.mp4", "valt-uploader resume '/rec/Night shift.mp4'"),
    ],
)
def test_what_an_operator_types_can_be_copied_into_a_shell(name: str, line: str) -> None:
    """A name with spaces is quoted; everything needs no name."""
    assert typed("resume", name) == line


def test_the_status_line_sums_up_all_states(tmp_path: Path) -> None:
    """States that hold uploads, then how many are done; a server that is down comes first."""
    config = config_of(tmp_path)

    def line(*uploads: Upload, **more: Any) -> str:
        return report.one_line(report.status_document(config, known(*uploads, process=1, **more), EPOCH))

    assert line() == "nothing to do; 0 done"
    assert line(an_upload(State.SENDING), an_upload(path="/b"), done=3) == "1 queued, 1 sending; 3 done"
    assert line(outage=9.0, outage_reason="no connection; look at it") == "no connection, nothing to do; 0 done"


class Touched(Collection[Upload]):
    """Uploads that count how many of them have been looked at."""

    def __init__(self, *uploads: Upload) -> None:
        self.uploads, self.count = uploads, 0

    def __len__(self) -> int:
        return len(self.uploads)

    def __contains__(self, item: object) -> bool:
        raise AssertionError("nobody searches through all uploads")

    def __iter__(self) -> Iterator[Upload]:
        for upload in self.uploads:
            self.count += 1
            yield upload


def test_the_status_line_reads_no_upload() -> None:
    """It is made from the counts alone, so that it costs the same with ten uploads as with a hundred thousand."""
    uploads = Touched(*(an_upload(path=f"/rec/{number}.mp4") for number in range(50)))
    everything = replace(known(process=1, done=3), uploads=uploads, counts={State.QUEUED: 50})
    assert report.one_line(report.brief_document(everything, EPOCH)) == "50 queued; 3 done"
    assert uploads.count == 0


def test_status_rows_are_made_only_when_they_are_read(tmp_path: Path) -> None:
    """None is made in advance."""
    uploads = Touched(*(an_upload(path=f"/rec/{number}.mp4") for number in range(3)))
    everything = replace(known(process=1), uploads=uploads, counts={State.QUEUED: 3})
    document = report.status_by_rows(config_of(tmp_path), everything, EPOCH)
    assert uploads.count == 0
    assert document["counts"]["queued"] == 3
    assert [row["path"] for row in document["uploads"]] == ["/rec/0.mp4", "/rec/1.mp4", "/rec/2.mp4"]
    assert uploads.count == 3


@pytest.mark.parametrize("count", [0, 1, 4, 5, 23])
def test_uploads_are_listed_by_path_whatever_the_sort_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each appears once."""
    monkeypatch.setattr(report, "SORTED_AT_ONCE", 4)
    paths = [f"/rec/{number:02}.mp4" for number in range(count)]
    uploads = [an_upload(path=path) for path in (*paths[::-2], *paths[-2::-2])]
    document = report.status_document(config_of(tmp_path), known(*uploads), EPOCH)
    assert [row["path"] for row in document["uploads"]] == paths


def test_maintained_counts_equal_recounted_ones(tmp_path: Path) -> None:
    """The document is the same with the daemon running or stopped."""
    uploads = [an_upload(state, path=f"/rec/{state}.mp4") for state in State if state is not State.DONE]
    counted, kept = known(*uploads), known(*uploads, counts=Counter(upload.state for upload in uploads))
    assert report.status_document(config_of(tmp_path), counted, EPOCH) == report.status_document(
        config_of(tmp_path), kept, EPOCH
    )


def test_a_renamed_file_is_shown_under_both_names(tmp_path: Path) -> None:
    """The name at its first sight stays the key; ``file`` is its name now."""
    renamed = an_upload(State.SENDING, path="/rec/a.mp4", renamed_to="/rec/b\x1b.mp4")
    document = report.status_document(config_of(tmp_path), known(renamed, an_upload(path="/rec/c.mp4")), EPOCH)
    assert [(row["path"], row["file"]) for row in document["uploads"]] == [
        ("/rec/a.mp4", "/rec/b\x1b.mp4"),
        ("/rec/c.mp4", "/rec/c.mp4"),
    ]
    lines = report.status_lines(document)
    assert lines.count("  file: now /rec/b\\x1b.mp4") == 1
    assert sum(line.startswith("  file:") for line in lines) == 1


@pytest.mark.parametrize(("word", "said"), [("failed", True), ("created", False), ("ready", False), ("", False)])
def test_an_unexpected_video_status_is_shown(tmp_path: Path, word: str, *, said: bool) -> None:
    """A server that says "failed" is reported at once, not only after the ready time-out."""
    upload = an_upload(State.VERIFYING)
    document = report.status_document(config_of(tmp_path), known(upload, last_words={upload.path: word}), EPOCH)
    assert document["uploads"][0]["server_says"] == (word if said else None)
    assert ("  why:  the server says: failed" in report.status_lines(document)) is said


def test_a_status_word_of_the_server_cannot_forge_a_line(tmp_path: Path) -> None:
    """It is foreign text and is shown escaped."""
    upload = an_upload(State.VERIFYING)
    document = report.status_document(
        config_of(tmp_path), known(upload, last_words={upload.path: "failed\nresult   ok"}), EPOCH
    )
    assert "  why:  the server says: failed\\x0aresult   ok" in report.status_lines(document)


def test_an_outage_is_shown_with_its_reason(tmp_path: Path) -> None:
    """Status says why no upload moves, and when the server is tried again."""
    down = known(process=1, outage=90.0, outage_reason="cannot be reached")
    document = report.status_document(config_of(tmp_path), down, EPOCH)
    assert (document["outage"], document["outage_reason"]) == (90.0, "cannot be reached")
    text = "\n".join(report.status_lines(document))
    assert "cannot be reached" in text
    assert "called again in 1 min 30 s; at once after: valt-uploader retry" in text


def test_a_state_that_cannot_be_saved_is_shown_with_its_reason(tmp_path: Path) -> None:
    """It comes before a server that is down, as no upload can go on without the state's disk."""
    both = known(process=1, not_saved="state.json: full: make room; until then", outage=9.0, outage_reason="no server")
    document = report.status_document(config_of(tmp_path), both, EPOCH)
    assert document["not_saved"] == "state.json: full: make room; until then"
    assert report.one_line(document) == "state.json: full: make room, no server, nothing to do; 0 done"
    assert "waiting  state.json: full: make room; until then" in report.status_lines(document)
    assert report.status_document(config_of(tmp_path), known(), EPOCH)["not_saved"] is None


def test_a_refused_password_is_seen_with_the_daemon_stopped(tmp_path: Path) -> None:
    """It is part of the saved state."""
    learnt = ServerCapabilities(login_refusals=1, login_not_before=EPOCH + 300)
    document = report.status_document(config_of(tmp_path), known(capabilities=learnt), EPOCH)
    assert (document["daemon"], document["outage"]) == (None, 300.0)
    assert document["outage_reason"]
    later = report.status_document(config_of(tmp_path), known(capabilities=learnt), EPOCH + 301)
    assert (later["outage"], later["outage_reason"]) == (None, None)


def test_text_output_escapes_names_and_json_keeps_them(tmp_path: Path) -> None:
    """A name that would control the terminal is escaped in text; the JSON document keeps it."""
    path = "/rec/\x1b[31m\u202ea\udcff.mp4"
    settling = replace(SETTLING, sighting=replace(SETTLING.sighting, path=path))
    orphans = [Orphan("record-9", "a", path, EPOCH, EPOCH)]
    everything = known(an_upload(State.SENDING, path=path), settling=[settling], orphans=orphans, warnings=["careful"])
    document = report.status_document(config_of(tmp_path), everything, EPOCH)
    assert document["uploads"][0]["path"] == path
    text = "\n".join(report.status_lines(document))
    text.encode("utf-8")
    assert text.count("/rec/\\x1b[31m\\u202ea\\xff.mp4") == 3
    assert "\x1b" not in text
    for words in (
        "daemon   stopped",
        "warning  careful",
        "sending 40 %, 100 B",
        "next: deleted automatically",
        "settling",
    ):
        assert words in text


def test_an_orphan_with_a_video_waits_for_the_operator(tmp_path: Path) -> None:
    """It is not deleted, and its lines say so and what to type; a running daemon is named by its process."""
    orphans = [Orphan("record-9", "a", "/rec/a.mp4", EPOCH, EPOCH, landed=True)]
    lines = report.status_lines(report.status_document(config_of(tmp_path), known(orphans=orphans, process=42), EPOCH))
    assert "daemon   running, process 42" in lines
    assert lines[-3] == "\norphan record record-9 of /rec/a.mp4"
    assert lines[-2] == "  why:  it holds a video, so it is not deleted automatically"
    assert "an operator must decide" in lines[-1]
    assert lines[-1].endswith("type: valt-uploader forget record-9")


def test_an_mtime_outside_of_the_calendar_is_shown_in_seconds() -> None:
    """Shares report such times."""
    assert report.iso(1e18) == "@1000000000000000000"
    assert report.iso(-1e18) == "@-1000000000000000000"


def test_every_switched_off_protection_is_a_warning(tmp_path: Path) -> None:
    """Unchecked TLS, plain text, resending; a careful configuration has no warning."""
    assert report.standing_warnings(config_of(tmp_path), {}) == []
    risky = config_of(
        tmp_path, url="http://valt.example.com", allow_plaintext=True, tls_verify=False, resend_is_safe=True
    )
    warnings = report.standing_warnings(risky, {})
    assert [warning.partition(":")[0] for warning in warnings] == [
        "server.tls_verify = false",
        "server.allow_plaintext = true",
        "server.resend_is_safe = true",
    ]


def test_a_proxy_is_shown_and_its_password_from_the_environment_is_a_warning(tmp_path: Path) -> None:
    """In the line of the server; a proxy without a log-in needs no password."""
    proxied = config_of(tmp_path, proxy="http://proxy:3128", proxy_username="ours")
    lines = report.status_lines(report.status_document(proxied, known(), EPOCH))
    assert lines[0].endswith(" through the proxy http://proxy:3128")
    assert report.status_document(config_of(tmp_path), known(), EPOCH)["proxy"] is None
    environ = {"VALT_UPLOADER_PROXY_PASSWORD": "canary"}
    (warning,) = report.standing_warnings(proxied, environ)
    assert warning.startswith("the proxy's password comes from $VALT_UPLOADER_PROXY_PASSWORD: every process")
    assert report.standing_warnings(config_of(tmp_path, proxy="http://proxy:3128"), environ) == []


def test_limits_that_were_learnt_are_shown_until_they_expire(tmp_path: Path) -> None:
    """What was learnt, until when, and how to forget it."""
    learnt = ServerCapabilities(chunk_limit=750_000, chunk_limit_until=EPOCH + 86_400, whole_only_until=EPOCH + 3600)
    config = config_of(tmp_path)
    document = report.status_document(config, known(capabilities=learnt), EPOCH)
    limits = [line for line in report.status_lines(document) if "until 2027-01-1" in line]
    assert len(limits) == 2
    assert "chunks of at most 732 KiB until 2027-01-16" in limits[0]
    assert limits[0].endswith("type: valt-uploader retry")
    assert "whole files in one request until" in limits[1]
    later = report.status_document(config, known(capabilities=learnt), EPOCH + 86_401)
    assert later["limits"] == []

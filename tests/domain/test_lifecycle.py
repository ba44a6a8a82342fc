"""The life cycle of an upload: each step of the table is possible, and no other one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from fakes import EPOCH, IDS, LAST_ERROR, an_upload
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain import lifecycle
from uploader.domain.lifecycle import TABLE, IllegalStep, Step, acknowledge, advance, broken_rule, park, start_over
from uploader.domain.model import Identity, State, Upload

# The table of docs/protocol.md and the design, written a second time.
ROWS = """
queued      intend        creating
queued      adopt         verifying
sending     adopt         verifying
in-doubt    adopt         verifying
creating    created       sending
creating    not-created   queued
creating    start-over    queued
sending     last-byte     in-doubt
sending     start-over    queued
in-doubt    acknowledged  sending
in-doubt    sent          verifying
in-doubt    refused       sending
in-doubt    resend        sending
in-doubt    start-over    queued
verifying   ready         proving
verifying   start-over    queued
proving     proven        finishing
proving     start-over    queued
finishing   finished      done
finishing   unproven      proving
queued      park          parked
creating    park          parked
sending     park          parked
in-doubt    park          parked
verifying   park          parked
proving     park          parked
finishing   park          parked
"""
LEGAL = {(State(state), Step(step)): State(target) for state, step, target in map(str.split, ROWS.strip().split("\n"))}
BRINGS_FORWARD = {Step.CREATED, Step.ACKNOWLEDGED, Step.SENT, Step.ADOPT, Step.READY, Step.PROVEN, Step.FINISHED}
UNFINISHED = [state for state in State if state not in {State.DONE, State.PARKED}]


def facts(upload: Upload, step: Step) -> dict[str, Any]:
    """What a stage brings along with *step*."""
    size = upload.identity.size
    brought: dict[Step, dict[str, Any]] = {
        Step.INTEND: {"intent_at": EPOCH},
        Step.CREATED: {"ids": IDS},
        Step.LAST_BYTE: {"doubt_end": lifecycle.chunk_end(upload), "doubt_digest": "d2", "doubt_at": EPOCH},
        Step.ACKNOWLEDGED: {"offset": upload.doubt_end, "digest": upload.doubt_digest},
        Step.SENT: {"offset": size, "digest": "d3", "sent_at": EPOCH},
        Step.ADOPT: {"ids": IDS, "offset": size, "digest": "d3", "sent_at": EPOCH},
        Step.READY: {"ready_at": EPOCH},
        Step.PROVEN: {"proof": "size"},
        Step.PARK: {"last_error": LAST_ERROR, "parked_from": upload.state},
    }
    return brought.get(step, {})


def test_the_table_is_what_the_design_says() -> None:
    """It has exactly the rows of the list above."""
    assert dict(TABLE) == LEGAL


@pytest.mark.parametrize(("state", "step"), LEGAL, ids=str)
def test_every_step_leads_to_its_target(state: State, step: Step) -> None:
    """From its state, without breaking a rule."""
    upload = an_upload(state)
    after = advance(upload, step, **facts(upload, step))
    assert after.state is LEGAL[state, step]
    assert broken_rule(after) is None


@pytest.mark.parametrize(
    ("state", "step"),
    [pair for pair in product(State, Step) if pair not in LEGAL and pair != (State.PARKED, Step.RELEASE)],
    ids=str,
)
def test_a_step_that_is_not_in_the_table_raises(state: State, step: Step) -> None:
    """Every other pair of state and step, whatever facts come with it."""
    upload = an_upload(state)
    with pytest.raises(IllegalStep, match="is no step from"):
        advance(upload, step, **facts(upload, step))


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_released_upload_continues_where_it_was_parked(state: State) -> None:
    """Park and release lead back to the same value; only the reason stays until the next progress."""
    before = an_upload(state)
    parked = park(before, LAST_ERROR)
    assert (parked.state, parked.parked_from, parked.last_error) == (State.PARKED, state, LAST_ERROR)
    assert broken_rule(parked) is None
    assert replace(advance(parked, Step.RELEASE), last_error=None) == before


def test_parking_again_only_changes_the_reason() -> None:
    """The state that it was parked from stays."""
    other = replace(LAST_ERROR, reason="another")
    parked = park(park(an_upload(State.IN_DOUBT), LAST_ERROR), other)
    assert (parked.parked_from, parked.last_error) == (State.IN_DOUBT, other)


@pytest.mark.parametrize("state", [*UNFINISHED[:-1], State.PARKED])
def test_starting_over_leaves_an_orphan_exactly_when_there_was_a_record(state: State) -> None:
    """The file is sent from its first byte to a new record; the old one is looked at after the settle time."""
    upload = an_upload(state, restarts=2)
    fresh, orphan = start_over(upload, now=EPOCH, settle=20.0)
    assert (fresh.state, fresh.ids, fresh.offset, fresh.digest, fresh.chunks) == (State.QUEUED, None, 0, "", 0)
    assert (fresh.intent_at, fresh.sent_at, fresh.doubt_end, fresh.doubt_at) == (None, None, None, None)
    assert (fresh.restarts, fresh.identity) == (3, upload.identity)
    assert broken_rule(fresh) is None
    assert (orphan is not None) == (upload.ids is not None)
    if orphan is not None:
        assert (orphan.record, orphan.name, orphan.path) == (IDS.record, upload.record.name, upload.path)
        assert (orphan.since, orphan.next_look, orphan.landed) == (EPOCH, EPOCH + 20.0, False)


def test_an_empty_record_is_an_orphan_too() -> None:
    """It exists on the server under the name of the recording."""
    _, orphan = start_over(an_upload(State.SENDING, offset=0, digest="", chunks=0), now=EPOCH, settle=0.0)
    assert orphan is not None


def test_a_video_that_is_proven_is_never_started_over() -> None:
    """Once its arrival is proven, the step is refused."""
    with pytest.raises(IllegalStep):
        start_over(an_upload(State.FINISHING), now=EPOCH, settle=20.0)


@pytest.mark.parametrize("step", sorted(BRINGS_FORWARD))
def test_only_failures_in_a_row_are_counted(step: Step) -> None:
    """A step that makes progress clears the failures."""
    state = next(state for state, each in LEGAL if each is step)
    upload = an_upload(state, last_error=LAST_ERROR)
    assert advance(upload, step, **facts(upload, step)).last_error is None


@pytest.mark.parametrize("step", sorted(set(Step) - BRINGS_FORWARD - {Step.PARK, Step.RELEASE}))
def test_a_step_without_progress_keeps_the_failure_count(step: Step) -> None:
    """Trying again, a refusal and starting over are no progress."""
    state = next(state for state, each in LEGAL if each is step)
    upload = an_upload(state, last_error=LAST_ERROR)
    assert advance(upload, step, **facts(upload, step)).last_error == LAST_ERROR


def test_an_acknowledged_chunk_moves_the_offset() -> None:
    """Offset and digest move to the end of the chunk, it is counted, and no doubt is left."""
    after = acknowledge(an_upload(State.IN_DOUBT), now=EPOCH)
    assert (after.state, after.offset, after.digest, after.chunks) == (State.SENDING, 80, "d2", 2)
    assert (after.doubt_end, after.doubt_digest, after.doubt_at, after.sent_at) == (None, "", None, None)


def test_the_last_acknowledged_chunk_ends_the_sending() -> None:
    """The upload waits for the server to process it, and the time is noted."""
    after = acknowledge(an_upload(State.IN_DOUBT, offset=80, doubt_end=100), now=EPOCH + 9)
    assert (after.state, after.offset, after.sent_at) == (State.VERIFYING, 100, EPOCH + 9)


def test_an_answer_without_a_chunk_in_doubt_is_refused() -> None:
    """It would be a bug."""
    with pytest.raises(IllegalStep, match="nothing is in doubt"):
        acknowledge(an_upload(State.SENDING), now=EPOCH)


def test_a_step_that_would_break_a_rule_is_refused() -> None:
    """A step must be in the table, and its facts must fit, too."""
    with pytest.raises(IllegalStep, match="a record is needed here"):
        advance(an_upload(State.CREATING), Step.CREATED)
    with pytest.raises(IllegalStep, match="not every byte"):
        advance(an_upload(State.IN_DOUBT), Step.SENT, offset=80, digest="d2")


@pytest.mark.parametrize(
    ("size", "offset", "chunk_size", "end"),
    [(100, 0, 40, 40), (100, 40, 40, 80), (100, 80, 40, 100), (100, 0, 0, 100), (100, 0, 500, 100), (80, 40, 40, 80)],
)
def test_a_chunk_ends_at_its_size_or_with_the_file(size: int, offset: int, chunk_size: int, end: int) -> None:
    """At offset + chunk size, never beyond the file; 0 means the whole file."""
    assert lifecycle.chunk_end(an_upload(size=size, offset=offset, chunk_size=chunk_size)) == end


BROKEN = [
    (State.SENDING, {"offset": -1}, "offset outside the file"),
    (State.SENDING, {"offset": 101}, "offset outside the file"),
    (State.SENDING, {"offset": 100}, "nothing left to send"),
    (State.SENDING, {"digest": ""}, "without their digest"),
    (State.SENDING, {"ids": None}, "a record is needed"),
    (State.IN_DOUBT, {"ids": None}, "a record is needed"),
    (State.IN_DOUBT, {"doubt_end": None}, "doubt and its mark"),
    (State.IN_DOUBT, {"doubt_end": 40}, "not ahead of the offset"),
    (State.IN_DOUBT, {"doubt_end": 101}, "not ahead of the offset"),
    (State.SENDING, {"doubt_end": 80}, "doubt and its mark"),
    (State.VERIFYING, {"offset": 99}, "not every byte"),
    (State.FINISHING, {"offset": 99}, "not every byte"),
    (State.CREATING, {"intent_at": None}, "an intent without its time"),
    (State.PARKED, {"last_error": None}, "parked without a reason"),
    (State.PARKED, {"parked_from": State.PARKED}, "nothing is parked from parked"),
    (State.PARKED, {"parked_from": State.DONE}, "nothing is parked from done"),
    (State.PARKED, {"parked_from": State.IN_DOUBT}, "doubt and its mark"),
    (State.PARKED, {"parked_from": State.VERIFYING}, "not every byte"),
]


@pytest.mark.parametrize(("state", "changes", "rule"), BROKEN)
def test_an_impossible_value_is_named(state: State, changes: dict[str, Any], rule: str) -> None:
    """Each rule finds its fault, in a parked upload as in one that runs."""
    assert rule in (broken_rule(replace(an_upload(state), **changes)) or "nothing")


@given(st.data(), st.integers(1, 300), st.integers(0, 400))
def test_no_path_through_the_table_breaks_a_rule_or_loses_a_byte(data: st.DataObject, size: int, chunk: int) -> None:
    """In any order of steps, the offset only grows until a record is given up."""
    upload = Upload("/rec/a.mp4", "/rec", Identity(size, 1, "e1"), an_upload().record, chunk)
    for _ in range(data.draw(st.integers(1, 40))):
        steps = [step for state, step in LEGAL if state is upload.state]
        if upload.state is State.PARKED:
            steps = [Step.RELEASE]
        if not steps:
            return
        step, before = data.draw(st.sampled_from(steps)), upload
        if step in {Step.ACKNOWLEDGED, Step.SENT}:
            upload = acknowledge(upload, now=EPOCH)
        elif step is Step.PARK:
            upload = park(upload, LAST_ERROR)
        elif step is Step.START_OVER:
            upload, _ = start_over(upload, now=EPOCH, settle=1.0)
        else:
            upload = advance(upload, step, **facts(upload, step))
        assert broken_rule(upload) is None
        assert upload.offset >= (0 if step is Step.START_OVER else before.offset)
        assert (upload.state is State.PARKED) == (upload.parked_from is not None)

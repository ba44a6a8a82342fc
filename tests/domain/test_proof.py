"""What shows that a recording has arrived: the cheapest evidence that suffices, and nothing less."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain.model import ProofRule
from uploader.domain.proof import Evidence, Judgement, Missing, Proven, Spoilt, Unprovable, judge

WHOLE: Final = Evidence(size=1000, one_request=True, chunks_work=None, transcodes=False)
IN_CHUNKS: Final = replace(WHOLE, one_request=False, chunks_work=True)
UNSEEN: Final = replace(WHOLE, one_request=False, transcodes=None)  # in chunks, to a server that nobody has probed
TRANSCODES: Final = replace(WHOLE, transcodes=True, shown=60.0)
ASKED_SIZE: Final = frozenset({Missing.SIZE})
BOTH_SIZES: Final = frozenset({Missing.SIZE, Missing.CONFIRMED_SIZE})


@pytest.mark.parametrize("evidence", [WHOLE, IN_CHUNKS], ids=["one request", "chunks"])
def test_the_size_is_asked_first_and_proves(evidence: Evidence) -> None:
    """Of a file in one request, or in chunks to a server that was seen to assemble them."""
    assert judge("auto", evidence) is Missing.SIZE
    assert judge("auto", evidence.with_answer(Missing.SIZE, held=1000)) == Proven("size")


@pytest.mark.parametrize("held", [999, 0, 2000, None])
def test_another_size_is_confirmed_in_another_way_before_it_counts(held: int | None) -> None:
    """HEAD is answered wrongly by some servers."""
    other = WHOLE.with_answer(Missing.SIZE, held=held)
    assert judge("auto", other) is Missing.CONFIRMED_SIZE
    assert judge("auto", other.with_answer(Missing.CONFIRMED_SIZE, held=1000)) == Proven("size")


def test_a_confirmed_other_size_is_a_spoilt_recording() -> None:
    """If the server is known to hand out what it gets. Both sizes are said."""
    judgement = judge("auto", replace(IN_CHUNKS, asked=BOTH_SIZES, held=300))
    assert judgement == Spoilt("the server hands out 300 bytes where 1000 were sent")


def test_another_size_says_nothing_while_it_is_unknown_whether_the_server_transcodes() -> None:
    """A probe is asked for; without one the file is kept."""
    other = replace(WHOLE, transcodes=None, asked=BOTH_SIZES, held=300)
    assert judge("auto", other) is Missing.PROBE
    judgement = judge("auto", other.with_answer(Missing.PROBE))
    assert isinstance(judgement, Unprovable)
    assert "check --probe" in judgement.reason


def test_without_a_size_the_bytes_are_fetched_back() -> None:
    """A server may send its videos without a Content-Length."""
    silent = replace(WHOLE, asked=BOTH_SIZES)
    assert judge("auto", silent) is Missing.BYTES
    assert judge("auto", silent.with_answer(Missing.BYTES, same_bytes=True)) == Proven("bytes")
    assert isinstance(judge("auto", silent.with_answer(Missing.BYTES, same_bytes=False)), Spoilt)


def test_chunks_to_a_server_that_was_not_seen_to_assemble_them_are_proven_by_their_bytes() -> None:
    """A hole in the middle changes no size."""
    assert judge("auto", UNSEEN) is Missing.BYTES
    assert judge("auto", UNSEEN.with_answer(Missing.BYTES, same_bytes=True)) == Proven("bytes")


def test_the_operator_may_want_the_bytes() -> None:
    """Or the server's word, as a decision of his own."""
    assert judge("bytes", WHOLE) is Missing.BYTES
    assert judge("ready", UNSEEN) == Proven("ready")


@pytest.mark.parametrize("rule", ["auto", "bytes"])
def test_where_the_server_transcodes_durations_are_compared(rule: ProofRule) -> None:
    """Its bytes and sizes prove nothing."""
    assert judge(rule, TRANSCODES) is Missing.DURATIONS
    assert judge(rule, TRANSCODES.with_answer(Missing.DURATIONS, recorded=60.2)) == Proven("duration")
    spoilt = judge(rule, TRANSCODES.with_answer(Missing.DURATIONS, recorded=600.0))
    assert isinstance(spoilt, Spoilt)
    assert "1 min" in spoilt.reason
    assert "10 min" in spoilt.reason


@pytest.mark.parametrize(("recorded", "shown", "who"), [(None, 60.0, "container"), (60.0, None, "the server")])
def test_no_duration_is_no_evidence(recorded: float | None, shown: float | None, who: str) -> None:
    """It never proves, and never contradicts."""
    judgement = judge("auto", replace(TRANSCODES, shown=shown).with_answer(Missing.DURATIONS, recorded=recorded))
    assert isinstance(judgement, Unprovable)
    assert who in judgement.reason


def test_a_right_duration_does_not_prove_chunks_that_were_not_seen_to_work() -> None:
    """The header of a video that was cut after its first chunk states all of its duration."""
    unseen = replace(TRANSCODES, one_request=False)
    assert isinstance(judge("auto", unseen.with_answer(Missing.DURATIONS, recorded=60.0)), Unprovable)


def answered(rule: ProofRule, evidence: Evidence, held: int | None, *, same: bool, recorded: float | None) -> Judgement:
    """Judge, and answer each question truthfully; a probe finds out nothing."""
    for _ in Missing:
        judgement = judge(rule, evidence)
        match judgement:
            case Missing.SIZE | Missing.CONFIRMED_SIZE:
                evidence = evidence.with_answer(judgement, held=held)
            case Missing.DURATIONS:
                evidence = evidence.with_answer(judgement, recorded=recorded)
            case Missing.BYTES:
                evidence = evidence.with_answer(judgement, same_bytes=same)
            case Missing.PROBE:
                evidence = evidence.with_answer(judgement)
            case _:
                return judgement
    return judge(rule, evidence)


@given(
    rule=st.sampled_from(["auto", "bytes"]),
    requests=st.booleans(),
    chunks_work=st.sampled_from([None, False, True]),
    transcodes=st.sampled_from([None, False]),
    held=st.none() | st.integers(0, 3000).filter(lambda size: size != 1000),
    shown=st.none() | st.floats(0.1, 1e5),
)
def test_a_video_of_another_size_is_never_proven(
    rule: ProofRule,
    requests: bool,
    chunks_work: bool | None,
    transcodes: bool | None,
    held: int | None,
    shown: float | None,
) -> None:
    """Whatever is known about the server and however long the video is said to be; and the questions end."""
    evidence = Evidence(1000, requests, chunks_work, transcodes, shown=shown)
    judgement = answered(rule, evidence, held, same=False, recorded=60.0)
    assert isinstance(judgement, Spoilt | Unprovable)


@given(
    rule=st.sampled_from(["auto", "bytes"]),
    requests=st.booleans(),
    chunks_work=st.sampled_from([None, False, True]),
    says_size=st.booleans(),
)
def test_the_very_bytes_are_always_proven(
    rule: ProofRule, requests: bool, chunks_work: bool | None, says_size: bool
) -> None:
    """By a server that hands out what it got, whether or not it was probed."""
    evidence = Evidence(1000, requests, chunks_work, None)
    judgement = answered(rule, evidence, 1000 if says_size else None, same=True, recorded=None)
    assert judgement in {Proven("size"), Proven("bytes")}

"""Whether a failure of the server is one file's own: decided from what happened to other files in between."""

from __future__ import annotations

import pytest

from uploader.domain import errors
from uploader.domain.model import State
from uploader.server.file_faults import FILES_REMEMBERED, CallKind, FileFaults, OwnFailure, kind_of, may_be_own

SERVERS = OwnFailure()


def judged(faults: FileFaults, story: str, kind: CallKind = CallKind.CHUNK) -> list[OwnFailure]:
    """Tell a *story*: ``a`` is a failure of the file a, ``B`` a good answer to a call for the file b."""
    found = []
    for act in story:
        if act.islower():
            found.append(faults.failed(act, kind))
        else:
            faults.succeeded(act.lower(), kind)
    return found


def test_a_file_that_always_fails_while_others_succeed_fails_by_itself() -> None:
    """From the third time on; then each failure counts as long as others are answered in between."""
    assert judged(FileFaults(), "aBaBaBBaCa") == [SERVERS, SERVERS, OwnFailure(3), OwnFailure(4), OwnFailure(5)]


@pytest.mark.parametrize("story", ["aaaaaaaa", "abcabcabc", "aAaAaAaA", "aBaaaaaa", "aBbbaBbbaBbba"])
def test_a_failure_is_the_servers_as_long_as_nothing_else_is_certain(story: str) -> None:
    """No other file is answered, or the file itself is, or others fail more often than they are answered."""
    assert set(judged(FileFaults(), story)) == {SERVERS}


def test_an_outage_is_seen_at_once_also_while_one_file_fails_by_itself() -> None:
    """Another file's first failure is the server's. The known file's failures count no try meanwhile."""
    faults = FileFaults()
    assert judged(faults, "aBaBa")[-1] == OwnFailure(3)
    assert judged(faults, "bcab") == [SERVERS, SERVERS, OwnFailure(4, others_answered=False), SERVERS]
    assert judged(faults, "Ba") == [OwnFailure(5, others_answered=True)]


def test_a_file_that_is_answered_is_like_any_other_again() -> None:
    """What was held against it is forgotten."""
    assert judged(FileFaults(), "aBaBaAaBaBa")[-3:] == [SERVERS, SERVERS, OwnFailure(3)]


def test_two_files_may_fail_by_themselves() -> None:
    """Each of them, while a third one is answered."""
    assert judged(FileFaults(), "aCbCaCbCaCbC")[-2:] == [OwnFailure(3), OwnFailure(3)]


def test_answers_to_other_kinds_of_call_say_nothing() -> None:
    """A server that makes records but stores no chunk is down for all files, however many records it makes."""
    faults = FileFaults()
    for number in range(50):
        faults.succeeded(f"{number}", CallKind.RECORD)
        faults.succeeded("b", CallKind.ASK)
        assert faults.failed("a", CallKind.CHUNK) == SERVERS
    faults.succeeded("a", CallKind.RECORD)  # and a record of its own does not acquit a file whose chunks fail
    assert judged(faults, "BaBa")[-1].times > 0


def test_a_bounded_number_of_files_is_remembered() -> None:
    """The file that failed longest ago is forgotten first."""
    faults = FileFaults()
    judged(faults, "aBaB")
    for number in range(FILES_REMEMBERED):
        faults.failed(f"{number}", CallKind.ASK)
    assert faults.failed("a", CallKind.CHUNK) == SERVERS
    assert len(faults._failures) == FILES_REMEMBERED


def test_only_an_answer_can_be_one_files_own_trouble() -> None:
    """No connection, a refused password, a full disk or a shared account concern every file."""
    assert may_be_own(errors.ServerDown("answered 503"))
    assert may_be_own(errors.ServerBusy("answered 429", retry_after=1.0))
    shared = errors.AccountShared("401", retry_after=1.0)
    for error in (errors.Unreachable("refused"), errors.ServerFull("507"), errors.BreakerOpen("open"), shared):
        assert not may_be_own(error)
    assert not may_be_own(errors.PasswordRefused("401"))
    assert not may_be_own(errors.AnswerLost("500"))


def test_each_state_has_its_kind_of_call() -> None:
    """Creating a record, sending a chunk, asking about a record."""
    assert [kind_of(state) for state in (State.QUEUED, State.CREATING)] == [CallKind.RECORD] * 2
    assert kind_of(State.SENDING) is CallKind.CHUNK
    assert [kind_of(state) for state in (State.IN_DOUBT, State.VERIFYING, State.FINISHING)] == [CallKind.ASK] * 3

"""What follows from each error: one test for each class of errors, and the bounds of every pause."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from fakes import EPOCH
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.domain import errors, retry
from uploader.domain.chunk_size import halved
from uploader.domain.model import ActionBy
from uploader.domain.retry import (
    CHANGES_BEFORE_PARKING,
    DAY,
    HOUR,
    MINUTE,
    SMALLEST_HALVED_CHUNK,
    Action,
    Decision,
    FailureHistory,
    after_changes,
    decide,
)

MB = 1024 * 1024


def highest(low: float, high: float) -> float:
    """A die that always falls on its highest side."""
    assert low <= high
    return high


def lowest(low: float, high: float) -> float:
    """A die that always falls on its lowest side."""
    assert low <= high
    return low


@pytest.mark.parametrize("kind", [errors.FileMissing, errors.FileEmpty, errors.NotAFile])
def test_a_file_that_cannot_be_sent_is_parked_until_it_changes(kind: Callable[[str], errors.UploaderError]) -> None:
    """It is parked without a time for the next try."""
    verdict = decide(kind("why"), FailureHistory(), highest)
    assert (verdict.action, verdict.after, verdict.last_error.action_by) == (Action.PARK, None, ActionBy.FILE)
    assert verdict.last_error.reason == "why"


def test_a_file_that_changed_settles_again() -> None:
    """Its upload is dropped at once, and no failure is counted."""
    verdict = decide(errors.FileChanged("it grew"), FailureHistory(attempts=3), highest)
    assert (verdict.action, verdict.after, verdict.last_error.attempts) == (Action.RESETTLE, 0.0, 3)


def test_a_file_that_changes_again_and_again_waits_longer_and_is_parked() -> None:
    """The pauses grow; after five records it is parked with that reason, and tried again after a day."""
    pauses = [after_changes(times, highest).after for times in range(1, CHANGES_BEFORE_PARKING)]
    assert pauses == sorted(pauses, key=lambda pause: pause or 0.0)
    assert (pauses[0], pauses[-1]) == (0.0, 600.0)
    given_up = after_changes(CHANGES_BEFORE_PARKING, highest)
    assert (given_up.action, given_up.after) == (Action.PARK, 1.1 * DAY)
    assert given_up.last_error.action_by is ActionBy.OPERATOR
    assert "its content has changed 5 times while it was being sent" in given_up.last_error.reason


def test_a_file_that_is_gone_before_anything_was_sent_is_forgotten() -> None:
    """The server knows nothing of it, and a scan finds it when it comes back."""
    verdict = decide(errors.FileMissing("gone"), FailureHistory(begun=False), highest)
    assert (verdict.action, verdict.after) == (Action.RESETTLE, 0.0)


@pytest.mark.parametrize(
    ("error", "turn"),
    [
        (errors.ServerDown("no connection"), ActionBy.UPLOADER),
        (errors.ServerBusy("429", retry_after=9.0), ActionBy.UPLOADER),
        (errors.ServerFull("507"), ActionBy.UPLOADER),
        (errors.NoRoom("500"), ActionBy.UPLOADER),
        (errors.PasswordRefused("401"), ActionBy.OPERATOR),
        (errors.PasswordUnusable("no password"), ActionBy.OPERATOR),
    ],
)
def test_a_server_failure_counts_against_no_file(error: errors.UploaderError, turn: ActionBy) -> None:
    """All calls wait; the failures of the file stay as many as they were."""
    verdict = decide(error, FailureHistory(attempts=100, restarts=100), highest)
    assert (verdict.action, verdict.server_level, verdict.last_error.attempts) == (Action.TRY_AGAIN, True, 100)
    assert verdict.last_error.action_by is turn


def test_a_doubt_waits_for_its_settle_time() -> None:
    """A request that may still arrive is asked about after it, and is no failure."""
    verdict = decide(errors.StillInDoubt("not known", wait=7.5), FailureHistory(attempts=7), highest)
    assert (verdict.action, verdict.after, verdict.last_error.attempts) == (Action.TRY_AGAIN, 7.5, 7)


def test_a_share_that_is_not_ready_is_retried_without_limit() -> None:
    """EIO and similar errors never park a file; the pauses grow."""
    for times, longest in ((0, 8.0), (1, 16.0), (4, 128.0), (100, retry.BACKOFF_CAP)):
        verdict = decide(errors.ShareNotReady("EIO"), FailureHistory(attempts=7, not_ready=times), highest)
        assert (verdict.action, verdict.after) == (Action.TRY_AGAIN, longest)
        # no failure of the file's own
        assert (verdict.last_error.attempts, verdict.last_error.not_ready) == (7, times + 1)


@pytest.mark.parametrize("kind", [errors.ChunkCut, errors.AnswerLost, errors.TokenExpired, errors.CallFailed])
def test_a_transient_failure_is_tried_eight_times(kind: Callable[[str], errors.UploaderError]) -> None:
    """Each retry takes from the server's retry budget; the eighth failure in a row parks the file."""
    for attempts in range(7):
        verdict = decide(kind("cut"), FailureHistory(attempts=attempts), highest)
        assert (verdict.action, verdict.after) == (Action.TRY_AGAIN, min(300.0, 2.0 ** (attempts + 1)))
        assert (verdict.last_error.attempts, verdict.costs) == (attempts + 1, True)
    # For a day; one that every byte of was acknowledged, and whose record is only asked about, for an hour.
    pause = HOUR if kind is errors.CallFailed else DAY
    last = decide(kind("cut"), FailureHistory(attempts=7), highest)
    assert (last.action, last.after, last.last_error.attempts) == (Action.PARK, 1.1 * pause, 8)
    assert decide(kind("cut"), FailureHistory(attempts=7), lowest).after == pytest.approx(0.9 * pause)


@pytest.mark.parametrize("kind", [errors.ChunkCut, errors.AnswerLost, errors.TokenExpired, errors.CallFailed])
def test_a_failure_during_an_outage_counts_against_no_file(kind: Callable[[str], errors.UploaderError]) -> None:
    """Until the server answers again after failing other calls, however many failures there were."""
    verdict = decide(kind("cut"), FailureHistory(attempts=7, outage=True), highest)
    assert (verdict.action, verdict.server_level, verdict.last_error.attempts) == (Action.TRY_AGAIN, True, 7)
    assert not verdict.costs  # its pause is the outage's, which is long enough


@pytest.mark.parametrize("outage", [False, True])
def test_a_chunk_that_is_cut_again_and_again_is_halved(outage: bool) -> None:
    """Rule 5: a limit may cut it without a readable 413. It happens at the fourth cut, also in an outage."""
    for cuts in range(3):
        history = FailureHistory(cuts=cuts, chunk_size=MB, size=9 * MB, outage=outage)
        verdict = decide(errors.ChunkCut("cut"), history, highest)
        assert (verdict.action, verdict.last_error.cuts, verdict.halve_chunk) == (Action.TRY_AGAIN, cuts + 1, False)
    fourth = decide(errors.ChunkCut("cut"), FailureHistory(cuts=3, chunk_size=MB, size=9 * MB, outage=outage), highest)
    assert (fourth.action, fourth.halve_chunk, fourth.last_error.cuts) == (Action.TRY_AGAIN, True, 0)
    assert not fourth.limit_seen  # one file's bad line makes no smaller chunks for the others
    other = decide(errors.CallFailed("500"), FailureHistory(cuts=3, chunk_size=MB, size=9 * MB), highest)
    assert other.last_error.cuts == 3  # what else goes wrong in between does not begin the count anew


def test_a_chunk_that_is_always_cut_is_halved_down_to_the_smallest_before_its_file_is_parked() -> None:
    """Each size gets its tries anew: the cuts of the larger ones do not park the file before the smallest was tried."""
    sizes, chunk_size, history = [16 * MB], 16 * MB, FailureHistory(chunk_size=16 * MB, size=99 * MB)
    while (decision := decide(errors.ChunkCut("cut"), history, highest)).action is Action.TRY_AGAIN:
        if decision.halve_chunk:
            chunk_size = halved(chunk_size, 99 * MB)
            sizes.append(chunk_size)
        history = replace(
            history, attempts=decision.last_error.attempts, cuts=decision.last_error.cuts, chunk_size=chunk_size
        )
    assert decision.action is Action.PARK
    assert sizes == [16 * MB >> step for step in range(9)]
    assert sizes[-1] == SMALLEST_HALVED_CHUNK


@pytest.mark.parametrize("outage", [False, True])
@pytest.mark.parametrize(("chunk_size", "size"), [(0, 99 * MB), (SMALLEST_HALVED_CHUNK, 9 * MB)])
def test_a_cut_chunk_that_cannot_be_smaller_parks_with_its_reason(chunk_size: int, size: int, outage: bool) -> None:
    """A whole file, or the smallest chunk: after eight cuts the operator must look, and the reason says at what."""
    history = FailureHistory(attempts=2, cuts=7, chunk_size=chunk_size, size=size, outage=outage)
    verdict = decide(errors.ChunkCut("upload chunk: the connection broke"), history, highest)
    assert (verdict.action, verdict.last_error.action_by, verdict.after) == (Action.PARK, ActionBy.OPERATOR, 1.1 * DAY)
    assert "8 times: the link breaks, or a limit on the way is below this size" in verdict.last_error.reason


def test_a_definite_refusal_parks_at_once() -> None:
    """The operator must act; it is tried again once a day."""
    verdict = decide(errors.ServerRefused("403", hint="give the right"), FailureHistory(), highest)
    assert (verdict.action, verdict.after, verdict.last_error.action_by) == (Action.PARK, 1.1 * DAY, ActionBy.OPERATOR)
    assert verdict.last_error.reason == "403; give the right"


def test_a_missing_right_is_retried_hourly() -> None:
    """After a 403 the right may be given at any time, so it is tried every hour and not every day."""
    verdict = decide(errors.RightMissing("403"), FailureHistory(), highest)
    assert (verdict.action, verdict.after, verdict.last_error.action_by) == (Action.PARK, 1.1 * HOUR, ActionBy.OPERATOR)


def test_a_refusal_that_may_be_transient_gets_three_tries() -> None:
    """A 500 for a payload is VALT's form of *invalid*, or an accident."""
    actions = [decide(errors.PayloadRefused("500"), FailureHistory(attempts=n), highest).action for n in range(3)]
    assert actions == [Action.TRY_AGAIN, Action.TRY_AGAIN, Action.PARK]


def test_an_unusable_record_is_replaced_five_times() -> None:
    """Each time after a longer pause; then the operator must look."""
    for restarts in range(5):
        verdict = decide(
            errors.RecordSpoilt("x"), FailureHistory(restarts=restarts, chunk_size=MB, size=9 * MB), highest
        )
        assert (verdict.action, verdict.after) == (Action.START_OVER, 2.0 ** (restarts + 1))
        assert (verdict.whole_only, verdict.halve_chunk, verdict.gone, verdict.costs) == (False, False, False, True)
    last = decide(errors.RecordSpoilt("x"), FailureHistory(restarts=5, chunk_size=MB, size=9 * MB), highest)
    assert (last.action, last.last_error.action_by, last.after) == (Action.PARK, ActionBy.OPERATOR, 1.1 * DAY)


def test_a_record_that_is_deleted_twice_parks_the_upload() -> None:
    """It is replaced once, whatever else was replaced before; the second time the operator must look."""
    first = decide(errors.RecordGone("404"), FailureHistory(restarts=3, chunk_size=MB, size=9 * MB), highest)
    assert (first.action, first.gone) == (Action.START_OVER, True)
    second = decide(errors.RecordGone("404"), FailureHistory(gone=1, chunk_size=MB, size=9 * MB), highest)
    assert (second.action, second.last_error.action_by, second.after) == (Action.PARK, ActionBy.OPERATOR, 1.1 * DAY)
    assert "deletes it" in second.last_error.reason


def test_a_refused_range_falls_back_to_the_whole_file() -> None:
    """Rule 5: at once, on a new record, and the server is remembered as whole-only."""
    verdict = decide(errors.ChunkRefused("400"), FailureHistory(chunk_size=MB, size=2 * MB), highest)
    assert (verdict.action, verdict.after) == (Action.START_OVER, 0.0)
    assert (verdict.whole_only, verdict.halve_chunk) == (True, False)


@pytest.mark.parametrize("chunk_size", [0, 2 * MB, 3 * MB])
def test_a_refused_whole_file_parks_for_the_operator(chunk_size: int) -> None:
    """The range was the whole file already, so there is no fallback."""
    verdict = decide(errors.ChunkRefused("400"), FailureHistory(chunk_size=chunk_size, size=2 * MB), highest)
    assert (verdict.action, verdict.last_error.action_by, verdict.whole_only) == (Action.PARK, ActionBy.OPERATOR, False)


def test_a_request_that_is_too_large_is_halved() -> None:
    """Rule 5: however often it happens. Acknowledged bytes stay; without any, a new record is made."""
    for chunk_size, size in ((16 * MB, 99 * MB), (16 * MB, 2 * MB), (SMALLEST_HALVED_CHUNK + 1, 9 * MB)):
        history = FailureHistory(restarts=9, chunk_size=chunk_size, size=size)
        verdict = decide(errors.ChunkTooLarge("413"), history, highest)
        assert (verdict.action, verdict.after, verdict.halve_chunk) == (Action.START_OVER, 0.0, True)
        later = decide(errors.ChunkTooLarge("413"), replace(history, offset=1), highest)
        assert (later.action, later.halve_chunk, later.limit_seen) == (Action.TRY_AGAIN, True, True)


@pytest.mark.parametrize(
    ("chunk_size", "size"), [(0, 99 * MB), (SMALLEST_HALVED_CHUNK, 9 * MB), (MB, SMALLEST_HALVED_CHUNK)]
)
def test_a_request_that_cannot_be_halved_parks_with_its_reason(chunk_size: int, size: int) -> None:
    """A whole-file range, or a chunk so small that the 413 is not about its size."""
    verdict = decide(errors.ChunkTooLarge("413"), FailureHistory(chunk_size=chunk_size, size=size), highest)
    assert (verdict.action, verdict.last_error.action_by, verdict.halve_chunk) == (
        Action.PARK,
        ActionBy.OPERATOR,
        False,
    )
    assert verdict.last_error.reason == "413"


EVERY_ERROR = [
    errors.ServerBusy("x", retry_after=1.0),
    errors.StillInDoubt("x", wait=1.0),
    errors.ServerRefused("x"),
    *(
        kind("x")
        for kind in (
            errors.PayloadRefused,
            errors.FileReplaced,
            errors.RightMissing,
            errors.CallFailed,
            errors.ServerFull,
            errors.NoRoom,
            errors.ServerDown,
            errors.ProxyAnswered,
            errors.DownloadUnavailable,
            errors.ChunkCut,
            errors.AnswerLost,
            errors.TokenExpired,
            errors.RecordGone,
            errors.RecordSpoilt,
            errors.ArrivedSpoilt,
            errors.DownloadUnavailable,
            errors.VideoFailed,
            errors.Unproven,
            errors.NotReadyInTime,
            errors.ChunkRefused,
            errors.ChunkTooLarge,
            errors.ShareNotReady,
            errors.FileChanged,
            errors.FileMissing,
            errors.FileEmpty,
            errors.NotAFile,
            errors.PasswordRefused,
            errors.PasswordUnusable,
        )
    ),
]


def test_every_error_class_is_tested() -> None:
    """The list above has every class of the first two branches of the tree."""
    branches = {*errors.RetryableError.__subclasses__(), *errors.FileError.__subclasses__()}
    assert branches <= {type(error) for error in EVERY_ERROR}


histories = st.builds(
    FailureHistory,
    attempts=st.integers(0, 1000),
    restarts=st.integers(0, 1000),
    cuts=st.integers(0, 100),
    gone=st.integers(0, 100),
    outage=st.booleans(),
    chunk_size=st.integers(0, 2**40),
    size=st.integers(1, 2**50),
)


@given(st.sampled_from(EVERY_ERROR), histories, st.floats(0, 1))
def test_every_error_leads_to_a_reason_and_a_bounded_pause(
    error: errors.UploaderError, history: FailureHistory, chance: float
) -> None:
    """For every history: the pause is not negative and shorter than a year."""
    verdict: Decision = decide(error, history, lambda low, high: low + (high - low) * chance)
    assert verdict.last_error.reason
    assert verdict.after is None or 0 <= verdict.after <= 1.1 * DAY
    assert verdict.after is not None or verdict.action is Action.PARK
    if not verdict.halve_chunk:  # smaller chunks get all their tries
        assert verdict.last_error.attempts in {history.attempts, history.attempts + 1}


@given(st.integers(0, 10_000))
def test_backoff_is_full_jitter_below_five_minutes(attempts: int) -> None:
    """Between 0 and min(300 s, 2^n): clients that failed together do not all come back together."""
    assert retry.backoff(attempts, lowest) == 0.0
    assert retry.backoff(attempts, highest) == min(300.0, 2.0 ** min(attempts, 60))


def test_an_answer_of_a_proxy_is_an_outage_and_a_closed_download_is_none() -> None:
    """The one makes every call wait and blames no file; the other concerns neither the server nor a count."""
    proxys = decide(errors.ProxyAnswered("404 by something before VALT"), FailureHistory(attempts=7), highest)
    assert (proxys.action, proxys.server_level, proxys.last_error.attempts) == (Action.TRY_AGAIN, True, 7)
    closed = decide(errors.DownloadUnavailable("http://valt:8000: refused"), FailureHistory(attempts=7), lowest)
    assert (closed.action, closed.after, closed.server_level, closed.costs) == (Action.PARK, 0.9 * HOUR, False, False)
    assert closed.last_error.attempts == 7


def test_a_busy_server_that_does_not_say_for_how_long_is_asked_again_in_seconds() -> None:
    """Without a Retry-After, as from nginx; pauses of an outage grow from a second on."""
    unsaid = errors.ServerBusy("429", retry_after=retry.retry_after(None, now=EPOCH))
    assert [retry.breaker_pause(unsaid, failures, 0, lowest) for failures in (1, 2, 3)] == [1.0, 2.0, 4.0]


@given(st.integers(1, 10_000))
def test_pauses_of_an_outage_grow(failures: int) -> None:
    """2 to 16 s, as for a restart; from the fifth failure on 30 s, doubling to 15 min; at least half of each."""
    top = 2.0**failures if failures < 5 else min(15 * MINUTE, 30 * 2.0 ** min(failures - 5, 60))
    assert retry.outage_pause(failures, lowest) == top / 2
    assert retry.outage_pause(failures, highest) == top


@pytest.mark.parametrize(
    ("error", "failures", "refusals", "pause"),
    [
        (errors.ServerDown("503"), 1, 1, 2.0),
        (errors.ServerDown("503"), 5, 1, 30.0),
        (errors.ServerBusy("503", retry_after=77.0), 1, 1, 77.0),
        (errors.ServerBusy("503", retry_after=0.0), 3, 1, 8.0),
        (errors.ServerBusy("429", retry_after=1.0), 1, 1, 2.0),
        (errors.AccountShared("401", retry_after=40.0), 1, 1, 40.0),
        (errors.Unreachable("refused"), 5, 1, 30.0),
        (errors.ServerFull("507"), 1, 1, 15 * MINUTE),
        (errors.NoRoom("500"), 1, 1, 15 * MINUTE),
        (errors.PasswordUnusable("no password"), 2, 1, 4.0),
        (errors.PasswordRefused("401"), 9, 1, 5 * MINUTE),
        (errors.PasswordRefused("401"), 0, 3, HOUR),
        (errors.AnswerLost("in an outage"), 2, 1, 4.0),
    ],
)
def test_breaker_pauses_follow_the_table(
    error: errors.UploaderError, failures: int, refusals: int, pause: float
) -> None:
    """By how many failures, or refusals of the password, came in a row."""
    assert retry.breaker_pause(error, failures, refusals, highest) == pause


def test_every_server_error_and_no_other_has_a_breaker_pause() -> None:
    """The table is complete."""
    of_one = {retry.Delay.BACKOFF, retry.Delay.BACKOFF_SLOW, retry.Delay.STATED}
    for kind, rule in retry.RULES:
        assert (rule.delay in of_one) is (rule.scope is not retry.FailureScope.SERVER), kind


def test_the_budget_is_twenty_retries_and_one_for_five_answers() -> None:
    """Without answers the twentieth retry is the last; five answers allow another; at most twenty are saved up."""
    budget = retry.RetryBudget()
    assert [budget.spend() for _ in range(20)] == [False] * 19 + [True]
    for _ in range(9):
        budget.earn()
    assert budget.spend()
    for _ in range(6):
        budget.earn()
    assert not budget.spend()  # of fifteen answers, three retries, one is left
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(20)] == [False] * 19 + [True]


def test_a_wrong_password_is_tried_at_five_fifteen_and_sixty_minutes() -> None:
    """More tries could lock the account; from the third time on it is once an hour."""
    assert [retry.login_pause(n) / MINUTE for n in (0, 1, 2, 3, 4, 1000)] == [5, 5, 15, 60, 60, 60]


def test_a_record_is_looked_at_after_a_quarter_of_its_wait() -> None:
    """Soon at first, at least once a minute; a clock that was set back does no harm."""
    assert [retry.poll_pause(age) for age in (-50.0, 0.0, 4.0, 100.0, 240.0, 1e6)] == [0.5, 0.5, 1.0, 25.0, 60.0, 60.0]


def test_the_ready_timeout_grows_with_the_file() -> None:
    """By one second for each megabyte."""
    assert retry.ready_limit(1800.0, 0) == 1800.0
    assert retry.ready_limit(1800.0, 3_600_000_000) == 5400.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, retry.RETRY_AFTER_DEFAULT),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("0000000000007", 7.0),
        ("999999999999999999999", HOUR),
        ("9" * 5000, HOUR),
        ("-5", retry.RETRY_AFTER_DEFAULT),
        ("1.5", retry.RETRY_AFTER_DEFAULT),
        ("soon", retry.RETRY_AFTER_DEFAULT),
        ("", retry.RETRY_AFTER_DEFAULT),
        ("²", retry.RETRY_AFTER_DEFAULT),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Friday, 15-Jan-27 08:00:30 GMT", 30.0),
        ("Fri Jan 15 08:00:30 2027", 30.0),
        ("Fri, 15 Jan 2027 07:59:30 GMT", 0.0),
        ("Fri, 15 Jan 2027 12:00:00 GMT", HOUR),
        ("Fri, 99 Jan 2027 12:00:00 GMT", retry.RETRY_AFTER_DEFAULT),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    """RFC 9110, 10.2.3, in all three date forms; an invalid value is a minute, the maximum an hour."""
    assert datetime.fromtimestamp(EPOCH, UTC).isoformat() == "2027-01-15T08:00:00+00:00"
    assert retry.retry_after(header, now=EPOCH) == seconds


def test_a_date_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The asctime form means UTC, wherever this machine is."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        seconds = retry.retry_after("Fri Jan 15 08:00:30 2027", now=EPOCH)
    time.tzset()
    assert seconds == 30.0


@given(
    st.one_of(
        st.text(), st.from_regex(r"[A-Za-z]{3}, ?\d+ [A-Za-z]{3} \d+ \d+:\d+:\d+ [+-]?\w+"), st.integers().map(str)
    )
)
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Mon, 01 Jan 9999 00:00:00 -0000")
def test_any_retry_after_is_read_as_at_most_an_hour(header: str) -> None:
    """Whatever a server or a proxy sends."""
    assert 0.0 <= retry.retry_after(header, now=EPOCH) <= HOUR


@given(st.integers(0, 253_000_000_000))
def test_a_date_is_read_back_as_it_was_written(moment: int) -> None:
    """The pause is the time until that date, within its bounds."""
    date = format_datetime(datetime.fromtimestamp(moment, UTC), usegmt=True)
    assert retry.retry_after(date, now=EPOCH) == min(HOUR, max(0.0, moment - EPOCH))

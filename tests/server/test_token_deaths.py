"""Two clients on one account: recognised by tokens that end soon after their log-in, one after the other."""

from __future__ import annotations

from uploader.server.valt.token_deaths import MEMORY, PAUSE_CAP, SHARED_AFTER, SHORT_LIFE, TokenDeaths


def after(*ages: float, gap: float = 10.0) -> tuple[TokenDeaths, float]:
    """Let tokens end at these ages, one every *gap* seconds; what is known then, and the time."""
    deaths, now = TokenDeaths(), 5000.0
    for age in ages:
        now += gap
        deaths.ended(age, now)
    return deaths, now


def test_three_tokens_that_end_soon_are_another_program() -> None:
    """Two may be a server that was restarted; the third is no accident."""
    assert not after(1.0, 1.0)[0].shared
    deaths, now = after(1.0, 90.0, SHORT_LIFE - 1)
    assert deaths.shared
    error = deaths.error("create record: answered 401", now)
    assert str(error) == (
        "create record: answered 401; another program logs in as this user; give each uploader an account of its own"
    )
    assert str(after(1.0)[0].error("x", 0.0)).startswith("x; if this goes on, another program")


def test_log_ins_are_spaced_ever_further() -> None:
    """From 5 s, doubling to 5 minutes; none is spaced before the third such token."""
    waits = []
    for count in range(1, 12):
        deaths, now = after(*[1.0] * count)
        waits.append(deaths.wait(now))
    assert waits == [0.0, 0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]
    deaths, now = after(1.0, 1.0, 1.0)
    assert (deaths.wait(now + 4.0), deaths.wait(now + 5.0)) == (1.0, 0.0)


def test_a_fight_for_an_hour_costs_few_log_ins() -> None:
    """Each token ends at once, whatever is done."""
    deaths, now, log_ins = TokenDeaths(), 5000.0, 0
    while now < 5000.0 + 3600.0:
        now += deaths.wait(now)
        log_ins += 1
        deaths.ended(0.1, now)
    assert log_ins <= 2 + 7 + 3600 / PAUSE_CAP


def test_a_token_that_works_for_minutes_ends_the_suspicion() -> None:
    """Also one that ends after that; a call that succeeds at once does not: the other program may log in next."""
    deaths, now = after(1.0, 1.0, 1.0)
    deaths.worked(1.0)
    assert deaths.wait(now) > 0
    deaths.worked(SHORT_LIFE)
    assert deaths.wait(now) == 0.0
    assert not after(1.0, 1.0, SHORT_LIFE, 1.0)[0].shared
    assert not after(1.0, 1.0, 1.0, gap=MEMORY + 1.0)[0].shared


def test_a_missing_right_is_no_other_program() -> None:
    """Each new token is refused for one call, and is valid for another: that is taken back every time."""
    deaths = TokenDeaths()
    for _ in range(50):
        deaths.ended(0.1, 5000.0)
        deaths.was_valid()
    assert not deaths.shared
    assert not deaths.in_vain


def test_two_tokens_that_never_worked_are_enough_to_stop() -> None:
    """A third log-in at once would hardly help; a call that succeeds in between begins the count anew."""
    deaths, _ = after(20_000.0, 0.1)
    assert deaths.in_vain
    deaths, now = after(20_000.0)
    deaths.worked(0.1)
    deaths.ended(0.2, now)
    assert not deaths.in_vain


def test_the_operator_may_have_it_tried_at_once() -> None:
    """After ``retry`` nothing is spaced: SHARED_AFTER more tokens must end first."""
    deaths, now = after(*[1.0] * 9)
    deaths.log_in_now()
    assert deaths.wait(now) == 0.0
    for _ in range(SHARED_AFTER):
        deaths.ended(1.0, now)
    assert deaths.shared

"""An outage is one event at its beginning and one at its end, by a virtual clock."""

from __future__ import annotations

import pytest
from fakes import VirtualClock

from uploader.domain import errors, events, retry
from uploader.server.outage_report import OutageReport

DOWN = errors.ServerDown("upload chunk: answered 503")


class Reported:
    """A report, and what it has published."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.said: list[events.Event] = []
        bus = events.Bus()
        bus.listen(self.said.append)
        self.report = OutageReport(self.clock, bus)

    def names(self) -> list[str]:
        """The events that a log at level info shows."""
        return [event.name() for event in self.said if event.level != "debug"]


async def test_calls_that_fail_and_succeed_in_turns_are_one_outage() -> None:
    """As with a rate limit: forty failures, two answers after each, are one beginning and one end."""
    line = Reported()
    for _ in range(40):
        line.report.failed(DOWN, 1.0)
        await line.clock.advance(1.0)
        line.report.answered()
        line.report.answered()
        await line.clock.advance(1.0)
    assert line.names() == ["outage-began"]
    assert [event.name() for event in line.said] == ["outage-began"] + 39 * ["outage-continues"]
    await line.clock.advance(retry.OUTAGE_OVER_AFTER)
    assert line.names() == ["outage-began", "outage-ended"]
    assert line.said[-1] == events.OutageEnded(39 * 2.0 + 1.0)  # until the first answer after the last failure


async def test_many_good_answers_end_an_outage_at_once() -> None:
    """A busy daemon need not wait for the time to pass; the next failure begins another outage."""
    line = Reported()
    line.report.failed(DOWN, 2.0)
    for _ in range(retry.OUTAGE_OVER_ANSWERS - 1):
        line.report.answered()
    assert line.names() == ["outage-began"]
    line.report.answered()
    assert line.names() == ["outage-began", "outage-ended"]
    await line.clock.advance(retry.OUTAGE_OVER_AFTER)
    assert line.names() == ["outage-began", "outage-ended"]
    line.report.failed(DOWN, 2.0)
    assert line.names()[2:] == ["outage-began"]


async def test_a_failure_stops_the_time_until_the_end() -> None:
    """The thirty seconds begin anew with the next answer."""
    line = Reported()
    line.report.failed(DOWN, 2.0)
    line.report.answered()
    await line.clock.advance(retry.OUTAGE_OVER_AFTER - 1)
    line.report.failed(DOWN, 2.0)
    await line.clock.advance(100 * retry.OUTAGE_OVER_AFTER)
    assert line.names() == ["outage-began"]


@pytest.mark.parametrize(
    "other", [errors.PasswordRefused("401"), errors.ServerFull("507"), errors.AccountShared("401", retry_after=5.0)]
)
async def test_an_outage_for_which_somebody_else_must_act_is_published_again(other: errors.UploaderError) -> None:
    """First the server was down, then it refuses the password: an operator must learn that."""
    line = Reported()
    line.report.failed(DOWN, 2.0)
    line.report.failed(other, 300.0)
    line.report.failed(other, 300.0)
    assert line.names() == ["outage-began", "outage-began"]
    assert line.said[1] == events.OutageBegan(str(other), 300.0)


async def test_answers_without_an_outage_are_no_event() -> None:
    """Nothing began, so nothing ends."""
    line = Reported()
    for _ in range(100):
        line.report.answered()
    await line.clock.advance(100.0)
    assert line.said == []

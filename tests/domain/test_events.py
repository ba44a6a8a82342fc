"""Events: each kind has one name, and the bus passes each event to every listener in order."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from functools import partial

import pytest

from uploader.domain import events
from uploader.domain.events import Bus, Event

EVERY = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)][1:]


def test_every_event_has_one_name_in_kebab_case() -> None:
    """Code, log and page use the same name, and no two kinds share one."""
    names = [kind.name() for kind in EVERY]
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)
    assert len(set(names)) == len(names)
    assert events.ChunkAcknowledged.name() == "chunk-acknowledged"


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: str(kind.name()))
def test_an_event_is_a_frozen_value(kind: type[Event]) -> None:
    """It has a level and a docstring, and no listener can change it."""
    assert dataclasses.is_dataclass(kind)
    assert kind.level in {None, "debug", "info", "warning", "error"}
    assert kind.__doc__
    event = kind(*range(len(dataclasses.fields(kind))))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, dataclasses.fields(kind)[0].name, "another")


def test_every_listener_gets_every_event_in_order() -> None:
    """At once, in the order in which the listeners were added."""
    bus, heard = Bus(), list[tuple[str, Event]]()
    bus.listen(lambda event: heard.append(("first", event)))
    bus.listen(lambda event: heard.append(("second", event)))
    one, two = events.Stopped(1), events.Stopped(2)
    bus.publish(one)
    bus.publish(two)
    assert heard == [("first", one), ("second", one), ("first", two), ("second", two)]


def test_a_removed_listener_gets_no_more_events() -> None:
    """Removing it during an event takes nothing from the others."""
    bus, heard = Bus(), list[str]()

    def once(_: Event) -> None:
        heard.append("once")
        leave()

    leave = bus.listen(once)
    bus.listen(lambda _: heard.append("always"))
    bus.publish(events.Stopped(1))
    bus.publish(events.Stopped(2))
    assert heard == ["once", "always", "always"]


class Log:
    """Stands in for the log; ``broken``: it cannot be written either."""

    def __init__(self, *, broken: bool = False) -> None:
        self.lines: list[dict[str, str]] = []
        self.broken = broken

    def exception(self, event: str, **values: str) -> None:
        """Take a line."""
        self.lines.append({"event": event, **values})
        if self.broken:
            raise OSError("no room for a log")


def fails(event: Event) -> None:
    """A listener with a bug."""
    raise ValueError(event.name())


def test_a_listener_that_raises_affects_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher goes on, and so do the listeners before and after it."""
    monkeypatch.setattr(events, "log", Log())
    bus, heard = Bus(), list[str]()
    bus.listen(lambda _: heard.append("before"))
    bus.listen(fails)
    bus.listen(lambda _: heard.append("after"))
    bus.publish(events.Stopped(1))
    assert heard == ["before", "after"]


def test_a_listener_that_raises_is_logged_once_for_each_kind_of_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fail at every chunk; each listener counts by itself."""
    monkeypatch.setattr(events, "log", log := Log())
    bus, other = Bus(), partial(fails)
    bus.listen(fails)
    for event in (events.Stopped(1), events.Stopped(2), events.FolderBack("/rec"), events.FolderBack("/rec")):
        bus.publish(event)
    assert log.lines == [
        {"event": "listener-failed", "listener": "fails", "told": "Stopped(unfinished=1)"},
        {"event": "listener-failed", "listener": "fails", "told": "FolderBack(folder='/rec')"},
    ]
    bus.listen(other)
    bus.publish(events.Stopped(3))
    assert len(log.lines) == 3


def test_a_log_that_fails_too_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is a listener, and may be the one that raises."""
    monkeypatch.setattr(events, "log", log := Log(broken=True))
    bus, heard = Bus(), list[Event]()
    bus.listen(fails)
    bus.listen(heard.append)
    bus.publish(events.Stopped(1))
    assert (len(heard), len(log.lines)) == (1, 1)


@pytest.mark.parametrize("ending", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_cancellation_and_the_end_of_the_process_pass_through(ending: type[BaseException]) -> None:
    """They are not errors of a listener."""

    def end(_: Event) -> None:
        raise ending

    bus = Bus()
    bus.listen(end)
    with pytest.raises(ending):
        bus.publish(events.Stopped(1))

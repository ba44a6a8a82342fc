"""Events: one name each, and a bus that tells everybody in order."""

from __future__ import annotations

import dataclasses
import re

import pytest

from uploader import events
from uploader.events import Bus, Event

EVERY = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)][1:]


def test_every_event_has_one_name_in_kebab_case() -> None:
    """The same word in code, log and page, and no two alike."""
    names = [kind.name() for kind in EVERY]
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)
    assert len(set(names)) == len(names)
    assert events.ChunkAcknowledged.name() == "chunk-acknowledged"


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: str(kind.name()))
def test_an_event_is_a_frozen_value(kind: type[Event]) -> None:
    """It says how loud it is, why it exists, and cannot be changed by a listener."""
    assert dataclasses.is_dataclass(kind)
    assert kind.level in {None, "debug", "info", "warning", "error"}
    assert kind.__doc__
    event = kind(*range(len(dataclasses.fields(kind))))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, dataclasses.fields(kind)[0].name, "another")


def test_everybody_hears_everything_in_order() -> None:
    """At once, each listener in the order in which they came."""
    bus, heard = Bus(), list[tuple[str, Event]]()
    bus.listen(lambda event: heard.append(("first", event)))
    bus.listen(lambda event: heard.append(("second", event)))
    one, two = events.Stopped(1), events.Stopped(2)
    bus.publish(one)
    bus.publish(two)
    assert heard == [("first", one), ("second", one), ("first", two), ("second", two)]


def test_a_listener_that_leaves_hears_no_more() -> None:
    """Even one that leaves while it is being told takes nothing from the others."""
    bus, heard = Bus(), list[str]()

    def once(_: Event) -> None:
        heard.append("once")
        leave()

    leave = bus.listen(once)
    bus.listen(lambda _: heard.append("always"))
    bus.publish(events.Stopped(1))
    bus.publish(events.Stopped(2))
    assert heard == ["once", "always", "always"]

"""Converts texts with units to numbers and back: durations, sizes, rates and the week's bandwidth steps. Pure.

A text that could mean two things (``20 Mb/s``: bits or bytes?) is refused, with an example of what is accepted.
Numbers are seconds, bytes and bytes per second; 1 kB is 1000 bytes, 1 KiB is 1024.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ByteSize, TypeAdapter, ValidationError

from uploader.domain.model import shown

SMALLEST_CHUNK: Final = 64 * 1024  # bytes; a smaller request has more overhead than content

_NUMBER: Final = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"  # bounded, so that no number becomes an infinite float
_TOO_LARGE: Final = 10**15
_DURATION: Final = re.compile(_NUMBER + r"\s*(ms|s|min|m|h|d|)")
_SIZE: Final = re.compile(_NUMBER + r"\s*[a-z]*", re.IGNORECASE)  # ByteSize itself ignores what follows a unit
_RATE: Final = re.compile(_NUMBER + r"\s*([kmgtKMGT]i?)?(bit|B)/s")
_DAY: Final = r"(?:mon|tue|wed|thu|fri|sat|sun)"
_DAYS: Final = rf"{_DAY}(?:-{_DAY})?"
_STEP_TIME: Final = re.compile(
    rf"(?:({_DAYS}(?:\s*,\s*{_DAYS})*)\s+)?([01]?[0-9]|2[0-3]):([0-5][0-9])", re.IGNORECASE | re.ASCII
)
_SECONDS: Final = {"ms": 0.001, "s": 1, "": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_BYTES: Final = TypeAdapter(ByteSize)

_AS_DURATION: Final = 'a duration like "10s", "500ms", "1.5h" or "2d"'
_AS_SIZE: Final = 'a size like "16 MiB" or "1 GB"'
_AS_RATE: Final = 'a rate like "20 Mbit/s" or "2.5 MB/s"'
_AS_SCHEDULE: Final = '"unlimited", a rate like "20 Mbit/s", or steps like [["08:00", "20 Mbit/s"], …]'
_AS_TIME: Final = 'a time of day like "08:00" or "mon-fri 08:00"'

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")  # as ``datetime.weekday`` counts them
EVERY_DAY: Final = frozenset(range(7))


@dataclass(frozen=True, slots=True)
class RateStep:
    """The limit from this minute of these local days on (0: Monday), in bytes per second; ``None``: no limit."""

    minute: int
    bytes_per_second: float | None
    days: frozenset[int] = EVERY_DAY


UNLIMITED: Final = (RateStep(0, None),)


def parse_duration(value: object) -> float:
    """Return the seconds of ``"10s"``, ``"500ms"``, ``"1.5h"``, ``"2d"``, ``"5 min"`` or a bare number of seconds.

    Raises ValueError when it is anything else, negative or not finite.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _TOO_LARGE:
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise _expected(_AS_DURATION, value)
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Return the bytes of ``"16 MiB"``, ``"1 GB"`` or a bare whole number of bytes.

    Raises ValueError when it is anything else or negative.
    """
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _SIZE.fullmatch(text.strip()):
        raise _expected(_AS_SIZE, value)
    try:
        return int(_BYTES.validate_python(text.strip()))
    except ValidationError:
        raise _expected(_AS_SIZE, value) from None


def parse_chunk_size(value: object) -> int:
    """Return the bytes of a chunk like ``parse_size``, and 0 for ``"whole"``: the whole file as one range.

    Raises ValueError when it is anything else or less than ``SMALLEST_CHUNK``.
    """
    if value == "whole":
        return 0
    try:
        size = parse_size(value)
    except ValueError:
        raise _expected('a size like "16 MiB" or "whole"', value) from None
    if size < SMALLEST_CHUNK:
        raise _expected('at least "64 KiB", or "whole"', value)
    return size


def parse_rate(value: object) -> float:
    """Return the bytes per second of ``"20 Mbit/s"`` or ``"2.5 MB/s"``; at least 1.

    ``Mb/s`` is refused: it is used for bits and for bytes.
    Raises ValueError when it is anything else.
    """
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise _expected(_AS_RATE, value)
    rate = float(_BYTES.validate_python(f"{match[1]} {match[2] or ''}{match[3]}"))
    if rate < 1:
        raise _expected(f"{_AS_RATE}, at least 1 B/s", value)
    return rate


def parse_schedule(value: object) -> tuple[RateStep, ...]:
    """Return the week's bandwidth: ``"unlimited"``, one rate, or ``[["08:00", rate], ["sat,sun 00:00", rate], ...]``.

    Steps may come in any order; the result is sorted by ``in_order``. Raises ValueError when it is anything else.
    """
    return in_order(tuple(taken(step) for step in schedule_steps(value)))


def schedule_steps(value: object) -> tuple[RateStep | ValueError, ...]:
    """Return each step of a bandwidth, or what is wrong with it, so that all faults are reported at once.

    A time that an earlier step has is a fault. Raises ValueError when there are no steps.
    """
    if isinstance(value, str):
        return (RateStep(0, _rate_or_unlimited(value)),)
    if not isinstance(value, Sequence) or not value:
        raise _expected(_AS_SCHEDULE, value)
    found: list[RateStep | ValueError] = []
    earlier: set[tuple[int, int]] = set()
    for item in value:
        try:
            step = item if isinstance(item, RateStep) else _step(item)
        except ValueError as fault:
            found.append(fault)
            continue
        twice = [day for day in sorted(step.days) if (day, step.minute) in earlier]
        found.append(_given_twice(step.minute, twice) if twice else step)
        earlier |= {(day, step.minute) for day in step.days}
    return tuple(found)


def _given_twice(minute: int, days: Sequence[int]) -> ValueError:
    on = "" if len(days) == len(DAYS) else " on " + ", ".join(DAYS[day] for day in days)
    return ValueError(f"{minute // 60:02}:{minute % 60:02} is given twice{on}")


def taken(step: RateStep | ValueError) -> RateStep:
    """Return the step, or raise it when it is a fault."""
    if isinstance(step, ValueError):
        raise step
    return step


def in_order(steps: Sequence[RateStep]) -> tuple[RateStep, ...]:
    """Return the steps in the order of the day. Where every day is the same, the first is always at minute 0.

    The last step of a day holds until the first one of the next day.
    """
    ordered = sorted(steps, key=lambda step: (step.minute, sorted(step.days)))
    if ordered[0].minute > 0 and all(step.days == EVERY_DAY for step in ordered):
        ordered.insert(0, RateStep(0, ordered[-1].bytes_per_second))
    return tuple(ordered)


def _step(value: object) -> RateStep:
    match value:
        case [str(time), rate]:
            parts = _STEP_TIME.fullmatch(time.strip())
            if parts is None:
                raise _expected(_AS_TIME, time)
            minute = int(parts[2]) * 60 + int(parts[3])
            return RateStep(minute, _rate_or_unlimited(rate), _days(parts[1]) if parts[1] else EVERY_DAY)
        case _:
            raise _expected('steps like ["08:00", "20 Mbit/s"]', value)


def _days(text: str) -> frozenset[int]:
    """Return the days of ``sat,sun`` or ``mon-fri``; a range may cross the end of the week."""
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.strip().partition("-")
        start = DAYS.index(first)
        length = (DAYS.index(last or first) - start) % len(DAYS) + 1
        days |= {(start + after) % len(DAYS) for after in range(length)}
    return frozenset(days)


def _rate_or_unlimited(value: object) -> float | None:
    if isinstance(value, str) and value.strip() == "unlimited":
        return None
    try:
        return parse_rate(value)
    except ValueError:
        raise _expected(f'"unlimited" or {_AS_RATE}', value) from None


def format_bytes(count: float) -> str:
    """Format ``1536`` as ``"1.5 KiB"``: binary units, three digits at most below 1000."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_rate(bytes_per_second: float) -> str:
    """Format ``2_500_000`` as ``"20 Mbit/s"``: bits and decimal units, as usual for networks."""
    return _scaled(bytes_per_second * 8, 1000, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"))


def format_duration(seconds: float) -> str:
    """Format ``5400`` as ``"1 h 30 min"``: the two largest units. Negative counts as zero."""
    if 0 < seconds < 0.9995:
        return f"{max(round(seconds * 1000), 1)} ms"
    if 0 < seconds < 9.95:
        return f"{_trimmed(seconds, 1)} s"
    whole = round(max(seconds, 0))
    for size, unit, rest_size, rest_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // rest_size
            return f"{whole // size} {unit}" + (f" {rest} {rest_unit}" if rest else "")
    return f"{whole} s"


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    scaled, steps = float(value), 0
    while scaled >= base - 0.5 and steps < len(units) - 1:  # what rounds up to the next unit is written in that
        scaled /= base
        steps += 1
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{_trimmed(scaled, digits)} {units[steps]}"


def _trimmed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _expected(what: str, value: object) -> ValueError:
    return ValueError(f"expected {what}, got {quoted(value)}")


def quoted(value: object) -> str:
    """Return a configured value as a person would write it, short and on one line."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{shown(value, 60)}"'
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return shown(str(value), 60)

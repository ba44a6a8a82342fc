"""Human units to numbers and back: durations, sizes, rates and the day's bandwidth steps.

Pure. Must never guess: a text that could mean two things (``20 Mb/s``: bits or bytes?) is refused with an
example of what is understood. Seconds, bytes and bytes per second throughout; 1 kB is 1000 bytes, 1 KiB 1024.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ByteSize, TypeAdapter, ValidationError

from uploader.model import shown

SMALLEST_CHUNK: Final = 64 * 1024  # bytes; below this a request's own overhead outweighs what it carries

_NUMBER: Final = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"  # bounded, so that nothing becomes an infinite float
_TOO_LARGE: Final = 10**15
_DURATION: Final = re.compile(_NUMBER + r"\s*(ms|s|min|m|h|d|)")
_SIZE: Final = re.compile(_NUMBER + r"\s*[a-z]*", re.IGNORECASE)  # ByteSize itself ignores what follows a unit
_RATE: Final = re.compile(_NUMBER + r"\s*([kmgtKMGT]i?)?(bit|B)/s")
_TIME_OF_DAY: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_SECONDS: Final = {"ms": 0.001, "s": 1, "": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_BYTES: Final = TypeAdapter(ByteSize)

_AS_DURATION: Final = 'a duration like "10s", "500ms", "1.5h" or "2d"'
_AS_SIZE: Final = 'a size like "16 MiB" or "1 GB"'
_AS_RATE: Final = 'a rate like "20 Mbit/s" or "2.5 MB/s"'
_AS_SCHEDULE: Final = '"unlimited", a rate like "20 Mbit/s", or steps like [["08:00", "20 Mbit/s"], …]'


@dataclass(frozen=True, slots=True)
class RateStep:
    """From this minute of the local day on, this many bytes per second; ``None`` is no limit."""

    minute: int
    bytes_per_second: float | None


UNLIMITED: Final = (RateStep(0, None),)


def parse_duration(value: object) -> float:
    """Seconds from ``"10s"``, ``"500ms"``, ``"1.5h"``, ``"2d"``, ``"5 min"`` or a bare number of seconds.

    Raises ValueError when it is anything else, negative or not finite.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _TOO_LARGE:
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise _expected(_AS_DURATION, value)
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Bytes from ``"16 MiB"``, ``"1 GB"`` or a bare whole number of bytes.

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
    """Bytes of a chunk like ``parse_size``, and 0 for ``"whole"``: the whole file as one range.

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
    """Bytes per second from ``"20 Mbit/s"`` or ``"2.5 MB/s"``; at least 1.

    ``Mb/s`` is refused: half of its readers mean bits, the other half bytes.
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
    """The day's bandwidth from ``"unlimited"``, one rate, or ``[["08:00", rate], ...]`` in any order.

    The result is in the order of the day and its first step is always at minute 0: what the latest step sets
    holds until the earliest one of the next day. Raises ValueError when it is anything else.
    """
    if isinstance(value, str):
        return (RateStep(0, _rate_or_unlimited(value)),)
    if not isinstance(value, Sequence) or not value:
        raise _expected(_AS_SCHEDULE, value)
    if all(isinstance(step, RateStep) for step in value):
        return tuple(value)
    steps = sorted((_step(step) for step in value), key=lambda step: step.minute)
    minutes = [step.minute for step in steps]
    if len(set(minutes)) < len(minutes):
        raise ValueError("the same time of day is given twice")
    if minutes[0] > 0:
        steps.insert(0, RateStep(0, steps[-1].bytes_per_second))
    return tuple(steps)


def _step(value: object) -> RateStep:
    match value:
        case [str(time), rate]:
            clock = _TIME_OF_DAY.fullmatch(time.strip())
            if clock is None:
                raise _expected('a time of day like "08:00"', time)
            return RateStep(int(clock[1]) * 60 + int(clock[2]), _rate_or_unlimited(rate))
        case _:
            raise _expected('steps like ["08:00", "20 Mbit/s"]', value)


def _rate_or_unlimited(value: object) -> float | None:
    if isinstance(value, str) and value.strip() == "unlimited":
        return None
    try:
        return parse_rate(value)
    except ValueError:
        raise _expected(f'"unlimited" or {_AS_RATE}', value) from None


def format_bytes(count: float) -> str:
    """``1536`` becomes ``"1.5 KiB"``: three digits at most below 1000, binary units."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_rate(bytes_per_second: float) -> str:
    """``2_500_000`` becomes ``"20 Mbit/s"``: networks are counted in bits, and in thousands."""
    return _scaled(bytes_per_second * 8, 1000, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"))


def format_duration(seconds: float) -> str:
    """``5400`` becomes ``"1 h 30 min"``: the two largest units that matter. Negative counts as zero."""
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
    while scaled >= base - 0.5 and steps < len(units) - 1:  # what would round up to the next unit is written in it
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
    """A configured value as a person would write it, short and on one line."""
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

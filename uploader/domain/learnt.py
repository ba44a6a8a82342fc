"""Says in words what was learnt about the server and makes uploads slower, until when, and how to forget it. Pure."""

from __future__ import annotations

from datetime import datetime

from uploader.domain.model import ServerCapabilities
from uploader.domain.units import format_bytes

NAMELESS = "records are created without a name"


def limits(capabilities: ServerCapabilities, *, now: float) -> list[str]:
    """Return one sentence for each limit of the server that is in force."""
    found = []
    if capabilities.chunk_limit is not None and (until := capabilities.chunk_limit_until or 0.0) > now:
        found.append(
            f"chunks of at most {format_bytes(capabilities.chunk_limit)} until {_date(until)}: larger requests were "
            "refused; to try larger ones now, type: valt-uploader retry"
        )
    if (until := capabilities.whole_only_until or 0.0) > now:
        found.append(
            f"whole files in one request until {_date(until)}: chunks were refused or spoilt; to find out anew, type: "
            "valt-uploader check --probe"
        )
    if (until := capabilities.nameless_until or 0.0) > now:
        then = "it refuses the name afterwards, too: records stay without one" if capabilities.names_refused else ""
        then = then or "the name is given to each record afterwards"
        found.append(f"{NAMELESS} until {_date(until)}: creating one with a name was refused; {then}")
    return found


def _date(moment: float) -> str:
    """Format a time as a local date; it is one that this program has saved, at most some weeks ahead."""
    try:
        return datetime.fromtimestamp(moment).astimezone().date().isoformat()
    except (ValueError, OverflowError, OSError):  # the state was written by somebody else
        return f"@{moment:.0f}"

"""Shows the simulator's records: as frozen values, as JSON and as one plain web page.

Names come from outside and are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from uploader.domain.model import RecordSharing, shown
from uploader.testing.simulator.records import Record, Records
from uploader.testing.simulator.semantics import ContentRange


@dataclass(frozen=True, slots=True)
class RecordView:
    """One record as it stands now. Sizes are bytes, *created* is Unix seconds."""

    id: str
    video: str
    name: str
    template: dict[str, str]
    share: RecordSharing
    status: str  # "incomplete", "created", then "ready" or the word of the settings
    size: int  # bytes the receiver holds, strays not counted
    sha256: str | None  # hexadecimal, of a complete video
    requests: int  # upload requests that the application saw
    ranges: tuple[ContentRange, ...]  # those it took, in the order they came
    strays: tuple[int, ...]  # sizes of the stray files beside the video
    created: float
    path: Path  # of the video's bytes


def view(records: Records, record: Record, now: float, processing: float, processed: str = "ready") -> RecordView:
    """Return *record* as it is at the time *now* (Unix seconds). *processing* and *processed*: as ``Record.status``."""
    return RecordView(
        id=record.id,
        video=record.video,
        name=record.spec.name,
        template=dict(record.spec.template),
        share=record.spec.share,
        status=record.status(now, processing, processed),
        size=record.held.sizes[0],
        sha256=record.sha256,
        requests=record.requests,
        ranges=tuple(record.ranges),
        strays=record.held.sizes[1:],
        created=record.created,
        path=records.path(record),
    )


def as_json(seen: RecordView) -> dict[str, object]:
    """Return a record for ``/simulator/records``."""
    return {
        "id": seen.id,
        "video": seen.video,
        "name": seen.name,
        "template": seen.template,
        "share": {"users": seen.share.users, "groups": seen.share.groups},
        "status": seen.status,
        "size": seen.size,
        "sha256": seen.sha256,
        "requests": seen.requests,
        "ranges": [str(chunk) for chunk in seen.ranges],
        "strays": seen.strays,
        "created": seen.created,
    }


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="5">
<title>VALT simulator</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem; color: #1b1f24; background: #fff; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3rem 1rem .3rem 0; text-align: left; border-bottom: 1px solid #d0d7de; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
code {{ font-size: .8rem; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>VALT simulator</h1>
<p>{count} on this server; kind of receiver: <b>{semantics}</b>.</p>
<table>
<thead><tr><th>Name</th><th>Status</th><th>Bytes</th><th>SHA-256</th><th>Requests</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def as_page(seen: Iterable[RecordView], semantics: str) -> str:
    """Return all records as one self-contained page, the newest first."""
    rows = [_row(record) for record in seen][::-1]
    count = "1 record" if len(rows) == 1 else f"{len(rows)} records"
    return _PAGE.format(count=count, semantics=escape(semantics), rows="\n".join(rows))


def _row(record: RecordView) -> str:
    strays = f" and {sum(record.strays):,} astray" if record.strays else ""
    return (
        f"<tr><td>{escape(shown(record.name))}</td><td>{escape(record.status)}</td>"
        f'<td class="number">{record.size:,}{strays}</td>'
        f'<td><code>{record.sha256 or ""}</code></td><td class="number">{record.requests}</td></tr>'
    )

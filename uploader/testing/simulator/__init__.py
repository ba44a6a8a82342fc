"""The built-in VALT server: every call and failure of docs/protocol.md, nine kinds of receiver, faults on demand.

Tests and commands start a ``Simulator``. The daemon reaches it only over HTTP, like any server.

    server.py      HTTP: receives requests, applies faults, sends answers
    api.py         what each call does
    balancer.py    two nodes behind a load balancer with a sticky cookie; pure
    downloads.py   serves the videos behind download links
    settings.py    what kind of server it is
    wire.py        payloads and answers as values; pure
    responses.py   sends answers
    intake.py      receives request bodies
    semantics.py   what a chunk means to each kind of receiver; pure
    records.py     the records on disk
    durations.py   how long the videos play
    transcoding.py other bytes from a video
    tokens.py      access tokens and download links
    faults.py      scripted faults
    page.py        the records as a web page and JSON
    command.py     ``valt-uploader simulate``

Touches: ports of the loopback, a folder of its own.
Imports: container, domain, runtime.
"""

from uploader.testing.simulator.downloads import SeenDownload
from uploader.testing.simulator.faults import CallName, Fault, FaultKind
from uploader.testing.simulator.page import RecordView
from uploader.testing.simulator.semantics import (
    FAITHFUL,
    SPOILING,
    ContentRange,
    Held,
    Semantics,
    Taken,
    parse_content_range,
    receive,
    write_into,
)
from uploader.testing.simulator.server import SeenCall, Simulator
from uploader.testing.simulator.settings import DownloadKind, Settings

__all__ = [
    "FAITHFUL",
    "SPOILING",
    "CallName",
    "ContentRange",
    "DownloadKind",
    "Fault",
    "FaultKind",
    "Held",
    "RecordView",
    "SeenCall",
    "SeenDownload",
    "Semantics",
    "Settings",
    "Simulator",
    "Taken",
    "parse_content_range",
    "receive",
    "write_into",
]

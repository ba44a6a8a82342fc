"""The built-in VALT server: every call and failure of protocol.md, five kinds of receiver, faults on demand.

Tests and commands start a ``Simulator``. The daemon reaches it only over HTTP, like any server.

    server.py      HTTP: receives requests, applies faults, sends answers
    api.py         what each call does
    wire.py        payloads and answers as values; pure
    intake.py      receives request bodies
    semantics.py   what a chunk means to each kind of receiver; pure
    records.py     the records on disk
    tokens.py      access tokens and download links
    faults.py      scripted faults
    page.py        the records as a web page and JSON
    command.py     ``valt-uploader simulate``

Touches: a port of the loopback, a folder of its own.
Imports: domain, runtime.
"""

from uploader.testing.simulator.api import Settings
from uploader.testing.simulator.faults import CallName, Fault, FaultKind
from uploader.testing.simulator.page import RecordView
from uploader.testing.simulator.semantics import ContentRange, Held, Semantics, Taken, parse_content_range, receive
from uploader.testing.simulator.server import SeenCall, Simulator

__all__ = [
    "CallName",
    "ContentRange",
    "Fault",
    "FaultKind",
    "Held",
    "RecordView",
    "SeenCall",
    "Semantics",
    "Settings",
    "Simulator",
    "Taken",
    "parse_content_range",
    "receive",
]

"""The built-in VALT server: every call and failure of protocol.md, five kinds of receiver, faults on demand.

``Simulator`` is all that a test or a command needs. Must never be reached by the product's own stages: they talk to
it over HTTP like to any server.

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

"""The built-in VALT server: every call and failure of protocol.md, five kinds of receiver, faults on demand.

``Simulator`` is all that a test or a command needs. Must never be reached by the product's own stages: they talk to
it over HTTP like to any server.
"""

from uploader.simulator.api import Settings
from uploader.simulator.faults import CallName, Fault, FaultKind
from uploader.simulator.page import RecordView
from uploader.simulator.semantics import ContentRange, Held, Semantics, Taken, parse_content_range, receive
from uploader.simulator.server import Call, Simulator

__all__ = [
    "Call",
    "CallName",
    "ContentRange",
    "Fault",
    "FaultKind",
    "Held",
    "RecordView",
    "Semantics",
    "Settings",
    "Simulator",
    "Taken",
    "parse_content_range",
    "receive",
]

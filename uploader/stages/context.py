"""The objects that all stages share."""

from __future__ import annotations

from dataclasses import dataclass

from uploader.domain import events
from uploader.files import Shares
from uploader.runtime.clock import Clock
from uploader.stages.lease import Leases
from uploader.stages.queues import Queues
from uploader.store import Store


@dataclass(frozen=True, slots=True)
class StageContext:
    """The ports and the shared state of a running application."""

    store: Store
    leases: Leases
    shares: Shares
    queues: Queues
    clock: Clock
    bus: events.Bus

"""The objects that all stages share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from uploader.domain import events
from uploader.domain.content_changes import ContentChanges
from uploader.files import Shares
from uploader.runtime.clock import Clock
from uploader.stages.lease import Leases
from uploader.stages.queues import Queues
from uploader.store import Store

PROBE_POLL: Final = 2.0  # s after which an upload that waits for the probe of the server looks again


class AutoProbe(Protocol):
    """The probe of the server that the application runs by itself."""

    def underway(self) -> bool:
        """True while the server is being probed, or is about to be: the caller waits, and asks again.

        Begins a probe if what it finds out is not known. False when it is, or when the probe is switched off or has
        failed a short time ago.
        """


@dataclass(frozen=True, slots=True)
class StageContext:
    """The ports and the shared state of a running application."""

    store: Store
    leases: Leases
    shares: Shares
    queues: Queues
    clock: Clock
    bus: events.Bus
    changes: ContentChanges = field(default_factory=ContentChanges)

"""Forgets learnt capabilities of the server when its version changes, or after ``retry.CAPABILITIES_VALID_FOR``.

They are learnt from ``check --probe`` and from refusals (``model.ServerCapabilities``). No upload waits for the
version: if it is unavailable, what is known stays in use, but a chunk in doubt is sent again only if configured so.
"""

from __future__ import annotations

from uploader.config import ServerConfig
from uploader.domain import errors, events, learnt, retry
from uploader.domain.model import ServerCapabilities
from uploader.runtime.clock import Clock
from uploader.server.port import RecordServer
from uploader.store import Store

NOTHING_KNOWN = {
    "whole_only_until": None,
    "chunk_limit": None,
    "chunk_limit_until": None,
    "resend_is_safe": None,
    "chunks": None,
    "transcodes": None,
    "probed_at": None,
    "nameless_until": None,
    "names_refused": None,
    "version": None,
}


class CapabilityTracker:
    """Compares the server's version with the one that its capabilities were learnt from."""

    def __init__(self, config: ServerConfig, store: Store, valt: RecordServer, clock: Clock, bus: events.Bus) -> None:
        self._config, self._store, self._valt, self._clock, self._bus = config, store, valt, clock, bus
        self._looked_at = 0  # number of the log-in after which the version was asked

    async def refresh(self) -> None:
        """Ask for the version, once after each log-in, and only if capabilities are known that it may end."""
        if self._looked_at != self._valt.log_ins and _something(self._store.capabilities):
            self._looked_at = self._valt.log_ins
            await self._version()

    async def resend_is_safe(self) -> bool:
        """True when a chunk in doubt may be sent again to the same record: configured so, or shown by a probe."""
        if self._config.resend_is_safe or "resend_is_safe" in self._config.model_fields_set:
            return self._config.resend_is_safe
        known = self._store.capabilities
        if not known.resend_is_safe or self._clock.now() >= (known.probed_at or 0.0) + retry.CAPABILITIES_VALID_FOR:
            return False
        return (await self._version() or "") == known.version and self._store.capabilities.resend_is_safe is True

    def makes_nameless(self) -> bool:
        """True when this server makes records without a name only, as its refusal of any other has shown."""
        return self._clock.now() < (self._store.capabilities.nameless_until or 0.0)

    async def learn_nameless(self, *, nameless: bool) -> None:
        """Save how this server makes records: a search after a crash must know it."""
        known = self.makes_nameless()
        until = self._clock.now() + retry.CAPABILITIES_VALID_FOR if nameless else None
        self._store.learn(nameless_until=until, names_refused=None)
        await self._store.commit()
        for limit in learnt.limits(self._store.capabilities, now=self._clock.now()) if nameless and not known else ():
            if limit.startswith(learnt.NAMELESS):
                self._bus.publish(events.ServerLimitLearnt(limit))

    async def _version(self) -> str | None:
        """Ask for the version, and forget capabilities of another one. None when it is unavailable."""
        try:
            version = await self._valt.version()
        except errors.RetryableError:
            return None
        known = self._store.capabilities.version
        if version is None or version == known:
            return version
        if known is None:  # learnt from refusals, which do not name the version
            self._store.learn(version=version)
        else:
            self._store.learn(**NOTHING_KNOWN)
            self._bus.publish(events.ServerChanged(known or "an unknown one", version))
        return version


def _something(capabilities: ServerCapabilities) -> bool:
    return any(
        fact is not None
        for fact in (
            capabilities.whole_only_until,
            capabilities.chunk_limit,
            capabilities.resend_is_safe,
            capabilities.chunks,
            capabilities.transcodes,
            capabilities.nameless_until,
        )
    )

"""The circuit breaker as the client sees it (a protocol): a slot for each call, and a method to report good answers.

``uploader.server.circuit_breaker`` implements it for the daemon. ``NoBreaker`` is for commands that make a few calls
and end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol


class Slot(Protocol):
    """The right to have one call under way."""

    def free(self) -> bool:
        """Give the slot back, even before the call has ended. False when that was done already."""


class Breaker(Protocol):
    """Decides whether the server may be called now."""

    def slot(self) -> AbstractAsyncContextManager[Slot]:
        """Hold a slot while the context lasts. Entering may wait; raises ``BreakerOpen`` when no call may be made."""

    def record_success(self) -> None:
        """Note that the server has given a good answer."""


class _AnySlot:
    """A slot of an unlimited number."""

    def free(self) -> bool:
        """Do nothing."""
        return False


class NoBreaker:
    """Lets every call through."""

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Give a slot at once."""
        yield _AnySlot()

    def record_success(self) -> None:
        """Do nothing."""

"""What the client needs of a circuit breaker: a slot for each call, and an ear for answers.

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
        """Let the next call begin, though this one may not have ended. False when that was so already."""


class Breaker(Protocol):
    """Decides whether the server may be called now."""

    def slot(self) -> AbstractAsyncContextManager[Slot]:
        """Hold a slot while the context lasts. Entering may wait; raises ``BreakerOpen`` when no call may be made."""

    def record_success(self) -> None:
        """Note that the server has given a good answer."""


class _AnySlot:
    """A slot of which there are as many as anybody wants."""

    def free(self) -> bool:
        """Say that nobody has waited for it."""
        return False


class NoBreaker:
    """Lets every call through."""

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Allow it at once."""
        yield _AnySlot()

    def record_success(self) -> None:
        """Nothing depends on it."""

"""What every test runs under: property tests take the same examples each time, and no time limit but pytest's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aioresponses.core
from aiohttp import ClientResponse
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=80)
settings.load_profile("repeatable")


class _MockedResponse(ClientResponse):
    """The answer that aioresponses makes up: 0.7.9 does not know an argument that aiohttp 3.14 wants."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0)} | more)


aioresponses.core.ClientResponse = _MockedResponse  # type: ignore[attr-defined]  # the name it looks up

"""Sends answers with aiohttp, or cuts the connection instead."""

from __future__ import annotations

from aiohttp import web

from uploader.testing.simulator.wire import SimulatedAnswer


def as_response(answer: SimulatedAnswer, *, close: bool = False) -> web.Response:
    """Return *answer* for aiohttp; *close*: end the connection after it."""
    response = web.Response(status=answer.status, text=answer.text, headers=answer.headers)
    if "Content-Type" not in answer.headers:
        response.content_type = answer.content_type
    if close:
        response.force_close()
    return response


def abort(request: web.Request) -> None:
    """Cut the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()

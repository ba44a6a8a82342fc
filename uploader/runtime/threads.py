"""Runs calls that may never return, on daemon threads.

A call into a dead disk or mount may not return for hours, and cannot be stopped. The threads of ``concurrent.futures``
will not do: the interpreter waits for them when it ends. Nothing waits for daemon threads, so the process can end.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

IDLE_THREAD_TIMEOUT: Final = 60.0  # s without a call until a thread ends: nobody shuts down what a reload abandons

R = TypeVar("R")


class DaemonThreads(Executor):
    """Runs calls on at most *most* daemon threads, started when needed. A single thread runs them in order."""

    def __init__(self, name: str, *, most: int, idle: float = IDLE_THREAD_TIMEOUT) -> None:
        self._name, self._most, self._idle_for = name, most, idle
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._threads = self._idle = 0
        self._ended = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Queue a call; start a thread for it when all are busy and there are fewer than *most*.

        Raises ``RuntimeError`` after ``shutdown``, and ``OSError`` when the system has no thread left for it.
        """
        future: Future[R] = Future()
        with self._changed:
            if self._ended:
                raise RuntimeError(f"{self._name}: shut down, so no further calls are accepted")
            self._calls.append((future, lambda: fn(*args, **kwargs)))
            if len(self._calls) > self._idle and self._threads < self._most:
                try:
                    threading.Thread(target=self._serve, name=self._name, daemon=True).start()
                except RuntimeError:  # "can't start new thread"; the call is not queued, so that it can be repeated
                    self._calls.pop()
                    raise BlockingIOError(errno.EAGAIN, "the system cannot start another thread") from None
                self._threads += 1
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Accept no further calls. Queued ones are run, or dropped with *cancel_futures*. *wait* is ignored."""
        del wait
        with self._changed:
            self._ended = True
            while cancel_futures and self._calls:
                self._calls.popleft()[0].cancel()
            self._changed.notify_all()

    def _serve(self) -> None:
        """Run queued calls, one after another, until this thread is to end."""
        while (queued := self._next()) is not None:
            future, call = queued
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - raised again where the future is awaited
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del queued, future, call  # else result and exception stay in memory until the next call

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for a call; None when this thread is to end: it has been idle for long, or there will be no more."""
        with self._changed:
            self._idle += 1
            try:
                self._changed.wait_for(lambda: self._calls or self._ended, self._idle_for)
                if not self._calls:
                    self._threads -= 1
                    return None
                return self._calls.popleft()
            finally:
                self._idle -= 1

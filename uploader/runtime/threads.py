"""Threads for calls that may never return: what hangs on them, hangs alone.

A call into a dead disk or mount may not return for hours, and nothing can call it back. The threads of
``concurrent.futures`` are joined when the interpreter ends; these are daemon threads, and keep no process from ending.
Must never wait for a thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

IDLE_THREAD_TIMEOUT: Final = 60.0  # s without a call after which a thread ends: a reload leaves the old ones behind

R = TypeVar("R")


class DaemonThreads(Executor):
    """Runs calls on at most *most* daemon threads, started as they are needed; with one, in the order of the calls."""

    def __init__(self, name: str, *, most: int, idle: float = IDLE_THREAD_TIMEOUT) -> None:
        self._name, self._most, self._idle_for = name, most, idle
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._news = threading.Condition()
        self._threads = self._idle = 0
        self._ended = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Queue a call; a thread is started for it when all are busy and there may be one more.

        Raises ``RuntimeError`` after ``shutdown``.
        """
        future: Future[R] = Future()
        with self._news:
            if self._ended:
                raise RuntimeError(f"{self._name}: no further call is taken")
            self._calls.append((future, lambda: fn(*args, **kwargs)))
            if len(self._calls) > self._idle and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            self._news.notify()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take no further call. What is queued is done, or dropped with *cancel_futures*; *wait* is not to be had."""
        del wait
        with self._news:
            self._ended = True
            while cancel_futures and self._calls:
                self._calls.popleft()[0].cancel()
            self._news.notify_all()

    def _serve(self) -> None:
        while (taken := self._next()) is not None:
            future, call = taken
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del taken, future, call  # neither a result nor an exception may live until the next call

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for a call; None when this thread may end: there has been none for so long, or there will be none."""
        with self._news:
            self._idle += 1
            try:
                self._news.wait_for(lambda: self._calls or self._ended, self._idle_for)
                if not self._calls:
                    self._threads -= 1
                    return None
                return self._calls.popleft()
            finally:
                self._idle -= 1

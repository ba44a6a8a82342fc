"""An event loop in virtual time: ready callbacks run in an order chosen by the seed, and waiting takes no real time.

Every step is numbered; the number at which the process is killed is part of the plan. A kill is not a cancellation: the
loop stops where it is, and what its tasks still do while they are cleared away has no effect (see ``Dead``).
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import signal
import threading
from asyncio import events
from asyncio.base_events import BaseEventLoop
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from itertools import count
from typing import Any, Final, Protocol

NEVER: Final = float("inf")
TICK: Final = 0.25  # s of processor time; a step takes microseconds: one that lasts for two ticks never ends
GRAIN: Final = 1e-6  # s: the shortest wait; a shorter one may not change a sum of floats


Work = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Dead(BaseException):
    """The process was killed: none of its calls has an effect any more."""


class Stuck(AssertionError):  # noqa: N818 - says what has happened
    """Nothing will ever happen again, or too much happens without time passing."""


class Time(Protocol):
    """What the loop needs from the world."""

    now: float  # s, virtual
    steps: int  # of every life so far: system calls count too
    kill_at: int  # the step at which the process is killed next
    life: int

    def chance(self) -> float:
        """Return a random number from 0 to 1."""

    def kill(self) -> None:
        """Kill the running process, or ask it to end."""

    def next_event(self) -> float:
        """Return when the world next does something by itself; ``NEVER`` when it does nothing more."""

    def let_events_happen(self) -> None:
        """Let the world do what is due."""

    def at_rest(self) -> None:
        """Note that no task can run at this moment."""


class Task(asyncio.Task[Any]):
    """A task with a hash of its own, not that of its address, so that the order of sets is the same in every run."""

    _numbers = count()

    def __init__(self, coro: Coroutine[Any, Any, Any], **more: Any) -> None:
        self.number = next(Task._numbers)
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self.number

    @classmethod
    def begin(cls) -> None:
        """Number tasks from 0 again, for a new world."""
        cls._numbers = count()


class Step:
    """A handle of asyncio: a callback that will run unless it is cancelled."""

    __slots__ = ("args", "callback", "cancelled_", "context", "when_")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> None:
        self.callback, self.args = callback, args
        self.context = copy_context() if context is None else context
        self.cancelled_ = False
        self.when_ = 0.0

    def cancel(self) -> None:
        """Cancel the callback."""
        self.cancelled_ = True

    def cancelled(self) -> bool:
        """True when it will not run."""
        return self.cancelled_

    def when(self) -> float:
        """Virtual time at which it is due."""
        return self.when_


class Loop(BaseEventLoop):
    """One life of the process."""

    def __init__(self, time: Time, budget: int) -> None:
        """*budget*: steps after which the life counts as an endless loop."""
        super().__init__()
        self._time, self._end = time, time.steps + budget
        self._waiting: list[Step] = []
        self._timers: list[tuple[float, int, Step]] = []
        self._order = count()
        self._life = time.life
        self.born: list[Task] = []
        self.complaints: list[str] = []
        self._threads: defaultdict[object, deque[Work]] = defaultdict(deque)  # by executor
        self._stuck: Stuck | None = None

    # What asyncio asks of a loop

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._time.now

    def get_debug(self) -> bool:
        """Return False: debug mode halves the speed."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Do nothing."""

    def is_running(self) -> bool:
        """Return True."""
        return True

    def call_soon(  # type: ignore[override]  # a ``Step`` costs half as much as a ``Handle``
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        """Run *callback* in one of the next steps."""
        handle = Step(callback, args, context)
        self._waiting.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there are no threads

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        """Run *callback* at the virtual time *when*."""
        handle = Step(callback, args, context)
        handle.when_ = when
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        """Run *callback* after *delay* virtual seconds."""
        later = self._time.now + max(delay, GRAIN) if delay > 0 else self._time.now
        return self.call_at(later, callback, *args, context=context)

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None, **more: Any) -> Any:
        """Make a task that the loop can clear away."""
        task = Task(coro, loop=self, name=name or "task", context=context)
        self.born.append(task)
        return task

    def run_in_executor(  # type: ignore[override]  # any executor will do: none is asked
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        """Do the work of a thread in a step of its own; the calls of one executor are done in their order."""
        future, work = self.create_future(), deque() if executor is None else self._threads[executor]
        work.append((future, func, args))
        self.call_soon(self._do_next, work)
        return future

    def _do_next(self, work: deque[Work]) -> None:
        """Do the oldest call. A cancelled call is done or not, at random, as it may have begun before."""
        future, func, args = work.popleft()
        if future.cancelled() and self._time.chance() < 0.5:
            return
        try:
            result = func(*args)
        except Dead:
            return  # the thread has died with its process
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the future
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note an uncaught exception, unless the process is dead."""
        if self._life == self._time.life:
            self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    # A life

    def live(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run *main* to its end, or until the process is killed: then ``Dead`` is raised. Raises ``Stuck``."""
        with _running(self):
            task = self.create_task(main, name="main")
            try:
                self._run_until(task)
                if self._stuck is not None:
                    raise self._stuck
                if self._life != self._time.life:
                    raise Dead
                return task.result()
            finally:
                self._clear_away()

    def _run_until(self, task: Task) -> None:
        time, waiting, life, chance = self._time, self._waiting, self._life, self._time.chance
        while not task.done():
            if not waiting:
                self._let_time_pass()
                continue
            number = len(waiting)
            at = 0 if number == 1 else int(chance() * number)
            handle = waiting[at]
            waiting[at] = waiting[-1]
            waiting.pop()
            if handle.cancelled_:
                continue
            time.steps += 1
            if time.steps >= time.kill_at:
                time.kill()
                if time.life != life:
                    return
            if time.steps > self._end:
                raise Stuck(f"{time.steps} steps, and no end: at {time.now:.0f} s it went round in circles")
            handle.context.run(handle.callback, *handle.args)
            if time.life != life:
                return

    def _let_time_pass(self) -> None:
        """Advance the time to the next moment at which something happens, in the loop or in the world."""
        time, timers = self._time, self._timers
        while timers and timers[0][2].cancelled_:
            heapq.heappop(timers)
        time.at_rest()
        if self._waiting:
            return
        own, others = timers[0][0] if timers else NEVER, time.next_event()
        when = min(own, others)
        if when == NEVER:
            raise Stuck(f"at {time.now:.0f} s everybody waits, and nothing will ever wake them")
        time.now = max(time.now, when)
        if others <= when:
            time.let_events_happen()
        while timers and timers[0][0] <= time.now:
            handle = heapq.heappop(timers)[2]
            if not handle.cancelled_:
                self._waiting.append(handle)

    def end_step(self) -> None:
        """End the running step and its life. Called by a signal handler inside of a step that does not end."""
        self._stuck = Stuck(f"at {self._time.now:.0f} s one step went round in circles without end")
        self._time.life += 1
        raise Dead

    def _clear_away(self) -> None:
        """Clear away all tasks without running them further, as the end of a process does."""
        for task in self.born:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        self.born.clear()
        self._waiting.clear()
        self._timers.clear()
        self._closed = True


def _close(coro: Any) -> None:
    """Unwind a coroutine. Its clean-up code stops at the first await.

    One that has not begun may hold others that were made for it, as ``guard(self.drive())`` does. Since Python 3.13 its
    end does not let go of them, and they would count as forgotten when they are collected.
    """
    if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        for argument in coro.cr_frame.f_locals.values():
            if inspect.iscoroutine(argument):
                _close(argument)
    for _ in range(20):
        try:
            coro.close()
        except RuntimeError:  # "coroutine ignored GeneratorExit": there is more clean-up code behind
            continue
        except BaseException:  # noqa: BLE001 - errors of a dead process are ignored
            return
        return


@contextmanager
def _running(loop: Loop) -> Iterator[None]:
    before, _RUNNING[:] = events._get_running_loop(), [loop]
    events._set_running_loop(loop)
    try:
        yield
    finally:
        events._set_running_loop(before)
        _RUNNING.clear()


_RUNNING: Final[list[Loop]] = []


@contextmanager
def every_step_ends() -> Iterator[None]:
    """End a life in which one step does not end: the step blocks the event loop, so a signal has to end it.

    Does nothing outside of the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: tuple[object, int] = (None, 0)

    def look(*_: object) -> None:
        nonlocal seen
        loop = _RUNNING[0] if _RUNNING else None
        before, seen = seen, (loop, 0 if loop is None else loop._time.steps)
        if loop is not None and before == seen:
            loop.end_step()

    handler = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)

"""An event loop of virtual time on which a whole cluster runs in one thread.

Every simulated process is a `Lane`: its callbacks run in the order asyncio promises, while the
choice between lanes is drawn from the seed, as between processes of one machine. A lane can be
paused (timers and callbacks pile up and run in a burst later) or killed (nothing of it ever
runs again, not even a `finally`).
"""

from __future__ import annotations

import asyncio
import heapq
import random
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

STEPS_AT_ONE_INSTANT_MAX = 200_000


class SimulationError(AssertionError):
    """The simulated program hangs or spins."""


class Deadlock(SimulationError):
    """Nothing can ever run again and the awaited task is not done."""


class Livelock(SimulationError):
    """Work without end at one instant, or more of it than the budget allows."""


class Lane:
    """The callbacks of one simulated process."""

    __slots__ = ("dead", "listed", "name", "paused", "queue")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[SimHandle] = deque()
        self.paused = False
        self.dead = False
        self.listed = False


LANE: ContextVar[Lane] = ContextVar("lane")


class SimHandle:
    """A scheduled callback, with the interface of asyncio's own handles."""

    __slots__ = ("_args", "_callback", "_context", "_when_s", "lane")

    def __init__(
        self,
        callback: Callable[..., object] | None,
        args: tuple[Any, ...],
        context: Context,
        lane: Lane,
        when_s: float,
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self.lane = lane
        self._when_s = when_s

    def cancel(self) -> None:
        self._callback = None
        self._args = ()

    def cancelled(self) -> bool:
        return self._callback is None

    def when(self) -> float:
        return self._when_s


class SimLoop(asyncio.AbstractEventLoop):
    """Runs lanes in a seeded order; jumps to the next timer when all are idle."""

    def __init__(self, chance: random.Random, step_limit: int = 5_000_000) -> None:
        self._chance = chance.random
        self._now_s = 0.0
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._timer_count = 0
        self._runnable: list[Lane] = []
        self._step_limit = step_limit
        self.steps = 0
        self.world = Lane("world")
        self.errors: list[str] = []
        self.outside = Context()
        self.outside.run(LANE.set, self.world)

    # --- time -------------------------------------------------------------------------------
    def time(self) -> float:
        return self._now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        if context is None:
            context = copy_context()
        lane = context.get(LANE) or self.world
        handle = SimHandle(callback, args, context, lane, self._now_s)
        self._enqueue(lane, handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any,
        context: Context | None = None,
    ) -> SimHandle:
        if context is None:
            context = copy_context()
        lane = context.get(LANE) or self.world
        handle = SimHandle(callback, args, context, lane, when)
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any,
        context: Context | None = None,
    ) -> SimHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_in(self, context: Context, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback soon in the lane of `context`; drops it when the lane is dead."""
        lane = context[LANE]
        if not lane.dead:
            self._enqueue(lane, SimHandle(callback, args, context, lane, self._now_s))

    def after(self, delay_s: float, callback: Callable[..., object], *args: Any) -> SimHandle:
        """A timer of the world itself, not of the lane that sets it."""
        return self.call_at(self._now_s + delay_s, callback, *args, context=self.outside)

    # --- lanes ------------------------------------------------------------------------------
    def lane_context(self, lane: Lane) -> Context:
        """A fresh context whose callbacks and tasks belong to `lane`."""
        context = Context()
        context.run(LANE.set, lane)
        return context

    def spawn(self, lane: Lane, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task in a lane."""
        return self.create_task(coroutine, context=self.lane_context(lane))

    def pause(self, lane: Lane) -> None:
        lane.paused = True

    def resume(self, lane: Lane) -> None:
        lane.paused = False
        self._list(lane)

    def kill(self, lane: Lane) -> None:
        lane.dead = True
        lane.queue.clear()

    def _enqueue(self, lane: Lane, handle: SimHandle) -> None:
        if lane.dead:
            return
        lane.queue.append(handle)
        if not lane.listed and not lane.paused:
            lane.listed = True
            self._runnable.append(lane)

    def _list(self, lane: Lane) -> None:
        if lane.queue and not lane.listed and not lane.paused and not lane.dead:
            lane.listed = True
            self._runnable.append(lane)

    # --- running ----------------------------------------------------------------------------
    def run_until_complete(self, future: Any) -> Any:
        """Run until the coroutine, started in the world's lane, is done."""
        asyncio._set_running_loop(self)
        try:
            task = (
                self.create_task(future, context=self.outside)
                if asyncio.iscoroutine(future)
                else future
            )
            self._run(task)
        finally:
            asyncio._set_running_loop(None)
        return task.result()

    def _run(self, task: asyncio.Future[Any]) -> None:
        runnable = self._runnable
        chance = self._chance
        instant_s, instant_steps = -1.0, 0
        while not task.done():
            if not runnable:
                self._advance()
                continue
            index = int(chance() * len(runnable))
            lane = runnable[index]
            runnable[index] = runnable[-1]
            runnable.pop()
            lane.listed = False
            self._run_lane(lane)
            if self.steps > self._step_limit:
                raise Livelock(f"more than {self._step_limit} steps")
            if self._now_s != instant_s:
                instant_s, instant_steps = self._now_s, self.steps
            elif self.steps - instant_steps > STEPS_AT_ONE_INSTANT_MAX:
                raise Livelock(f"lane {lane.name} spins at {self._now_s:.6f} s")

    def _run_lane(self, lane: Lane) -> None:
        """One turn of a process's own loop: what was ready when the turn began."""
        queue = lane.queue
        if lane.paused:
            return
        count = len(queue)
        while count and queue and not lane.paused:
            count -= 1
            handle = queue.popleft()
            callback = handle._callback
            if callback is not None:
                self.steps += 1
                try:
                    handle._context.run(callback, *handle._args)
                except (SystemExit, KeyboardInterrupt, SimulationError):
                    raise
                except BaseException as error:
                    frames = traceback.extract_tb(error.__traceback__)[-3:]
                    way = " < ".join(f"{f.filename[-24:]}:{f.lineno}" for f in reversed(frames))
                    self.errors.append(f"{lane.name}: callback raised {error!r} at {way}")
        self._list(lane)

    def _advance(self) -> None:
        timers = self._timers
        while timers:
            when_s, _, handle = timers[0]
            if handle._callback is None or handle.lane.dead:
                heapq.heappop(timers)
                continue
            if when_s > self._now_s:
                if self._runnable:
                    return
                self._now_s = when_s
            heapq.heappop(timers)
            self._enqueue(handle.lane, handle)
        if not self._runnable:
            raise Deadlock(f"nothing left to run at {self._now_s:.6f} s")

    # --- what asyncio asks of a loop --------------------------------------------------------
    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name or "sim", context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {error!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: object) -> None:
        return None

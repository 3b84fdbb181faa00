"""Operators who list, cancel and move what waits in the schedule, and ask until they are told."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from magnetar.errors import ConnectionFailed
from tests.sim import messages
from tests.sim.client_process import OPEN_TIMEOUT_S, Client, Stream
from tests.sim.schedule_watch import NEVER, Change, Delayed

if TYPE_CHECKING:
    from tests.sim.cluster_world import ClusterWorld

AT_ONCE = 3
CANCELLED_AT_ONCE = 4
LISTING_SHARE = 0.1


class Operator(Client):
    """Of `of` operators the one that changes every so many-th message."""

    def __init__(self, world: ClusterWorld, number: int, of: int) -> None:
        super().__init__(world, f"o{number}")
        self._number = number
        self._of = of
        self._requests = count(1)
        self._unanswered: dict[int, Change] = {}

    @property
    def idle(self) -> bool:
        """Everything asked for was answered."""
        return not self._unanswered

    async def converse(self, stream: Stream, relay: bool) -> None:
        if relay:
            raise ConnectionFailed("operators ask owners only")
        for request_id, change in self._unanswered.items():
            self._ask(stream, request_id, change)
        try:
            while True:
                await self._begin(stream)
                if self._unanswered:
                    self._take(await stream.receive(OPEN_TIMEOUT_S))
        finally:
            for change in self._unanswered.values():
                self.world.schedule.unanswered(change)

    async def _begin(self, stream: Stream) -> None:
        """Ask for one thing more, unless enough is asked for."""
        world = self.world
        if len(self._unanswered) >= AT_ONCE:
            return
        await self.clock.sleep(self.random.uniform(0.01, 0.12))
        if world.quiet or world.enough_published():
            return
        change = self._choose()
        if change is not None:
            request_id = next(self._requests)
            self._unanswered[request_id] = change
            world.schedule.asked(change)
            self._ask(stream, request_id, change)

    def _choose(self) -> Change | None:
        """Mostly of what waits still, or is due about now."""
        now_ms, chance = self.clock.wall_ms(), self.random
        if chance.random() < LISTING_SHARE:
            return Change((), NEVER)
        found = [
            message for message in self.world.schedule.messages.values()
            if message.place is not None and message.name[1] % self._of == self._number
            and not (message.changing or message.uncertain)
        ]
        waiting = [one for one in found if _due_ms(one, now_ms) >= now_ms]
        found = waiting if waiting and chance.random() < 0.8 else found
        if not found:
            return None
        if chance.random() < 0.5:
            number = min(len(found), chance.randrange(1, CANCELLED_AT_ONCE + 1))
            return Change(tuple(one.name for one in chance.sample(found, number)), NEVER)
        later_ms = chance.choice((-400, 50, 600, 1_500, 2_500))
        return Change((chance.choice(found).name,), now_ms + later_ms + chance.randrange(300))

    def _ask(self, stream: Stream, request_id: int, change: Change) -> None:
        known = self.world.schedule.messages
        places = [known[name].place for name in change.names]
        stream.send(messages.ChangeSchedule(
            request_id, self.world.topic, [place for place in places if place is not None],
            change.due_ms,
        ))

    def _take(self, answer: messages.ScheduleAnswers) -> None:
        if answer.error is not None:
            raise answer.error
        change = self._unanswered.pop(answer.request_id)
        self.world.schedule.answered(
            change, answer.answers, self.world.loop.time(), answer.by_owner
        )


def _due_ms(message: Delayed, now_ms: int) -> int:
    times_ms = [due_ms for due_ms in message.due_ms if due_ms is not NEVER]
    return max(times_ms, default=now_ms - 1)

"""Consumers of key_shared and failover subscriptions: they join, leave, crash and give back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.conversation import (
    Delivery,
    HoldFailedKeys,
    InitialPosition,
    MessagePosition,
    OpenConsumer,
)
from magnetar.errors import ConnectionFailed
from tests.sim import messages
from tests.sim.client_process import OPEN_TIMEOUT_S, SimConsumer, Stream
from tests.sim.history import Place
from tests.sim.keyed_watch import Delivered, messages_in

if TYPE_CHECKING:
    from tests.sim.cluster_world import ClusterWorld

TICK_S = 0.03
HOLD_S = 0.15
"""A message is with its consumer for twice that at most, unless it is kept until it leaves."""
AGAIN_MS = 20_000
"""What is never acknowledged must not keep fresh messages from their turn for ever."""
DELAYS_MS = (0, 0, 20, 120, 400)


class KeyedConsumer(SimConsumer):
    """Each message is, a little later, acknowledged by its index, failed with a delay or without,
    or given back uncounted."""

    def __init__(self, world: ClusterWorld, name: str, subscription: str) -> None:
        super().__init__(world, name, subscription)
        self._held: list[tuple[float, Delivered]] = []
        self._failed: set[tuple[str, int]] = set()

    async def converse(self, stream: Stream, relay: bool) -> None:
        world, config = self.world, self.world.config
        hold = HoldFailedKeys.HOLD if config.acknowledge_share == 1.0 else HoldFailedKeys.PASS
        stream.send(messages.Subscribe(OpenConsumer(
            world.topic, self.subscription, self.kind, InitialPosition.EARLIEST,
            consumer_name=self.name, hold_failed_keys=hold,
        ), relay))
        await stream.receive(OPEN_TIMEOUT_S)
        world.subscribed = True
        self._requests, self._last_request, self._held = {}, 0, []
        stream.send(messages.Permits(config.permits))
        settling = asyncio.ensure_future(self._settle(stream))
        leaves_s = self._leaves_s()
        try:
            while not self.finished() and self.clock.monotonic_s() < leaves_s:
                try:
                    answer = await stream.receive(TICK_S)
                except ConnectionFailed as error:
                    if "no answer" not in str(error):
                        raise
                    continue
                self._take(answer)
        finally:
            settling.cancel()
        if self.finished() or self.random.random() < 0.5:
            stream.send(messages.Close())
            await self.clock.sleep(0.05)

    def _leaves_s(self) -> float:
        stays_s = self.random.uniform(0.3, 3.0)
        return self.clock.monotonic_s() + (30.0 if self.world.healed else stays_s)

    def _take(self, answer: object) -> None:
        if isinstance(answer, messages.Deliveries):
            for delivery in answer.deliveries:
                self._note(delivery)
        elif isinstance(answer, messages.Done):
            self._done(answer)

    def _note(self, delivery: Delivery) -> None:
        history, now_s = self.world.history, self.clock.monotonic_s()
        if not delivery.picked:
            place = Place(delivery.ledger_id, delivery.entry_id)
            self.world.note_read(self.name, place, bytes(delivery.entry))
        for message in messages_in(delivery):
            self.received.add(message.name)
            history.seen_messages.add(message.name)
            self._held.append((now_s + self.random.uniform(0.0, 2 * HOLD_S), message))

    async def _settle(self, stream: Stream) -> None:
        """What has been here for long enough."""
        while True:
            await self.clock.sleep(TICK_S)
            if self.world.quiet:
                continue
            now_s = self.clock.monotonic_s()
            due = [message for due_s, message in self._held if due_s <= now_s]
            self._held = [held for held in self._held if held[0] > now_s]
            if due:
                stream.send(messages.Permits(len(due)))
            done: list[Delivered] = []
            for message in due:
                if self.world.keeps_back(message.name):
                    self._give_back(stream, message, 1.0)
                elif self.random.random() < self.world.config.negative_share:
                    self._give_back(stream, message, self.random.random())
                else:
                    done.append(message)
            if done:
                self._acknowledge_all(stream, done)

    def _give_back(self, stream: Stream, message: Delivered, drawn: float) -> None:
        """Some uncounted; what is kept back for good (`drawn` 1.0) fails, and comes later."""
        counted = drawn >= 0.3
        delay_ms = self.random.choice(DELAYS_MS)
        if drawn >= 1.0:
            delay_ms = AGAIN_MS if message.name in self._failed else 700
            self._failed.add(message.name)
        stream.send(messages.GiveBack(
            [MessagePosition(*message.spot)], delay_ms if counted else 0, counted))

    def _acknowledge_all(self, stream: Stream, done: list[Delivered]) -> None:
        self._last_request += 1
        names = [message.name for message in done]
        self._requests[self._last_request] = names
        self.world.history.consume_asked.update(names)
        positions = [MessagePosition(*message.spot) for message in done]
        stream.send(messages.Acknowledge(self._last_request, positions, None))

"""Dead letters and redrives while answers get lost and owners die: each message arrives once."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from broker.redrive import Redrive
from magnetar.errors import ConnectionFailed, MagnetarError, OperationTimeout
from tests.broker.memory_forwarder import MemoryForwarder, MemoryOutlet
from tests.broker.test_dead_letters import DEAD, Giver, dead_payloads
from tests.broker.test_redrive import REQUEST, payloads
from tests.broker.world import LANE_LIMITS, TOPIC, Node, Publisher, World, until, world

MESSAGES = [b"%d" % number for number in range(60)]


class FaultyOutlet:
    """Loses batches before they are stored, and answers after."""

    def __init__(self, outlet: MemoryOutlet, chance: random.Random) -> None:
        self._outlet = outlet
        self._chance = chance
        self.release, self.discard = outlet.release, outlet.discard

    @property
    def last_sequence_id(self) -> int:
        return self._outlet.last_sequence_id

    @property
    def max_batch_bytes(self) -> int:
        return self._outlet.max_batch_bytes

    async def publish(self, batch: bytes) -> None:
        fate = self._chance.random()
        if fate < 0.15:
            raise OperationTimeout("the batch was lost on its way")
        await asyncio.sleep(self._chance.random() * 0.002)
        await self._outlet.publish(batch)
        if fate < 0.4:
            raise ConnectionFailed("the answer was lost on its way")


class FaultyForwarder(MemoryForwarder):
    chance: random.Random

    async def open(  # type: ignore[override]
        self, topic: str, producer_name: str, *, fresh: bool
    ) -> FaultyOutlet:
        if self.chance.random() < 0.1:
            raise ConnectionFailed("nobody answered")
        outlet = await super().open(topic, producer_name, fresh=fresh)
        return FaultyOutlet(outlet, self.chance)


def faulty(made: World, chance: random.Random) -> None:
    forwarder = FaultyForwarder(
        lambda: [node.broker for node in made.nodes if node.broker.serving])
    forwarder.chance = chance
    made.forwarder = forwarder


async def next_owner(made: World, number: int) -> Node:
    """Every topic's owner dies; this one comes after."""
    for node in list(made.nodes):
        await made.kill(node)
    return await made.broker(
        f"b{number}", lane_limits=replace(LANE_LIMITS, parcel_messages=7))


async def give_all_up(node: Node) -> Giver:
    """What dispatch does with messages that have failed too often: all that are unacknowledged."""
    topic = await node.topic()
    giver = Giver(node, topic)
    cursor = giver.subscription.cursor
    for entry in await topic.log.read(await topic.log.before_ordinal(0), 1_000, 1 << 24):
        mask = ((1 << entry.count) - 1) & ~cursor.mask(entry.first_ordinal, entry.count)
        topic.dead_letters.give("s", entry, mask, 3, "too often", giver.done.append)
    return giver


@pytest.mark.parametrize("seed", range(8))
async def test_every_dead_letter_arrives_once_and_in_order(seed: int) -> None:
    chance = random.Random(f"dead {seed}")
    async with world() as made:
        faulty(made, chance)
        node = await next_owner(made, 1)
        publisher = await Publisher.open(node, "p")
        for start in range(0, 60, 4):
            await publisher.publish(*MESSAGES[start:start + 4])
        await Giver.open(node)
        for number in range(2, 6):
            await give_all_up(node)
            await asyncio.sleep(chance.random() * 0.05)
            node = await next_owner(made, number)

        giver = await give_all_up(node)
        await until(lambda: not giver.subscription.backlog_messages)

        assert await dead_payloads(node) == MESSAGES


@pytest.mark.parametrize("seed", range(6))
async def test_every_redriven_message_arrives_once_and_in_order(seed: int) -> None:
    chance = random.Random(f"redrive {seed}")
    async with world() as made:
        faulty(made, chance)
        node = await next_owner(made, 1)
        publisher = await Publisher.open(node, "p", topic=DEAD)
        for start in range(0, 60, 6):
            batch = publisher.batch(*MESSAGES[start:start + 6], properties=[
                {"dead_letter.topic": TOPIC if number % 2 else f"{TOPIC}2"}
                for number in range(6)
            ])
            publisher.session.publish(batch)
        await until(lambda: sum(one.count for one in publisher.receipts) == 60)
        for number in range(2, 6):
            run = asyncio.ensure_future(one_run(node))
            await asyncio.sleep(chance.random() * 0.05)
            if chance.random() < 0.5:
                run.cancel()
            node = await next_owner(made, number)
            await asyncio.gather(run, return_exceptions=True)

        while True:
            try:
                await one_run(node)
                break
            except MagnetarError:
                continue

        assert await payloads(node) == MESSAGES[1::2]
        assert await payloads(node, f"{TOPIC}2") == MESSAGES[0::2]


async def one_run(node: Node) -> None:
    topic = await node.broker.topic_here(DEAD)
    await Redrive(
        topic, replace(REQUEST, patience_s=5.0), node.clock, lambda _progress: None).run()

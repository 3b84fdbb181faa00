"""Publishing from a broker to topics of others, through the SDK."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from broker.forwarding.byte_budget import ByteBudget
from broker.forwarding.sdk_forwarder import ForwarderLimits, SdkForwarder
from magnetar.entry import encode_batch
from magnetar.errors import AlreadyClosed, InvalidTopicName, ProducerFenced
from magnetar.runtime.network import Address
from tests.broker.test_dead_letters import DEAD, Giver, dead_payloads
from tests.broker.test_service import Served, served
from tests.broker.world import TOPIC, Publisher, TestClock, settle, until, world

ELSEWHERE = "persistent://public/default/elsewhere"


@asynccontextmanager
async def forwarder_of(
    broker: Served, limits: ForwarderLimits | None = None
) -> AsyncIterator[SdkForwarder]:
    made = SdkForwarder(
        Address.parse(broker.address), TestClock(), random.Random(1), limits)
    try:
        yield made
    finally:
        await made.close()


def batch(name: str, first: int, *payloads: bytes) -> bytes:
    return encode_batch(name, first, list(payloads), publish_time_ms=1)


async def test_batches_reach_a_topic_of_another_broker_under_the_outlets_name() -> None:
    async with (
        world() as made, served(made, "b1") as here, served(made, "b2") as there,
        forwarder_of(here) as forwarder,
    ):
        topic = await there.node.topic(ELSEWHERE)

        outlet = await forwarder.open(ELSEWHERE, "me", fresh=True)
        assert outlet.last_sequence_id == -1
        await outlet.publish(batch("me", 0, b"a", b"b"))
        await outlet.publish(batch("me", 2, b"c"))

        assert outlet.last_sequence_id == 2
        assert outlet.max_batch_bytes == topic.policies.max_message_size_bytes
        assert topic.log.end_ordinal == 3


async def test_a_fresh_outlet_takes_the_name_over_and_knows_where_it_stands() -> None:
    async with world() as made, served(made) as broker, forwarder_of(broker) as forwarder:
        first = await forwarder.open(ELSEWHERE, "me", fresh=True)
        await first.publish(batch("me", 0, b"a"))

        second = await forwarder.open(ELSEWHERE, "me", fresh=True)

        assert second.last_sequence_id == 0
        with pytest.raises(ProducerFenced):
            await first.publish(batch("me", 1, b"late"))
        await second.publish(batch("me", 1, b"b"))
        assert (await broker.node.topic(ELSEWHERE)).log.end_ordinal == 2


async def test_a_released_outlet_is_used_again_unless_a_fresh_one_is_wanted() -> None:
    async with world() as made, served(made) as broker, forwarder_of(broker) as forwarder:
        first = await forwarder.open(ELSEWHERE, "me", fresh=True)
        await first.publish(batch("me", 0, b"a"))
        producers = (await broker.node.topic(ELSEWHERE)).publishing.producers
        epoch = producers["me"].producer_epoch

        first.release()
        again = await forwarder.open(ELSEWHERE, "me", fresh=False)
        assert producers["me"].producer_epoch == epoch
        assert again.last_sequence_id == 0

        again.release()
        await forwarder.open(ELSEWHERE, "me", fresh=True)
        assert producers["me"].producer_epoch == epoch + 1


async def test_outlets_are_bounded_and_those_at_rest_make_room() -> None:
    limits = ForwarderLimits(outlets=2)
    async with world() as made, served(made) as broker, forwarder_of(broker, limits) as forwarder:
        busy = await forwarder.open(ELSEWHERE, "one", fresh=True)
        (await forwarder.open(ELSEWHERE, "two", fresh=True)).release()
        third = await forwarder.open(ELSEWHERE, "three", fresh=True)

        waiting = asyncio.ensure_future(forwarder.open(ELSEWHERE, "four", fresh=True))
        await settle()
        assert not waiting.done() and forwarder.outlets == 2

        busy.discard()
        await waiting
        producers = (await broker.node.topic(ELSEWHERE)).publishing.producers
        await until(lambda: set(producers) == {"three", "four"})
        third.release()


async def test_an_outlet_at_rest_for_long_is_closed() -> None:
    limits = ForwarderLimits(rest_s=0.02)
    async with world() as made, served(made) as broker, forwarder_of(broker, limits) as forwarder:
        outlet = await forwarder.open(ELSEWHERE, "me", fresh=True)
        assert forwarder.outlets == 1

        outlet.release()

        await until(lambda: forwarder.outlets == 0)


async def test_what_cannot_be_opened_raises_and_takes_no_room() -> None:
    async with world() as made, served(made) as broker, forwarder_of(broker) as forwarder:
        with pytest.raises(InvalidTopicName):
            await forwarder.open("a/b", "me", fresh=True)
        assert forwarder.outlets == 0

        await forwarder.close()
        with pytest.raises(AlreadyClosed):
            await forwarder.open(ELSEWHERE, "me", fresh=True)


async def test_dead_letters_go_to_another_broker_by_the_sdk() -> None:
    async with (
        world() as made, served(made, "b1") as here, served(made, "b2") as there,
        forwarder_of(here) as forwarder,
    ):
        here.node.broker.lanes = replace(here.node.broker.lanes, forwarder=forwarder)
        await there.node.topic(DEAD)
        await here.node.topic(TOPIC)
        publisher = await Publisher.open(here.node, "p")
        stored = await publisher.publish(b"bad", b"good")
        giver = await Giver.open(here.node)

        await giver.give(stored.ledger_id, stored.entry_id)
        await giver.told()

        assert await dead_payloads(there.node) == [b"bad"]
        assert giver.subscription.backlog_messages == 1


async def test_a_byte_budget_grants_in_order_and_survives_cancelling() -> None:
    budget = ByteBudget(10)
    order: list[str] = []
    hold = asyncio.Event()

    async def claim(name: str, size_bytes: int) -> None:
        async with budget.claim(size_bytes):
            order.append(name)
            await hold.wait()

    tasks = [asyncio.ensure_future(claim(name, size)) for name, size in
             (("a", 8), ("b", 20), ("c", 1))]
    await settle()
    assert order == ["a"] and budget.waiting == 2  # c fits, and waits for its turn

    tasks[1].cancel()
    await settle()
    assert order == ["a", "c"] and budget.taken_bytes == 9

    hold.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await claim("d", 20)  # above the whole budget, and alone
    assert order == ["a", "c", "d"] and budget.taken_bytes == 0

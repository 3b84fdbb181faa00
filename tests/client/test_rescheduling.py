"""A producer cancels and moves what it sent to be delivered later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from magnetar import Client, InitialPosition, ProducerInterceptor, ScheduledId, ScheduleOutcome
from magnetar.admin.schedule_values import ScheduledMessage
from magnetar.connection import Connections, LinkLost
from magnetar.errors import (
    AlreadyClosed,
    ConnectionFailed,
    InvalidArgument,
)
from magnetar.intercepted_producer import InterceptedPartitionedProducer, InterceptedProducer
from magnetar.producer import Producer
from magnetar.sync import Client as BlockingClient
from magnetar.wire import admin_pb2 as pb
from magnetar.wire.errors import to_error
from tests.broker.administered import AdminServed, admin_served
from tests.broker.world import world

CANCELLED, MOVED = ScheduleOutcome.CANCELLED, ScheduleOutcome.MOVED
DELIVERED, UNKNOWN = ScheduleOutcome.DELIVERED, ScheduleOutcome.UNKNOWN
HOUR_MS = 3_600_000


@asynccontextmanager
async def served() -> AsyncIterator[tuple[AdminServed, Client]]:
    async with world() as made, admin_served(made) as broker, Client(broker.url) as client:
        yield broker, client


async def scheduled(producer: Producer, content: bytes = b"later") -> ScheduledId:
    found = await producer.send(content, deliver_after=timedelta(hours=1))
    assert isinstance(found, ScheduledId)
    return found


async def waiting(client: Client, topic: str = "orders") -> dict[ScheduledId, ScheduledMessage]:
    page = await client.admin.schedule.list(topic)
    return {one.scheduled_id: one for one in page.messages}


async def test_what_waits_is_cancelled_for_good() -> None:
    async with served() as (_, client):
        producer = await client.create_producer("orders")
        first, second = await scheduled(producer), await scheduled(producer)

        assert await producer.cancel(first) is CANCELLED
        assert await producer.cancel(first) is CANCELLED
        assert await producer.reschedule(first, deliver_after=1) is CANCELLED
        assert set(await waiting(client)) == {second}


async def test_what_waits_is_moved_and_keeps_its_id() -> None:
    async with served() as (broker, client):
        producer = await client.create_producer("orders")
        sent = await scheduled(producer)
        at_ms = broker.node.clock.wall_ms() + 5 * HOUR_MS

        assert await producer.reschedule(sent, deliver_at=at_ms) is MOVED
        assert (await waiting(client))[sent].deliver_at_ms == at_ms
        assert await producer.reschedule(sent, deliver_after=timedelta(hours=9)) is MOVED
        assert (await waiting(client))[sent].deliver_at_ms > at_ms + 3 * HOUR_MS


async def test_what_was_delivered_stays() -> None:
    async with served() as (_, client):
        consumer = await client.subscribe(
            "orders", "s", initial_position=InitialPosition.Earliest)
        producer = await client.create_producer("orders")
        sent = await scheduled(producer)
        assert await producer.reschedule(sent, deliver_at=0) is MOVED
        assert (await consumer.receive(10_000)).scheduled_id == sent

        assert await producer.cancel(sent) is DELIVERED
        assert await producer.reschedule(sent, deliver_after=1) is DELIVERED


async def test_a_producer_that_came_back_or_another_may_do_it() -> None:
    async with served() as (_, client):
        async with await client.create_producer("orders", "p") as producer:
            first, second = await scheduled(producer), await scheduled(producer)
        again = await client.create_producer("orders", "p")
        other = await client.create_producer("orders")

        assert await again.cancel(ScheduledId.parse(str(first))) is CANCELLED
        assert await other.cancel(second) is CANCELLED


async def test_an_id_finds_its_partition() -> None:
    async with served() as (_, client):
        await client.admin.topics.create("orders", partitions=3)
        producer = await client.create_producer("orders")
        ids = [await producer.send(b"x", None, f"{key}", deliver_after=3600) for key in range(9)]
        assert {one.partition for one in ids} == {0, 1, 2}

        assert {await producer.cancel(one) for one in ids[:6]} == {CANCELLED}
        assert {await producer.reschedule(one, deliver_after=7200) for one in ids[6:]} == {MOVED}
        assert set(await waiting(client)) == set(ids[6:])
        with pytest.raises(InvalidArgument, match="of no partition"):
            await producer.cancel(ScheduledId(3, 1, 0, 0))


@pytest.mark.parametrize("interceptors", [(), (ProducerInterceptor(),)])
@pytest.mark.parametrize("partitions", [0, 2])
async def test_many_are_delayed_at_once(
    partitions: int, interceptors: tuple[ProducerInterceptor, ...]
) -> None:
    async with served() as (broker, client):
        await client.admin.topics.create("orders", partitions)
        producer = await client.create_producer("orders", interceptors=interceptors)
        at_ms = broker.node.clock.wall_ms() + HOUR_MS

        later = await (await producer.send_many([b"x"] * 9, deliver_at=at_ms))
        keyed = await (await producer.send_many([b"x"] * 9, partition_key="k", deliver_after=60))

        found = await waiting(client)
        assert set(found) == {*later, *keyed} and len(found) == 18
        assert {found[one].deliver_at_ms for one in found if one in later} == {at_ms}
        assert {(one.partition, found[one].key) for one in found if one in keyed} == {
            (keyed[0].partition, "k")}


@pytest.mark.parametrize(
    ("partitions", "kind"), [(0, InterceptedProducer), (2, InterceptedPartitionedProducer)])
async def test_interceptors_are_no_obstacle(partitions: int, kind: type[Any]) -> None:
    async with served() as (_, client):
        await client.admin.topics.create("orders", partitions)
        producer = await client.create_producer("orders", interceptors=[ProducerInterceptor()])
        assert type(producer) is kind

        sent = await scheduled(producer)
        assert await producer.reschedule(sent, deliver_after=9) is MOVED
        assert await producer.cancel(sent) is CANCELLED


async def test_what_names_no_message_that_waits_is_told_apart() -> None:
    async with served() as (_, client):
        producer = await client.create_producer("orders")
        sent = await scheduled(producer)
        at_once: Any = await producer.send(b"at once")

        for never in (ScheduledId(-1, 999, 0, 0), ScheduledId(-1, sent.ledger_id, 0, 7)):
            assert await producer.cancel(never) is UNKNOWN
            assert await producer.reschedule(never, deliver_after=1) is UNKNOWN
        with pytest.raises(InvalidArgument, match="is in the topic already"):
            await producer.cancel(at_once)
        nothing: Any = "scheduled"
        with pytest.raises(InvalidArgument, match="give a ScheduledId, not 'scheduled'"):
            await producer.reschedule(nothing, deliver_after=1)
        with pytest.raises(InvalidArgument, match="was scheduled before"):
            await producer.cancel(ScheduledId(-1, 0, -1, 0))
        with pytest.raises(InvalidArgument, match="of no partition"):
            await producer.cancel(ScheduledId(1, sent.ledger_id, 0, 0))
        assert set(await waiting(client)) == {sent}


async def test_a_new_time_is_one_time() -> None:
    async with served() as (_, client):
        producer = await client.create_producer("orders")
        sent = await scheduled(producer)
        bad: list[tuple[dict[str, Any], str]] = [
            ({}, "give deliver_at or deliver_after"),
            ({"deliver_at": 1, "deliver_after": 1}, "not both"),
            ({"deliver_at": -1}, "whole milliseconds"),
            ({"deliver_at": 2**63}, "whole milliseconds"),
            ({"deliver_at": 1e12}, "whole milliseconds"),
            ({"deliver_after": float("nan")}, "no span of time"),
            ({"deliver_after": "1h"}, "no span of time"),
        ]

        for given, said in bad:
            with pytest.raises(InvalidArgument, match=said):
                await producer.reschedule(sent, **given)


async def test_a_closed_producer_changes_nothing() -> None:
    async with served() as (_, client):
        await client.admin.topics.create("in-two", partitions=2)
        for topic in ("orders", "in-two"):
            producer = await client.create_producer(topic)
            sent = await scheduled(producer)
            await producer.close()

            with pytest.raises(AlreadyClosed):
                await producer.cancel(sent)
            with pytest.raises(AlreadyClosed):
                await producer.reschedule(sent, deliver_after=1)
            assert set(await waiting(client, topic)) == {sent}


@pytest.mark.parametrize("lost", ["on the way here", "between brokers"])
async def test_a_lost_answer_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Done twice they end the same, so there is a clear answer whatever became of the first."""
    methods: list[str] = []
    call_on = Connections.call_on

    async def answer_is_lost(
        self: Connections, channel: Any, address: str, method: str, *given: Any
    ) -> bytes:
        answer = await call_on(self, channel, address, method, *given)
        methods.append(method)
        if method.endswith("Scheduled") and methods.count(method) == 1:
            if lost == "on the way here":
                raise LinkLost(f"{address}: reset")
            told = to_error(ConnectionFailed("the owner was lost during the call"))
            return pb.ScheduleOutcomeReply(error=told).SerializeToString()
        return answer

    async with served() as (_, client):
        producer = await client.create_producer("orders")
        first, second = await scheduled(producer), await scheduled(producer)
        monkeypatch.setattr(Connections, "call_on", answer_is_lost)

        assert await producer.cancel(first) is CANCELLED
        assert await producer.reschedule(second, deliver_after=7200) is MOVED
        assert [name.rpartition("/")[2] for name in methods if name.endswith("Scheduled")] == [
            "CancelScheduled"] * 2 + ["MoveScheduled"] * 2


def test_it_blocks_without_a_loop(url: str) -> None:
    with BlockingClient(url) as client, client.create_producer("orders") as producer:
        first = producer.send(b"x", deliver_after=3600)
        [second] = producer.send_many([b"x"], deliver_after=3600).result()
        assert isinstance(first, ScheduledId) and isinstance(second, ScheduledId)

        assert producer.cancel(first) is CANCELLED
        assert producer.reschedule(second, deliver_after=timedelta(hours=2)) is MOVED
        assert producer.reschedule(first, deliver_at=1) is CANCELLED
        assert client.admin.schedule.count("orders") == 1

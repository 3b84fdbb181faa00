"""A call on a partitioned topic does all its partitions, wherever each is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from broker.administration.routed import RoutedAdministration
from broker.conversation import LookupResult, NotServing
from broker.settings import BrokerLimits
from magnetar.admin.topic_values import TopicSummary
from magnetar.enums import InitialPosition
from magnetar.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidArgument,
    OperationTimeout,
    ResourceExists,
    ResourceInUse,
    SubscriptionNotFound,
    TopicNotFound,
    TopicTerminated,
)
from magnetar.message_id import MessageId
from magnetar.topic import TopicName
from metadata.tenants import (
    NamespaceRecord,
    NamespaceRepository,
    TenantRecord,
    TenantRepository,
)
from metadata.topics import TopicRepository
from tenants.administration import TenantAdministration
from tenants.policy_view import PolicyView
from tests.broker.administered import Directly
from tests.broker.world import TOPIC, Node, Publisher, world

PARTITIONS = [f"{TOPIC}-partition-{number}" for number in range(3)]
EARLIEST = InitialPosition.Earliest


@asynccontextmanager
async def two_brokers(
    limits: BrokerLimits | None = None,
) -> AsyncIterator[tuple[list[Node], RoutedAdministration]]:
    """With a topic of three partitions, of which the first two hold a message each."""
    async with world() as made:
        between = Directly()
        nodes = [await made.broker(name, limits=limits) for name in ("b1", "b2")]
        administrations = [between.add(node) for node in nodes]
        await administrations[0].topics.topics.create(TOPIC, 3)
        for number in range(2):
            publisher = await Publisher.open(nodes[number], "p", topic=PARTITIONS[number])
            await publisher.publish(b"%d" % number)
        yield nodes, administrations[1].topics


async def test_a_partitioned_topic_is_one_in_the_list_and_grows() -> None:
    async with two_brokers() as (_, admin):
        assert (await admin.topics.list("public/default")).topics == (TopicSummary(TOPIC, 3),)

        grown = await admin.topics.grow(TOPIC, 5)

        assert grown.partitions == (await admin.topics.get(TOPIC)).partitions == 5
        with pytest.raises(InvalidArgument):
            await admin.topics.grow(TOPIC, 2)


async def test_stats_are_summed_with_the_parts_beside() -> None:
    async with two_brokers() as (_, admin):
        await admin.subscriptions.create(PARTITIONS[0], "s", EARLIEST)

        stats = await admin.topics.stats(TOPIC)

        assert (stats.topic, stats.messages, stats.incoming.messages) == (TOPIC, 2, 2)
        assert [one.topic for one in stats.partitions] == PARTITIONS
        assert [one.owner for one in stats.partitions] == ["b1", "b2", ""]
        assert stats.subscriptions[0].backlog_messages == 1
        assert len(stats.producers) == 2
        with pytest.raises(TopicNotFound):
            await admin.topics.get(PARTITIONS[2])  # looking makes nothing


async def test_a_subscription_is_made_on_all_partitions() -> None:
    async with two_brokers() as (_, admin):
        await admin.subscriptions.create(TOPIC, "s", EARLIEST)

        found = await admin.subscriptions.stats(TOPIC, "s")
        peeked = await admin.subscriptions.peek(TOPIC, "s", 10)

        assert found.backlog_messages == 2
        assert [message.data for message in peeked] == [b"0", b"1"]
        assert [message.message_id.partition for message in peeked] == [0, 1]
        for partition in PARTITIONS:
            assert await admin.subscriptions.list(partition) == ("s",)
        await admin.subscriptions.delete(TOPIC, "s")
        assert await admin.subscriptions.list(TOPIC) == ()


async def test_partitions_without_the_subscription_are_passed_over() -> None:
    async with two_brokers() as (_, admin):
        await admin.subscriptions.create(PARTITIONS[1], "s")

        await admin.subscriptions.seek(TOPIC, "s", EARLIEST)

        assert (await admin.subscriptions.stats(TOPIC, "s")).backlog_messages == 1
        with pytest.raises(SubscriptionNotFound):
            await admin.subscriptions.seek(TOPIC, "t", EARLIEST)


async def test_an_id_leads_to_its_partition() -> None:
    async with two_brokers() as (_, admin):
        first, second = await admin.messages.last_ids(TOPIC)

        assert (await admin.messages.get(TOPIC, second)).data == b"1"
        assert (await admin.messages.get(PARTITIONS[0], first)).data == b"0"
        for topic, wrong in (
            (TOPIC, MessageId(-1, *_position(first))), (PARTITIONS[0], second),
            (TOPIC, MessageId(7, *_position(first))),
            (TOPIC, MessageId(1, *_position(first))),  # the other partition's ledger
        ):
            with pytest.raises(InvalidArgument):
                await admin.messages.get(topic, wrong)


def _position(message_id: MessageId) -> tuple[int, int, int]:
    return message_id.ledger_id, message_id.entry_id, message_id.batch_index


async def test_a_place_by_id_is_of_one_partition() -> None:
    async with two_brokers() as (_, admin):
        message_id = (await admin.messages.last_ids(TOPIC))[0]

        with pytest.raises(InvalidArgument, match="partition-0"):
            await admin.subscriptions.create(TOPIC, "s", message_id)
        await admin.subscriptions.create(PARTITIONS[0], "s", message_id)

        assert (await admin.subscriptions.stats(TOPIC, "s")).backlog_messages == 1


async def test_partitions_beyond_the_last_do_not_exist() -> None:
    async with two_brokers() as (_, admin):
        for name in (f"{TOPIC}-partition-3", "other-partition-0"):
            with pytest.raises(TopicNotFound):
                await admin.topics.stats(name)


async def test_an_error_tells_how_far_the_call_came() -> None:
    async with two_brokers() as (nodes, admin):
        topic = nodes[0].broker.registry.get(PARTITIONS[0])
        assert topic is not None

        async def silent(*_: object) -> None:
            raise OperationTimeout("no answer")

        create, topic.create_subscription = (  # type: ignore[method-assign]
            topic.create_subscription, silent
        )

        with pytest.raises(OperationTimeout, match="2 of 3 partitions were done"):
            await admin.subscriptions.create(TOPIC, "s")

        assert await admin.subscriptions.list(PARTITIONS[0]) == ()
        topic.create_subscription = create  # type: ignore[method-assign]
        await admin.subscriptions.create(TOPIC, "s")  # what was missing
        assert await admin.subscriptions.list(PARTITIONS[0]) == ("s",)
        with pytest.raises(ResourceExists):
            await admin.subscriptions.create(TOPIC, "s")


async def test_backlogs_of_all_partitions_are_given_up() -> None:
    async with two_brokers() as (_, admin):
        await admin.subscriptions.create(TOPIC, "s", EARLIEST)

        assert await admin.subscriptions.skip(TOPIC, "s", 1) == 2
        await admin.subscriptions.seek(TOPIC, "s", EARLIEST)
        assert await admin.subscriptions.clear_backlog(TOPIC, "s") == 2


async def test_termination_holds_for_partitions_never_used() -> None:
    async with two_brokers() as (nodes, admin):
        last = await admin.topics.terminate(TOPIC)

        assert [one.partition for one in last] == [0, 1]
        assert (await admin.topics.stats(TOPIC)).terminated
        with pytest.raises(TopicTerminated):
            await Publisher.open(nodes[0], "p", topic=PARTITIONS[2])


async def test_a_partitioned_topic_is_deleted_as_one() -> None:
    async with two_brokers() as (nodes, admin):
        tenants = TenantAdministration(nodes[0].session)
        await tenants.change_topic_policies(TopicName.parse(TOPIC), {"ack_quorum": 1})
        assert await admin.topics.truncate(TOPIC) == 2
        with pytest.raises(ResourceInUse, match="2 connected producers"):
            await admin.topics.delete(TOPIC)
        with pytest.raises(InvalidArgument, match="is a partition"):
            await admin.topics.delete(PARTITIONS[0], force=True)

        await admin.topics.delete(TOPIC, force=True)

        assert (await admin.topics.list("public/default")).topics == ()
        assert await TopicRepository(nodes[0].session).list("public", "default") == []
        assert await PolicyView(nodes[0].session).of_topic(TopicName.parse(TOPIC)) == {}


async def test_a_deletion_goes_on_when_it_is_asked_for_again() -> None:
    async with two_brokers() as (nodes, admin):
        lifecycle = nodes[0].broker.lifecycle
        delete = lifecycle.delete

        async def fails(topic: str, *, force: bool = False) -> None:
            raise OperationTimeout("no answer")

        lifecycle.delete = fails  # type: ignore[method-assign]
        with pytest.raises(OperationTimeout, match="2 of 3 partitions were done"):
            await admin.topics.delete(TOPIC, force=True)
        with pytest.raises(TopicNotFound):
            await Publisher.open(nodes[1], "p", topic=PARTITIONS[1])
        lifecycle.delete = delete  # type: ignore[method-assign]

        await admin.topics.delete(TOPIC, force=True)

        assert (await admin.topics.list("public/default")).topics == ()


async def test_or_goes_on_by_itself_when_nobody_asks() -> None:
    async with two_brokers(BrokerLimits(topic_round_reads_a_second=1e6)) as (nodes, _):
        for made in (
            TenantRepository(nodes[0].session).create(TenantRecord("public")),
            NamespaceRepository(nodes[0].session).create(NamespaceRecord("public", "default")),
        ):
            with suppress(AlreadyExists):
                await made
        names = TopicRepository(nodes[0].session)
        await nodes[0].broker.catalog.close_partitions(TopicName.parse(TOPIC))

        for node in nodes:
            await node.broker.rounds.walk()
        assert TOPIC in await names.list("public", "default")  # whoever began may be at it
        for node in nodes:
            await node.broker.rounds.walk()

        assert await names.list("public", "default") == []


async def test_who_goes_on_late_with_a_deletion_spares_the_topic_that_was_made_again() -> None:
    async with two_brokers() as (nodes, admin):
        lifecycle = nodes[0].broker.lifecycle
        delete, reached, go_on = lifecycle.delete, asyncio.Event(), asyncio.Event()

        async def held(topic: str, *, force: bool = False) -> None:
            reached.set()
            await go_on.wait()
            await delete(topic, force=force)

        lifecycle.delete = held  # type: ignore[method-assign]
        late = asyncio.ensure_future(admin.topics.delete(TOPIC, force=True))
        await reached.wait()
        lifecycle.delete = delete  # type: ignore[method-assign]
        await admin.topics.delete(TOPIC, force=True)
        await admin.topics.create(TOPIC, 3)
        publisher = await Publisher.open(nodes[0], "p", topic=PARTITIONS[0])
        await publisher.publish(b"new")

        go_on.set()
        with pytest.raises((ResourceInUse, TopicNotFound)):
            await late

        await publisher.publish(b"newer")
        assert (await admin.topics.stats(TOPIC)).messages == 2
        with pytest.raises(TopicNotFound):
            await nodes[0].broker.catalog.forget_topic(TopicName.parse(TOPIC))
        await admin.topics.delete(TOPIC, force=True)
        assert (await admin.topics.list("public/default")).topics == ()


async def test_a_topic_that_is_being_deleted_does_not_grow() -> None:
    async with two_brokers() as (nodes, admin):
        await nodes[0].broker.catalog.close_partitions(TopicName.parse(TOPIC))

        with pytest.raises(TopicNotFound):
            await admin.topics.grow(TOPIC, 5)


async def test_what_is_done_in_part_is_not_told_as_not_done() -> None:
    async with two_brokers() as (nodes, admin):
        await admin.subscriptions.create(TOPIC, "s", EARLIEST)
        lookup = nodes[1].broker.lookup

        async def stops(topic: str, *given: str, create: bool = True) -> LookupResult:
            if topic == PARTITIONS[0]:
                raise NotServing("this broker is leaving the cluster")
            return await lookup(topic, *given, create=create)

        nodes[1].broker.lookup = stops  # type: ignore[assignment, method-assign]

        with pytest.raises(ConnectionFailed, match="2 of 3 partitions were done") as told:
            await admin.subscriptions.skip(TOPIC, "s", 1)

        assert type(told.value) is ConnectionFailed  # any other and the client asks elsewhere

"""Who serves a topic, and what happens when brokers come, go, fall silent or lose their session."""

from __future__ import annotations

import asyncio

import pytest

from broker.conversation import InitialPosition
from broker.ownership import ProbeResult
from broker.settings import BrokerLimits
from magnetar.errors import (
    ConnectionFailed,
    InvalidTopicName,
    MessageTooLarge,
    NotOwner,
    TopicNotFound,
)
from magnetar.ids import BrokerId
from magnetar.topic import TopicName
from metadata.store import SessionState
from tenants.administration import TenantAdministration
from tenants.policies import TopicPolicies, parse_changes
from tests.broker.world import TOPIC, Publisher, Subscriber, settle, until, world

ONE, TWO, THREE = "127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"


async def test_all_brokers_send_clients_of_a_new_topic_to_the_same_one() -> None:
    async with world() as made:
        nodes = [await made.broker(name) for name in ("b1", "b2", "b3")]
        for number in range(20):
            answers = {
                (await node.broker.lookup(f"t{number}")).owner_address for node in nodes
            }
            assert len(answers) == 1
        assert all(len(node.broker.registry) > 0 for node in nodes)


async def test_an_owned_topic_is_served_by_its_owner_only() -> None:
    async with world() as made:
        one, two = await made.broker("b1"), await made.broker("b2")
        await Publisher.open(one)

        found = await two.broker.lookup("orders")

        assert found.owner_address == ONE and found.topic == TOPIC and not found.relay
        with pytest.raises(NotOwner):
            await Publisher.open(two)


async def test_names_and_policies_are_checked() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(auto_create_topics=False))
        with pytest.raises(InvalidTopicName):
            await node.broker.lookup("a b")
        with pytest.raises(TopicNotFound):
            await node.broker.lookup("non-persistent://public/default/x")
        with pytest.raises(TopicNotFound):
            await node.broker.lookup("orders")
        with pytest.raises(TopicNotFound):
            await node.broker.lookup("nobody/knows/it")


async def test_a_dead_owners_topics_are_taken_at_once() -> None:
    async with world() as made:
        one, two = await made.broker("b1"), await made.broker("b2")
        await (await Publisher.open(one)).publish(b"x")
        subscriber = await Subscriber.open(one)
        await made.kill(one)
        await until(lambda: len(two.broker.directory.all()) == 1)

        assert (await two.broker.lookup("orders")).owner_address == TWO

        again = await Subscriber.open(two)
        await (await Publisher.open(two)).publish(b"y")
        assert await again.receive(1) == [b"y"]
        assert subscriber.payloads == []


async def test_an_owner_that_answers_the_probe_keeps_its_topic() -> None:
    async with world() as made:
        one, two = await made.broker("b1"), await made.broker("b2")
        await Publisher.open(one)

        found = await two.broker.lookup("orders", ONE)

        assert found.owner_address == ONE and found.relay
        assert [str(address) for address in two.probe.asked] == [ONE]
        assert await two.broker.owner_address("orders") == one.broker._address


async def test_only_the_owner_is_probed() -> None:
    async with world() as made:
        one, two = await made.broker("b1"), await made.broker("b2")
        await Publisher.open(one)

        found = await two.broker.lookup("orders", "169.254.169.254:80")

        assert found.owner_address == ONE and not found.relay
        assert two.probe.asked == []


async def test_an_owner_that_refuses_loses_its_topic_and_learns_of_it() -> None:
    async with world() as made:
        one, two = await made.broker("b1"), await made.broker("b2")
        publisher = await Publisher.open(one)
        await publisher.publish(b"x")
        two.probe.result = ProbeResult.REFUSED

        found = await two.broker.lookup("orders", ONE)

        assert found.owner_address == TWO
        assert (await two.topic()).guarded_dispatch_blocked() is None
        await until(lambda: bool(publisher.ended))
        assert one.broker.registry.get(TOPIC) is None
        assert (await one.broker.lookup("orders")).owner_address == TWO


async def test_after_a_silent_owner_exclusive_dispatch_waits_and_publishing_does_not() -> None:
    async with world() as made:
        one, two = await made.broker("b1"), await made.broker("b2")
        await Publisher.open(one)
        await Subscriber.open(one)
        two.probe.result = ProbeResult.SILENT

        await two.broker.lookup("orders", ONE)
        exclusive = await Subscriber.open(two)
        shared = await Subscriber.open(two, "shared", shared=True)
        await (await Publisher.open(two)).publish(b"x")

        assert await shared.receive(1) == [b"x"]
        await settle()
        assert exclusive.payloads == []
        await made.kill(one)  # its incarnation ends
        assert await exclusive.receive(1) == [b"x"]


async def test_takeovers_are_limited_for_each_topic() -> None:
    async with world() as made:
        one = await made.broker("b1")
        two = await made.broker("b2", limits=BrokerLimits(takeover_pause_s=5))
        await Publisher.open(one)
        two.probe.result = ProbeResult.REFUSED
        assert (await two.broker.lookup("orders", ONE)).owner_address == TWO
        one.probe.result = ProbeResult.REFUSED
        assert (await one.broker.lookup("orders", TWO)).owner_address == ONE
        await until(lambda: two.broker.registry.get(TOPIC) is None)

        assert (await two.broker.lookup("orders", ONE)).owner_address == ONE
        two.clock.ahead_s += 6
        assert (await two.broker.lookup("orders", ONE)).owner_address == TWO


async def test_a_suspended_session_stops_exclusive_dispatch_after_two_thirds() -> None:
    async with world() as made:
        node = await made.broker()
        exclusive = await Subscriber.open(node)
        shared = await Subscriber.open(node, "shared", shared=True)
        publisher = await Publisher.open(node)
        await publisher.publish(b"0")
        await exclusive.receive(1)

        node.session.suspend()
        silence = [1.0]
        node.session.silence_s = lambda: silence[0]  # type: ignore[method-assign]
        await publisher.publish(b"1")
        assert await exclusive.receive(2) == [b"0", b"1"]
        silence[0] = node.session.session_timeout_s * 0.7
        await publisher.publish(b"2")
        assert await shared.receive(3) == [b"0", b"1", b"2"]
        await settle()
        assert len(exclusive.payloads) == 2

        silence[0] = 0.0
        node.session.resume()
        assert await exclusive.receive(3) == [b"0", b"1", b"2"]


async def test_a_lost_session_closes_everything_and_a_new_incarnation_comes_back() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        await publisher.publish(b"x")
        before = node.broker.incarnation

        node.session.expire()
        await until(lambda: bool(publisher.ended))
        with pytest.raises(ConnectionFailed):
            await Publisher.open(node)
        await until(lambda: node.broker.serving)

        assert node.session.state is SessionState.CONNECTED
        assert node.broker.incarnation != before
        again = await Publisher.open(node)
        await again.publish(b"y")
        assert (await node.topic()).log.end_ordinal == 2


async def test_idle_topics_are_unloaded_and_come_back() -> None:
    async with world() as made:
        limits = BrokerLimits(idle_unload_s=100, maintenance_interval_s=0.01)
        one, two = await made.broker("b1", limits=limits), await made.broker("b2")
        publisher = await Publisher.open(one)
        await publisher.publish(b"x")
        one.clock.ahead_s += 1_000
        await settle()
        assert len(one.broker.registry) == 1  # in use
        publisher.session.close()

        one.clock.ahead_s += 1_000
        await until(lambda: len(one.broker.registry) == 0)
        await settle()

        record, _ = await made.ground.topics.get(TOPIC)
        assert record.owner is not None and record.owner.incarnation == ""
        await (await Publisher.open(two)).publish(b"y")
        assert (await two.topic()).log.end_ordinal == 2


async def test_another_process_with_the_same_id_replaces_this_one() -> None:
    async with world() as made:
        one = await made.broker("b1")
        publisher = await Publisher.open(one)

        await made.broker("b1")
        await until(lambda: bool(publisher.ended))

        assert not one.broker.serving


async def test_changed_policies_reach_loaded_topics() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        topic = await node.topic()
        administration = TenantAdministration(made.ground.session)

        await administration.change_namespace_policies(
            "public", "default", parse_changes(["max_message_size_bytes=1024"])
        )
        await until(lambda: topic.policies.max_message_size_bytes == 1024)

        publisher.session.publish(publisher.batch(b"x" * 2_000))
        await until(lambda: bool(publisher.receipts))
        assert isinstance(publisher.receipts[0].error, MessageTooLarge)


async def test_of_two_brokers_that_find_a_topic_unowned_the_slower_lets_it_be() -> None:
    async with world() as made:
        first = await made.broker("b1")
        await (await Publisher.open(first)).publish(b"x")
        quick, slow = await made.broker("b2"), await made.broker("b3")
        await made.kill(first)
        await until(lambda: slow.broker.directory.get(BrokerId("b1")) is None)
        decided, go_on = asyncio.Event(), asyncio.Event()
        resolve = slow.resolver.resolve

        async def held(name: TopicName) -> TopicPolicies:
            decided.set()
            await go_on.wait()
            return await resolve(name)

        slow.resolver.resolve = held  # type: ignore[method-assign]
        coming = asyncio.ensure_future(slow.broker.existing_topic(TOPIC))
        await decided.wait()
        subscriber = await Subscriber.open(quick, initial_position=InitialPosition.EARLIEST)
        go_on.set()

        with pytest.raises(NotOwner):
            await coming
        record, _ = await made.ground.topics.get(TOPIC)
        assert record.owner is not None and record.owner.broker_id == "b2"
        assert await subscriber.receive(1) == [b"x"]
        assert not subscriber.ended

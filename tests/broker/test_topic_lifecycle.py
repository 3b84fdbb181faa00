"""Topics that are terminated, truncated and deleted, also by owners that die meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest

from broker.conversation import InitialPosition
from broker.settings import BrokerLimits
from broker.topic_deletion import TopicDeletion
from magnetar.errors import (
    InvalidArgument,
    LedgerNotFound,
    MagnetarError,
    NotFound,
    ResourceInUse,
    TopicNotFound,
    TopicTerminated,
)
from magnetar.ids import LedgerId
from magnetar.topic import TopicName
from metadata import paths
from metadata.tenants import PolicyRepository
from tenants.administration import TenantAdministration
from tenants.policies import TopicPolicies
from tests.broker.world import (
    TOPIC,
    Node,
    Publisher,
    Subscriber,
    World,
    position_of,
    settle,
    until,
    world,
)
from tests.metadata.paused_store import PausedStore

EARLIEST = InitialPosition.EARLIEST
NO_AUTO = TopicPolicies(auto_create_topics=False)


async def refused(publisher: Publisher, payload: bytes = b"late") -> MagnetarError | None:
    """How one batch more is answered."""
    before = len(publisher.receipts)
    publisher.session.publish(publisher.batch(payload))
    await until(lambda: len(publisher.receipts) > before)
    return publisher.receipts[-1].error


async def ledgers_left(made: World, ledger_ids: Iterable[LedgerId]) -> list[LedgerId]:
    left = []
    for ledger_id in ledger_ids:
        try:
            await made.ground.ledgers.get(ledger_id)
        except LedgerNotFound:
            continue
        left.append(ledger_id)
    return left


# --- terminate


async def test_a_terminated_topic_ends_after_its_last_message() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"1")
        last = await publisher.publish(b"2", b"3")

        ended_at = await node.broker.lifecycle.terminate(TOPIC)

        assert ended_at is not None
        assert (ended_at.ledger_id, ended_at.entry_id, ended_at.batch_index) == (
            last.ledger_id, last.entry_id, 1
        )
        assert isinstance(await refused(publisher), TopicTerminated)
        with pytest.raises(TopicTerminated):
            await Publisher.open(node)
        subscriber = await Subscriber.open(node, initial_position=EARLIEST)
        assert await subscriber.receive(3) == [b"1", b"2", b"3"]


async def test_a_termination_is_for_ever_and_can_be_repeated() -> None:
    async with world() as made:
        node = await made.broker()
        await (await Publisher.open(node)).publish(b"only")
        first = await node.broker.lifecycle.terminate(TOPIC)
        await made.kill(node)

        other = await made.broker("b2")

        assert await other.broker.lifecycle.terminate(TOPIC) == first
        with pytest.raises(TopicTerminated):
            await Publisher.open(other)


async def test_an_empty_topic_can_be_terminated() -> None:
    async with world() as made:
        node = await made.broker()
        await node.topic()

        assert await node.broker.lifecycle.terminate(TOPIC) is None


async def test_what_was_accepted_before_a_termination_is_stored_and_the_rest_refused() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"0")
        for bookie in made.ground.bookies.bookies.values():
            bookie.held = True
        publisher.session.publish(publisher.batch(b"before"))
        terminating = asyncio.ensure_future(node.broker.lifecycle.terminate(TOPIC))
        await settle()

        publisher.session.publish(publisher.batch(b"after"))
        assert publisher.session.congested
        assert len(publisher.receipts) == 1
        ready = asyncio.ensure_future(publisher.session.ready())
        for bookie in made.ground.bookies.bookies.values():
            bookie.release()
        ended_at = await terminating

        await until(lambda: len(publisher.receipts) == 3)
        before, after = publisher.receipts[1:]
        assert ended_at is not None and before.error is None
        assert (before.ledger_id, before.entry_id) == (ended_at.ledger_id, ended_at.entry_id)
        assert isinstance(after.error, TopicTerminated)
        assert not publisher.session.congested
        await asyncio.wait_for(ready, 5)


async def test_a_topic_with_scheduled_messages_is_not_terminated() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        publisher.session.publish(publisher.batch(b"later", deliver_at_ms=[1 << 50]))
        await until(lambda: len(publisher.receipts) == 1)
        topic = await node.topic()

        with pytest.raises(ResourceInUse, match="1 messages"):
            await node.broker.lifecycle.terminate(TOPIC)

        assert not topic.gate.terminated
        await publisher.publish(b"goes on")


async def test_a_batch_sent_again_after_a_termination_gets_the_receipt_it_had() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        first = await publisher.publish(b"1")
        await node.broker.lifecycle.terminate(TOPIC)

        again = await publisher.publish(b"1", first=first.first_sequence_id)

        assert (again.ledger_id, again.entry_id) == (first.ledger_id, first.entry_id)


async def test_who_comes_back_to_a_terminated_topic_hears_what_is_stored() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        first = await publisher.publish(b"1")
        epoch = publisher.session.producer_epoch
        publisher.session.close()
        await node.broker.lifecycle.terminate(TOPIC)

        again = await Publisher.open(node, "p", epoch)

        receipt = await again.publish(b"1", first=first.first_sequence_id)
        assert (receipt.ledger_id, receipt.entry_id) == (first.ledger_id, first.entry_id)
        assert isinstance(await refused(again), TopicTerminated)


# --- truncate


async def test_truncating_deletes_every_message_and_moves_every_subscription() -> None:
    async with world() as made:
        node = await made.broker()
        slow = await Subscriber.open(node, "slow", permits=0)
        publisher = await Publisher.open(node, "p")
        for number in range(5):
            await publisher.publish(b"%d" % number)
        topic = await node.topic()
        ledgers = [info.ledger_id for info in topic.log.log.record.ledgers]

        assert await node.broker.lifecycle.truncate(TOPIC) == 5

        assert topic.log.log.record.ledgers == ()
        assert topic.state.subscriptions["slow"].backlog_messages == 0
        assert await ledgers_left(made, ledgers) == []
        await publisher.publish(b"new")
        slow.session.add_permits(10)
        assert await slow.receive(1) == [b"new"]


async def test_a_truncated_topic_forgets_neither_sources_nor_ordinals() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        first = await publisher.publish(b"1", b"2", b"3")
        await node.broker.lifecycle.truncate(TOPIC)
        await made.kill(node)

        other = await made.broker("b2")
        again = await Publisher.open(other, "p")

        assert again.session.last_sequence_id == 2
        known = await again.publish(b"1", b"2", b"3", first=0)
        assert (known.ledger_id, known.entry_id) == (first.ledger_id, first.entry_id)
        assert (await other.topic()).log.end_ordinal == 3


async def test_messages_delivered_before_a_truncation_can_still_be_acknowledged() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1")
        await subscriber.receive(1)
        await node.broker.lifecycle.truncate(TOPIC)

        assert await subscriber.acknowledge(position_of(subscriber.deliveries[0])) is None


async def test_publishing_goes_on_while_a_topic_is_truncated() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, "s", permits=0)
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"old")
        truncating = asyncio.ensure_future(node.broker.lifecycle.truncate(TOPIC))
        stored = [await publisher.publish(b"%d" % number) for number in range(20)]
        await truncating

        subscriber.session.add_permits(100)
        last = await publisher.publish(b"last")
        await until(lambda: b"last" in subscriber.payloads)

        assert len({(one.ledger_id, one.entry_id) for one in (*stored, last)}) == 21
        assert subscriber.payloads == sorted(
            subscriber.payloads, key=lambda one: 99 if one == b"last" else int(one)
        )


# --- delete


async def test_a_deleted_topic_leaves_nothing_and_a_new_one_is_fresh() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        for number in range(3):
            await publisher.publish(b"%d" % number)
            await (await node.topic()).log.log.roll()
        publisher.session.close()
        await TenantAdministration(node.session).change_topic_policies(
            TopicName.parse(TOPIC), {"message_ttl_ms": 5}
        )
        record = (await node.topic()).log.log.record

        await node.broker.lifecycle.delete(TOPIC)

        assert len(record.every_ledger) >= 4
        assert await ledgers_left(made, record.every_ledger) == []
        with pytest.raises(NotFound):
            await made.ground.topics.get(TOPIC)
        with pytest.raises(NotFound):
            await PolicyRepository(node.session).get_topic(TOPIC)
        fresh = await Publisher.open(node, "p")
        assert fresh.session.last_sequence_id == -1
        topic = await node.topic()
        assert topic.log.end_ordinal == 0
        assert topic.policies.message_ttl_ms == 0


async def test_a_topic_in_use_is_not_deleted() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "writer")
        with pytest.raises(ResourceInUse, match="writer"):
            await node.broker.lifecycle.delete(TOPIC)
        publisher.session.close()
        subscriber = await Subscriber.open(node, "billing")
        subscriber.session.close()
        with pytest.raises(ResourceInUse, match="billing"):
            await node.broker.lifecycle.delete(TOPIC)
        await (await node.topic()).delete_subscription("billing")
        reader = await Subscriber.open(node, "")
        with pytest.raises(ResourceInUse, match="readers"):
            await node.broker.lifecycle.delete(TOPIC)
        reader.session.close()

        await node.broker.lifecycle.delete(TOPIC)

        with pytest.raises(NotFound):
            await made.ground.topics.get(TOPIC)


async def test_deleting_by_force_tells_producers_and_consumers() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        subscriber = await Subscriber.open(node)
        await publisher.publish(b"x")

        await node.broker.lifecycle.delete(TOPIC, force=True)

        assert isinstance(publisher.ended[0], TopicNotFound)
        assert isinstance(subscriber.ended[0], TopicNotFound)
        assert node.broker.registry.all() == []


async def test_ending_what_does_not_exist_makes_nothing() -> None:
    async with world() as made:
        node = await made.broker()
        lifecycle = node.broker.lifecycle
        for work in (lifecycle.delete, lifecycle.truncate, lifecycle.terminate):
            with pytest.raises(TopicNotFound):
                await work(TOPIC)
        await node.broker.catalog.create_topic(TopicName.parse("parts"), 2)
        with pytest.raises(InvalidArgument, match="partition"):
            await lifecycle.delete("parts")

        with pytest.raises(NotFound):
            await made.ground.topics.get(TOPIC)


async def interrupt(node: Node, ledgers_deleted: int) -> None:
    """Begin to delete by force; the metadata fall silent after so many ledgers."""
    reached = asyncio.Event()
    delete, left = node.broker._ledgers.delete, ledgers_deleted

    async def some(ledger_id: LedgerId) -> None:
        nonlocal left
        if left == 0:
            reached.set()
            await asyncio.Event().wait()
        left -= 1
        await delete(ledger_id)

    node.broker._ledgers.delete = some  # type: ignore[method-assign]
    node.deleting = asyncio.ensure_future(  # type: ignore[attr-defined]
        node.broker.lifecycle.delete(TOPIC, force=True)
    )
    await reached.wait()


@pytest.mark.parametrize("ledgers_deleted", range(4))
async def test_an_interrupted_deletion_is_finished_by_whoever_comes_next(
    ledgers_deleted: int,
) -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        for number in range(3):
            await publisher.publish(b"%d" % number)
            await (await node.topic()).log.log.roll()
        record = (await node.topic()).log.log.record
        await interrupt(node, ledgers_deleted)
        assert (await made.ground.topics.get(TOPIC))[0].deleting
        await made.kill(node)

        other = await made.broker("b2")
        await other.broker.lookup(TOPIC)

        assert await ledgers_left(made, record.every_ledger) == []
        fresh, _ = await made.ground.topics.get(TOPIC)
        assert not fresh.deleting and fresh.ledgers == ()
        assert (await Publisher.open(other, "p")).session.last_sequence_id == -1


async def test_a_topic_being_deleted_is_gone_already_where_none_comes_into_being_by_use() -> None:
    async with world() as made:
        node = await made.broker()
        await (await Publisher.open(node)).publish(b"x")
        await interrupt(node, 0)
        await made.kill(node)
        other = await made.broker("b2", policies=NO_AUTO)

        with pytest.raises(TopicNotFound):
            await other.broker.lookup(TOPIC)

        with pytest.raises(NotFound):
            await made.ground.topics.get(TOPIC)


async def test_while_its_owner_deletes_a_topic_others_wait_for_it() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(drain_timeout_s=0.1))
        other = await made.broker("b2")
        await (await Publisher.open(node)).publish(b"x")
        await interrupt(node, 0)

        found = await other.broker.lookup(TOPIC)

        assert found.owner_address == "127.0.0.1:7001"
        looking = asyncio.ensure_future(node.broker.lookup(TOPIC))
        await settle()
        assert not looking.done()
        looking.cancel()


async def test_a_zombie_of_the_former_owner_is_fenced_before_its_ledgers_go() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"x")
        topic = await node.topic()
        record, version = await made.ground.topics.get(TOPIC)
        zombie = topic.log.log
        await made.ground.topics.update(replace(record, deleting=True), version)
        node.broker._brokers_changed = lambda: None  # type: ignore[method-assign]
        await node.broker._brokers.unregister(node.broker.settings.broker_id)

        other = await made.broker("b2")
        await other.broker.lookup(TOPIC)

        results: list[object] = []
        zombie.append(b"late", results.append)
        await until(lambda: bool(results))
        assert isinstance(results[0], MagnetarError)


async def test_who_finishes_a_deletion_late_spares_the_topic_that_was_made_again() -> None:
    async with world() as made:
        node = await made.broker()
        await (await Publisher.open(node)).publish(b"old")
        await interrupt(node, 0)
        await made.kill(node)
        late, quick = await made.broker("b2"), await made.broker("b3")
        store = PausedStore(late.session)
        deletion = TopicDeletion(
            store, late.broker.catalog, late.broker._ledgers,  # type: ignore[arg-type]
            late.broker._me,
        )
        first_look = store.pause("get", paths.topic(TOPIC))
        finishing = asyncio.ensure_future(deletion.finish(TOPIC))
        await first_look.reached.wait()
        after_it = store.pause("get", paths.topic_bucket(TOPIC))
        write = store.pause("put", paths.topic(TOPIC))
        first_look.let_go()
        await asyncio.wait(
            [asyncio.ensure_future(one.reached.wait()) for one in (after_it, write)],
            return_when=asyncio.FIRST_COMPLETED,
        )

        await quick.broker._deletion.finish(TOPIC)
        publisher = await Publisher.open(quick)
        await publisher.publish(b"new")
        after_it.let_go()
        write.let_go()
        await asyncio.wait([finishing])

        record, _ = await made.ground.topics.get(TOPIC)
        assert record.owner == (await quick.topic()).log.log.owner
        await publisher.publish(b"newer")


async def test_an_idle_topic_is_not_let_go_while_it_is_being_deleted() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(idle_unload_s=0.0))
        publisher = await Publisher.open(node)
        await publisher.publish(b"x")
        publisher.session.close()
        topic = await node.topic()
        mark, go_on = topic.log.log.mark_deleting, asyncio.Event()

        async def held() -> None:
            await go_on.wait()
            await mark()

        topic.log.log.mark_deleting = held  # type: ignore[method-assign]
        deleting = asyncio.ensure_future(node.broker.lifecycle.delete(TOPIC))
        await until(lambda: topic.closing)

        await node.broker._maintain(topic)
        go_on.set()
        await deleting

        with pytest.raises(NotFound):
            await made.ground.topics.get(TOPIC)

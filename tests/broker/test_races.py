"""What happens at the same time as something else: opens, seeks, deletions, trims, failed loads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.backlog import expire_messages
from broker.conversation import InitialPosition, MessagePosition
from broker.settings import BrokerLimits
from broker.stored_entry import StoredEntry
from broker.topic import Topic
from broker.topic_state import TopicState
from ledger.managed_log import ManagedLog
from ledger.position import Position
from magnetar.errors import (
    ConnectionFailed,
    EntryUnknown,
    LedgerClosed,
    LedgerError,
    LedgerFenced,
    MagnetarError,
    NotOwner,
    ProducerFenced,
    SubscriptionNotFound,
)
from metadata.topics import LedgerInfo, TopicRecord
from tenants.policies import TopicPolicies
from tests.broker.world import (
    TOPIC,
    Publisher,
    Subscriber,
    position_of,
    settle,
    until,
    world,
)

EARLIEST = InitialPosition.EARLIEST
Change = Callable[[TopicRecord], TopicRecord]


async def test_a_producer_opens_only_when_the_names_last_batch_is_stored() -> None:
    """Otherwise it would number new messages as those in flight, and lose them as duplicates."""
    async with world() as made:
        node = await made.broker()
        first = await Publisher.open(node, "p")
        log = (await node.topic()).log.log
        append, held = log.append, []

        def hold(body: bytes, on_done: Callable[[Position | LedgerError], None]) -> None:
            append(body, lambda result: held.append((on_done, result)))

        log.append = hold  # type: ignore[method-assign]
        first.session.publish(first.batch(b"1"))
        first.session.publish(first.batch(b"2"))
        await until(lambda: len(held) == 2)

        opening = asyncio.create_task(Publisher.open(node, "p"))
        await settle()
        on_done, result = held[0]
        on_done(result)
        await settle()
        assert not opening.done()

        on_done, result = held[1]
        on_done(result)
        assert (await opening).session.last_sequence_id == 1


async def test_an_opening_given_up_does_not_end_its_producer_for_good() -> None:
    async with world() as made:
        node = await made.broker()
        current = await Publisher.open(node, "p")
        epoch = current.session.producer_epoch

        late = await Publisher.open(node, "p", epoch)
        assert isinstance(current.ended[0], ConnectionFailed)

        again = await Publisher.open(node, "p", epoch)
        assert isinstance(late.ended[0], ConnectionFailed)
        await Publisher.open(node, "p")
        assert isinstance(again.ended[0], ProducerFenced)


async def test_a_deletion_nobody_waits_for_any_more_is_done_all_the_same() -> None:
    async with world() as made:
        node = await made.broker()
        leaving = await Subscriber.open(node)
        deletion = asyncio.create_task(leaving.session.unsubscribe())
        await asyncio.sleep(0)

        deletion.cancel()
        await settle()
        leaving.session.close()

        assert not (await node.topic()).state.subscriptions
        await Subscriber.open(node)


async def test_a_snapshot_does_not_bring_back_what_is_being_deleted() -> None:
    async with world() as made:
        node = await made.broker()
        leaving = await Subscriber.open(node)
        topic = await node.topic()
        deletion = asyncio.create_task(leaving.session.unsubscribe())
        await asyncio.sleep(0)

        await asyncio.gather(topic.state.compact(), deletion)
        await made.stop(node)

        assert not (await (await made.broker()).topic()).state.subscriptions


async def test_a_seek_nobody_waits_for_any_more_stops_no_other_consumer() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        leaving = await Subscriber.open(node, shared=True)
        staying = await Subscriber.open(node, shared=True)
        await publisher.publish(b"1")
        seek = asyncio.create_task(leaving.session.seek(initial_position=EARLIEST))
        await settle(3)

        seek.cancel()
        await settle()
        leaving.session.close()
        await publisher.publish(b"2")

        await until(lambda: {b"1", b"2"} <= set(staying.payloads))


class HeldTrim:
    """A topic whose ledgers are all consumed, and whose trim waits before it is written."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        owned = topic.log.log._owned
        update = owned.update
        self._go_on, self._reached = asyncio.Event(), asyncio.Event()

        async def held(change: Change) -> TopicRecord:
            self._reached.set()
            await self._go_on.wait()
            return await update(change)

        owned.update = held  # type: ignore[method-assign]

    async def begin(self) -> None:
        self.topic.state.checkpoint(lambda _error: None)
        await settle()
        self._task = asyncio.create_task(self.topic.retention.apply())
        await self._reached.wait()

    async def finish(self) -> None:
        self._go_on.set()
        await self._task
        await self.topic.retention.apply()


@pytest.mark.parametrize("how", ["subscribe", "seek"])
async def test_a_cursor_at_messages_being_deleted_passes_them(how: str) -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(max_ledger_entries=2))
        publisher = await Publisher.open(node)
        consumer = await Subscriber.open(node)
        for number in range(6):
            await publisher.publish(b"%d" % number)
        await consumer.receive(6)
        await consumer.acknowledge(*map(position_of, consumer.deliveries))
        topic = await node.topic()
        trim = HeldTrim(topic)
        await trim.begin()

        if how == "seek":
            await consumer.session.seek(initial_position=EARLIEST)
        else:
            consumer = await Subscriber.open(node, "late", initial_position=EARLIEST)
        await trim.finish()

        await publisher.publish(b"x")
        await until(lambda: consumer.payloads[-1:] == [b"x"])
        await consumer.acknowledge(position_of(consumer.deliveries[-1]))
        subscription = topic.state.subscriptions[consumer.session.subscription_name]
        assert subscription.backlog_messages == 0
        assert subscription.durable_floor == topic.log.end_ordinal == 7


async def test_a_seek_back_keeps_what_was_about_to_be_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(max_ledger_entries=2))
        publisher = await Publisher.open(node)
        consumer = await Subscriber.open(node)
        for number in range(6):
            await publisher.publish(b"%d" % number)
        await consumer.receive(6)
        await consumer.acknowledge(*map(position_of, consumer.deliveries))
        topic = await node.topic()
        topic.state.checkpoint(lambda _error: None)
        await settle()
        find = topic.retention.deletable

        async def seek_meanwhile(consumed: int) -> list[LedgerInfo]:
            found = await find(consumed)
            await consumer.session.seek(initial_position=EARLIEST)
            return found

        monkeypatch.setattr(topic.retention, "deletable", seek_meanwhile)
        await topic.retention.apply()

        assert await consumer.receive(12) == [b"%d" % n for n in [*range(6), *range(6)]]


async def test_an_acknowledgement_too_late_for_a_closing_topic_disturbs_nothing() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        consumer = await Subscriber.open(node)
        await publisher.publish(b"1")
        await consumer.receive(1)
        topic = await node.topic()
        answers: list[MagnetarError | None] = []
        state = topic.log.log.state
        close = state.close

        async def close_meanwhile() -> None:
            closing = asyncio.create_task(close())
            await asyncio.sleep(0)
            positions = [position_of(one) for one in consumer.deliveries]
            consumer.session.acknowledge(positions, None, answers.append)
            await closing
            await until(lambda: bool(answers))

        state.close = close_meanwhile  # type: ignore[method-assign]
        await node.broker.registry.unload(topic)

        assert isinstance(answers[0], LedgerClosed)
        assert isinstance(consumer.ended[0], NotOwner)


async def test_an_abandoned_topic_stores_nothing_more() -> None:
    async with world() as made:
        node = await made.broker()
        await (await Publisher.open(node)).publish(b"1")
        topic = await node.topic()

        topic.abandon()
        results: list[Position | LedgerError] = []
        topic.log.log.append(b"late", results.append)
        await settle()

        assert isinstance(results[0], LedgerFenced)


async def test_a_failed_load_leaves_no_log_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as made:
        node = await made.broker()
        opened: list[ManagedLog] = []

        async def load(state: TopicState) -> None:
            opened.append(state._log.log)
            raise EntryUnknown("the bookies are silent")

        monkeypatch.setattr(TopicState, "load", load)
        with pytest.raises(EntryUnknown):
            await node.broker.lookup(TOPIC)
        with pytest.raises(LedgerFenced):
            await opened[0].update_record(lambda record: record)


async def test_whoever_waits_for_a_load_that_is_given_up_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as made:
        node = await made.broker()
        loading = asyncio.Event()

        async def load(_state: TopicState) -> None:
            loading.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(TopicState, "load", load)
        lookup = asyncio.create_task(node.broker.lookup(TOPIC))
        await loading.wait()
        node.broker.registry.abandon_all()

        with pytest.raises(NotOwner):
            await lookup


async def test_state_ledgers_of_former_owners_do_not_pile_up() -> None:
    async with world() as made:
        for _ in range(5):
            node = await made.broker(limits=BrokerLimits(state_ledgers=2))
            await Publisher.open(node, "p")
            topic = await node.topic()
            await topic.maintain()
            await made.kill(node)

        assert len(topic.log.log.record.state_ledgers) <= 3
        assert len(topic.state.sources) == 1


async def test_automatic_names_of_a_crashed_owner_are_forgotten_too() -> None:
    async with world() as made:
        node = await made.broker()
        await (await Publisher.open(node)).publish(b"1")
        await made.kill(node)

        node = await made.broker()
        topic = await node.topic()
        assert len(topic.state.sources) == 1
        node.clock.wall_offset_ms = 7 * 3_600_000
        await topic.maintain()

        assert len(topic.state.sources) == 0


async def test_an_acknowledgement_from_before_a_seek_does_not_come_after_it() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node)
        before = await Subscriber.open(node)
        for payload in (b"0", b"1", b"2"):
            await publisher.publish(payload)
        await before.receive(3)
        await made.kill(node)
        node = await made.broker("b2")
        topic = await node.topic()
        entry_at, looking, go_on = topic.log.entry_at, asyncio.Event(), asyncio.Event()

        async def held(ledger_id: int, entry_id: int) -> StoredEntry:
            looking.set()
            await go_on.wait()
            return await entry_at(ledger_id, entry_id)

        topic.log.entry_at = held  # type: ignore[method-assign]
        consumer = await Subscriber.open(node, permits=0)
        answers: list[MagnetarError | None] = []
        consumer.session.acknowledge(
            [position_of(before.deliveries[0])], position_of(before.deliveries[2]), answers.append)
        await looking.wait()

        await consumer.session.seek(initial_position=EARLIEST)
        go_on.set()
        await until(lambda: bool(answers))
        consumer.session.add_permits(10)

        assert answers == [None]
        assert await consumer.receive(3) == [b"0", b"1", b"2"]


async def test_a_backlog_is_not_said_to_be_given_up_when_its_topic_was_lost_meanwhile() -> None:
    async with world() as made:
        node = await made.broker()
        await Subscriber.open(node, permits=0)
        await (await Publisher.open(node)).publish(b"1")
        topic = await node.topic()
        before_time, reading, go_on = topic.log.before_time, asyncio.Event(), asyncio.Event()

        async def held(time_ms: int) -> Position:
            reading.set()
            await go_on.wait()
            return await before_time(time_ms)

        topic.log.before_time = held  # type: ignore[method-assign]
        expiring = asyncio.ensure_future(expire_messages(topic.state.subscriptions["s"], 0))
        await reading.wait()

        topic.abandon()
        go_on.set()

        with pytest.raises(NotOwner):
            await expiring


async def test_a_seek_of_a_deleted_subscription_does_not_move_the_next_of_its_name() -> None:
    async with world() as made:
        node = await made.broker()
        leaving = await Subscriber.open(node)
        await (await Publisher.open(node)).publish(b"1")
        topic = await node.topic()
        deleted = topic.state.subscriptions["s"]
        locate, looking, go_on = deleted.locate, asyncio.Event(), asyncio.Event()

        async def held(
            position: MessagePosition | None, initial: InitialPosition, time_ms: int,
            *, inclusive: bool = True,
        ) -> tuple[Position, int]:
            looking.set()
            await go_on.wait()
            return await locate(position, initial, time_ms, inclusive=inclusive)

        deleted.locate = held  # type: ignore[method-assign]
        seeking = asyncio.ensure_future(deleted.seek(None, EARLIEST, 0))
        await looking.wait()
        leaving.session.close()
        await topic.delete_subscription("s")
        await Subscriber.open(node)

        go_on.set()

        with pytest.raises(SubscriptionNotFound):
            await seeking
        await made.kill(node)
        topic = await (await made.broker("b2")).topic()
        assert topic.state.subscriptions["s"].backlog_messages == 0

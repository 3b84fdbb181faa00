"""Exclusive producers on real topics: alone, fenced, waiting, and known after an owner's death."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.conversation import Access, AccessMode
from broker.settings import BrokerLimits
from magnetar.errors import NotOwner, ProducerBusy, ProducerFenced
from tests.broker.world import Node, Publisher, settle, until, world

EXCLUSIVE = Access(AccessMode.EXCLUSIVE)
FENCING = Access(AccessMode.EXCLUSIVE_WITH_FENCING)
NO_GRACE = BrokerLimits(exclusive_return_s=0.0)
BOOKIES = ("k1", "k2", "k3")


def back(before: Publisher, mode: AccessMode = AccessMode.EXCLUSIVE) -> Access:
    return Access(mode, before.session.topic_epoch)


def waiting_open(
    node: Node, name: str, told: list[str]
) -> asyncio.Task[Publisher]:
    access = Access(AccessMode.WAIT_FOR_EXCLUSIVE, waiting=lambda: told.append(name))
    return asyncio.create_task(Publisher.open(node, name, access=access))


async def test_an_exclusive_producer_is_alone() -> None:
    async with world() as made:
        node = await made.broker()
        shared = await Publisher.open(node)
        with pytest.raises(ProducerBusy, match="1 other producers"):
            await Publisher.open(node, access=EXCLUSIVE)
        shared.session.close(for_good=True)

        exclusive = await Publisher.open(node, "e", access=EXCLUSIVE)

        assert exclusive.session.topic_epoch == 1 and shared.session.topic_epoch == 0
        for access in (Access(), EXCLUSIVE):
            with pytest.raises(ProducerBusy, match="exclusive producer, 'e'"):
                await Publisher.open(node, "e", access=access)
        await exclusive.publish(b"alone")
        exclusive.session.close(for_good=True)
        await (await Publisher.open(node)).publish(b"together")


async def test_fencing_ends_the_others_at_once() -> None:
    async with world() as made:
        node = await made.broker()
        told: list[str] = []
        shared = [await Publisher.open(node) for _ in range(2)]
        waiter = waiting_open(node, "w", told)
        await until(lambda: bool(told))

        winner = await Publisher.open(node, "f", access=FENCING)

        for loser in shared:
            assert isinstance(loser.ended[0], ProducerFenced)
            loser.session.publish(loser.batch(b"too late"))
        with pytest.raises(ProducerFenced):
            await waiter
        receipt = await winner.publish(b"mine")
        assert receipt.entry_id == 0
        second = await Publisher.open(node, "g", access=FENCING)
        assert (winner.session.topic_epoch, second.session.topic_epoch) == (1, 2)
        assert isinstance(winner.ended[0], ProducerFenced)


async def test_who_waits_gets_its_turn_in_the_order_of_coming() -> None:
    async with world() as made:
        node = await made.broker()
        told: list[str] = []
        first = await Publisher.open(node, access=EXCLUSIVE)
        waiters = [waiting_open(node, "second", told)]
        await until(lambda: told == ["second"])
        waiters.append(waiting_open(node, "third", told))
        await until(lambda: told == ["second", "third"])
        topic = await node.topic()
        assert topic.publishing.door.waiting == 2 and topic.in_use

        first.session.close(for_good=True)
        second = await waiters[0]
        await settle()
        assert not waiters[1].done()
        second.session.close()  # its link was lost: others may come
        third = await waiters[1]

        epochs = [one.session.topic_epoch for one in (first, second, third)]
        assert epochs == [1, 2, 3]
        with pytest.raises(ProducerFenced):
            await Publisher.open(
                node, "second", second.session.producer_epoch,
                access=back(second, AccessMode.WAIT_FOR_EXCLUSIVE),
            )


async def test_giving_up_leaves_the_queue() -> None:
    async with world() as made:
        node = await made.broker()
        told: list[str] = []
        first = await Publisher.open(node, access=EXCLUSIVE)
        gone, stays = waiting_open(node, "gone", told), waiting_open(node, "stays", told)
        await until(lambda: len(told) == 2)

        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        first.session.close(for_good=True)

        assert (await stays).session.topic_epoch == 2


async def test_waiting_ends_with_the_topic() -> None:
    async with world() as made:
        node = await made.broker()
        told: list[str] = []
        await Publisher.open(node, access=EXCLUSIVE)
        waiter = waiting_open(node, "w", told)
        await until(lambda: bool(told))

        await node.broker.registry.unload(await node.topic())

        with pytest.raises(NotOwner):
            await waiter


async def test_an_epoch_is_durable_before_it_is_told() -> None:
    async with world() as made:
        node = await made.broker("b1")
        await node.topic()
        for name in BOOKIES:
            made.ground.bookies[name].held = True
        opening = asyncio.create_task(Publisher.open(node, access=EXCLUSIVE))
        await settle()
        assert not opening.done()
        with pytest.raises(ProducerBusy):  # taken all the same
            await Publisher.open(node)

        for name in BOOKIES:
            made.ground.bookies[name].release()

        assert (await opening).session.topic_epoch == 1
        await made.kill(node)
        successor = await made.broker("b2")
        assert (await successor.topic()).publishing.door.topic_epoch == 1


async def test_the_exclusive_producer_comes_back_to_the_next_owner() -> None:
    async with world() as made:
        node = await made.broker("b1")
        before = await Publisher.open(node, "e", access=EXCLUSIVE)
        await before.publish(b"1")
        await made.kill(node)
        successor = await made.broker("b2")
        for access in (Access(), EXCLUSIVE):
            with pytest.raises(ProducerBusy, match="a moment to come back"):
                await Publisher.open(successor, "other", access=access)

        again = await Publisher.open(
            successor, "e", before.session.producer_epoch, access=back(before)
        )

        assert again.session.topic_epoch == 1
        assert (await again.publish(b"2")).error is None


async def test_after_a_while_it_is_not_expected_any_more() -> None:
    async with world() as made:
        node = await made.broker("b1")
        before = await Publisher.open(node, "e", access=EXCLUSIVE)
        await made.kill(node)
        successor = await made.broker("b2", limits=NO_GRACE)
        await successor.topic()
        await settle()

        await (await Publisher.open(successor)).publish(b"in between")

        with pytest.raises(ProducerFenced):
            await Publisher.open(
                successor, "e", before.session.producer_epoch, access=back(before)
            )


async def test_an_older_epoch_is_refused_by_every_later_owner() -> None:
    async with world() as made:
        node = await made.broker("b1")
        old = await Publisher.open(node, "old", access=EXCLUSIVE)
        newer = await Publisher.open(node, "new", access=FENCING)
        await newer.publish(b"x")
        newer.session.close(for_good=True)
        await made.kill(node)
        for name in ("b2", "b3"):
            owner = await made.broker(name)
            for mode in (AccessMode.EXCLUSIVE, AccessMode.EXCLUSIVE_WITH_FENCING):
                with pytest.raises(ProducerFenced):
                    await Publisher.open(
                        owner, "old", old.session.producer_epoch, access=back(old, mode)
                    )
            topic = await owner.topic()
            await topic.state.compact()
            await made.kill(owner)


async def test_who_left_for_good_is_not_expected_at_the_next_owner() -> None:
    async with world() as made:
        node = await made.broker("b1")
        (await Publisher.open(node, access=EXCLUSIVE)).session.close(for_good=True)
        await Publisher.open(node)  # comes only when that is durable
        await made.kill(node)
        successor = await made.broker("b2")

        await Publisher.open(successor)


async def test_a_planned_move_keeps_the_place() -> None:
    async with world() as made:
        node = await made.broker("b1")
        before = await Publisher.open(node, "e", access=EXCLUSIVE)
        await made.stop(node)
        assert isinstance(before.ended[0], NotOwner)
        successor = await made.broker("b2")

        with pytest.raises(ProducerBusy):
            await Publisher.open(successor)
        again = await Publisher.open(
            successor, "e", before.session.producer_epoch, access=back(before)
        )
        assert again.session.topic_epoch == 1


async def test_a_second_stream_of_the_exclusive_producer_takes_the_first_ones_place() -> None:
    async with world() as made:
        node = await made.broker()
        first = await Publisher.open(node, "e", access=EXCLUSIVE)

        again = await Publisher.open(
            node, "e", first.session.producer_epoch, access=back(first)
        )

        assert first.session.closed and not isinstance(first.ended[0], ProducerFenced)
        await again.publish(b"x")
        with pytest.raises(ProducerBusy):
            await Publisher.open(node)


async def test_an_opening_that_fails_gives_the_topic_back() -> None:
    async with world() as made:
        node = await made.broker()
        named = await Publisher.open(node, "n")
        again = await Publisher.open(node, "n")
        for one in (named, again):
            one.session.close(for_good=True)

        with pytest.raises(ProducerFenced, match="took over the name"):
            await Publisher.open(
                node, "n", named.session.producer_epoch, access=replace(EXCLUSIVE)
            )

        assert (await Publisher.open(node, "n", access=EXCLUSIVE)).session.topic_epoch == 2

"""Dead letters go back to where they came from: each once, in order, and counted exactly."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.redrive import Redrive, RedriveProgress, RedriveRequest
from broker.selector import parse_filter
from magnetar.dead_letter import DeadLetter
from magnetar.entry import EntryView, parse_prefix
from magnetar.errors import ConnectionFailed, ConsumerBusy, InvalidArgument, TopicTerminated
from magnetar.topic import TopicName
from tenants.policies import TopicPolicies
from tests.broker.test_dead_letters import DEAD, Giver, dead_payloads
from tests.broker.world import LANE_LIMITS, TOPIC, Node, Publisher, World, until, world

REQUEST = RedriveRequest(DEAD, "redrive")
OTHER = "persistent://public/default/other"


async def given_up(node: Node, *payloads: bytes, **columns: object) -> Giver:
    """These messages as dead letters of the subscription `s`."""
    publisher = await Publisher.open(node, "p")
    publisher.session.publish(publisher.batch(*payloads, **columns))
    await until(lambda: bool(publisher.receipts))
    stored = publisher.receipts[0]
    publisher.session.close()
    giver = await Giver.open(node)
    await giver.give(stored.ledger_id, stored.entry_id, (1 << len(payloads)) - 1)
    await giver.told()
    return giver


async def redrive(node: Node, request: RedriveRequest = REQUEST) -> RedriveProgress:
    topic = await node.broker.topic_here(request.topic)
    return await Redrive(topic, request, node.clock, lambda _progress: None).run()


async def messages(node: Node, topic: str = TOPIC) -> list[tuple[EntryView, int]]:
    log = (await node.topic(topic)).log
    found = []
    for entry in await log.read(await log.before_ordinal(0), 1_000, 1 << 24):
        view = EntryView(parse_prefix(entry.body)[1])
        found += [(view, index) for index in range(view.count)]
    return found


async def payloads(node: Node, topic: str = TOPIC) -> list[bytes]:
    return [view.payload(index) for view, index in await messages(node, topic)]


async def left(node: Node) -> int:
    return (await node.topic(DEAD)).state.subscriptions["redrive"].backlog_messages


async def test_dead_letters_go_back_as_they_were() -> None:
    async with world() as made:
        node = await made.broker()
        await given_up(
            node, b"a", b"b", partition_keys=["k", None], tags=["t", None],
            event_times_ms=[7, 0], properties=[{"color": "red"}, None])

        progress = await redrive(node)

        assert progress == RedriveProgress(moved=2, targets={TOPIC: 2}, done=True)
        assert await payloads(node) == [b"a", b"b", b"a", b"b"]
        view, index = (await messages(node))[2]
        properties = view.properties(index)
        assert DeadLetter.of(properties) is None
        assert properties.pop("redriven.from").startswith(f"{DEAD} ")
        assert properties == {"color": "red", "redriven.count": "1"}
        assert (view.partition_key(index), view.tag(index)) == ("k", "t")
        assert (view.event_time_ms(index), view.origin(index).producer_name) == (7, "p")
        assert await left(node) == 0


async def test_a_second_run_finds_nothing_and_a_message_that_fails_again_is_counted() -> None:
    async with world() as made:
        node = await made.broker()
        giver = await given_up(node, b"a")
        await redrive(node)

        assert await redrive(node) == RedriveProgress(done=True)

        again = (await giver.topic.log.read(await giver.topic.log.before_ordinal(1), 1, 1))[0]
        await giver.give(again.ledger_id, again.entry_id)
        await giver.told(2)
        assert (await redrive(node)).moved == 1
        view, index = (await messages(node))[2]
        assert view.properties(index)["redriven.count"] == "2"


async def test_only_what_is_wanted_goes_and_the_rest_can_go_later() -> None:
    async with world() as made:
        node = await made.broker()
        await given_up(
            node, b"0", b"1", b"2", b"3",
            properties=[{"region": region} for region in ("eu", "us", "eu", "eu")])

        eu = replace(REQUEST, filter=parse_filter("*", "region = 'eu'"), max_messages=2)
        assert (await redrive(node, eu)).moved == 2
        assert (await payloads(node))[4:] == [b"0", b"2"]

        us = replace(REQUEST, filter=parse_filter("*", "region = 'us'"))
        progress = await redrive(node, us)
        assert (progress.moved, progress.unwanted) == (1, 1)
        assert (await redrive(node)).moved == 1
        assert (await payloads(node))[4:] == [b"0", b"2", b"1", b"3"]
        assert await left(node) == 0


async def test_all_go_to_another_topic_where_one_is_named_by_key_if_it_has_partitions() -> None:
    async with world() as made:
        node = await made.broker()
        await given_up(
            node, *[b"%d" % number for number in range(8)],
            partition_keys=["a", "b", None, None, "a", "b", "a", "b"])
        await node.broker.catalog.create_topic(TopicName.parse("other"), 4)

        progress = await redrive(node, replace(REQUEST, to="other"))

        assert progress.moved == sum(progress.targets.values()) == 8
        parts = [f"{OTHER}-partition-{number}" for number in range(4)]
        assert set(progress.targets) <= set(parts)
        found = [await payloads(node, part) for part in sorted(progress.targets)]
        for key in ([b"0", b"4", b"6"], [b"1", b"5", b"7"]):
            [holder] = [part for part in found if key[0] in part]
            assert [one for one in holder if one in key] == key
        with pytest.raises(InvalidArgument):
            await redrive(node, replace(REQUEST, to=DEAD))


async def test_what_is_no_dead_letter_stays_unless_a_topic_is_named() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p", topic=DEAD)
        await publisher.publish(b"lost", b"found")

        assert await redrive(node) == RedriveProgress(without_target=2, done=True)
        assert (await redrive(node, replace(REQUEST, to="other"))).moved == 2
        assert await payloads(node, OTHER) == [b"lost", b"found"]


async def test_one_that_cannot_go_is_told_and_does_not_stop_the_others() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(max_message_size_bytes=8_000))
        await given_up(node, b"large " * 1_000, b"small")
        (await node.topic(OTHER)).policies = TopicPolicies(max_message_size_bytes=2_000)

        progress = await redrive(node, replace(REQUEST, to="other"))

        assert (progress.moved, progress.refused) == (1, 1)
        assert "max_message_size_bytes" in progress.problem
        assert await payloads(node, OTHER) == [b"small"]
        assert await left(node) == 1
        assert (await redrive(node)).moved == 1


async def test_a_run_that_gets_nowhere_gives_up_and_says_why() -> None:
    async with world() as made:
        node = await made.broker()
        await given_up(node, b"a", b"b")
        made.forwarder.failing[TOPIC] = TopicTerminated("orders takes no more")

        with pytest.raises(ConnectionFailed, match="orders takes no more"):
            await redrive(node, replace(REQUEST, patience_s=0.05))

        assert await left(node) == 2
        made.forwarder.failing.clear()
        assert (await redrive(node)).moved == 2
        assert await payloads(node) == [b"a", b"b", b"a", b"b"]


async def test_one_run_at_a_time() -> None:
    async with world() as made:
        node = await made.broker()
        await given_up(node, b"a")
        made.forwarder.gate.clear()
        first = asyncio.ensure_future(redrive(node))
        topic = await node.topic(DEAD)
        await until(lambda: TOPIC in topic.state.subscriptions["redrive"].forward_plans)

        with pytest.raises(ConsumerBusy):
            await redrive(node)

        made.forwarder.gate.set()
        assert (await first).moved == 1


async def cut_off(made: World, *, stored: bool) -> Node:
    """A broker that dies in the middle of a run."""
    node = await made.broker("b1")
    other = await made.broker("b2")
    await given_up(node, b"a", b"b", b"c")
    await made.kill(node)
    await until(lambda: len(other.broker.directory.all()) == 1)
    await other.topic(TOPIC)  # the target is not the one that dies
    dying = await made.broker("b3")
    topic = await dying.topic(DEAD)
    assert topic.log.end_ordinal == 3
    made.forwarder.lose_answers = stored
    if not stored:
        made.forwarder.gate.clear()
    run = asyncio.ensure_future(redrive(dying))
    subscription = topic.state.subscriptions["redrive"]
    before = len(made.forwarder.batches)
    await until(lambda: TOPIC in subscription.forward_plans)
    if stored:
        await until(lambda: len(made.forwarder.batches) > before)
    await made.kill(dying)
    await until(lambda: len(other.broker.directory.all()) == 1)
    await asyncio.gather(run, return_exceptions=True)
    made.forwarder.lose_answers = False
    made.forwarder.gate.set()
    return other


@pytest.mark.parametrize("stored", [True, False])
async def test_a_run_that_is_cut_off_is_gone_on_with_and_nothing_goes_twice(stored: bool) -> None:
    async with world() as made:
        node = await cut_off(made, stored=stored)

        await redrive(node)

        assert await payloads(node) == [b"a", b"b", b"c"] * 2
        assert await left(node) == 0


async def test_dead_letters_are_kept_for_a_redrive_though_others_acknowledge_them() -> None:
    async with world() as made:
        node = await made.broker()
        await given_up(node, b"a")

        subscriptions = (await node.topic(DEAD)).state.subscriptions

        assert subscriptions["redrive"].durable
        assert subscriptions["redrive"].backlog_messages == 1


async def test_a_large_run_goes_in_order_within_bounds() -> None:
    async with world() as made:
        node = await made.broker(lane_limits=replace(LANE_LIMITS, parcel_messages=64))
        expected = [b"%d" % number for number in range(9_000)]
        publisher = await Publisher.open(node, "p", topic=DEAD)
        for start in range(0, 9_000, 500):
            await publisher.publish(*expected[start:start + 500])

        progress = await redrive(node, replace(REQUEST, to="other"))

        assert progress.moved == 9_000
        assert await payloads(node, OTHER) == expected
        assert await dead_payloads(node) == expected


async def test_a_topic_with_messages_on_their_way_is_in_use_and_lanes_are_not_kept() -> None:
    async with world() as made:
        node = await made.broker()
        await given_up(node, b"a")
        topic = await node.topic(DEAD)
        made.forwarder.failing[TOPIC] = TopicTerminated("orders takes no more")
        run = asyncio.ensure_future(redrive(node))
        await until(lambda: bool(topic.lanes.problems))
        assert topic.lanes.waiting_messages == 1 and topic.in_use

        made.forwarder.failing.clear()
        await run
        await redrive(node)

        assert not topic.lanes.of("redrive")
        assert not topic.in_use

"""What is counted as published: what came from producers and is stored, each message once."""

from __future__ import annotations

from tests.broker.schedule.scheduled import HOUR_MS, delayed, pass_time, schedule, until_stored
from tests.broker.world import Publisher, settle, until, world


async def test_a_delayed_message_is_published_when_it_is_stored_and_not_when_it_fires() -> None:
    async with world() as made:
        node = await made.broker()
        counters = node.broker.counters
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS
        for name in made.ground.names:
            made.ground.bookies[name].held = True
        batch = delayed(publisher, (b"a", due_ms), (b"b", due_ms))
        publisher.session.publish(batch)
        await settle()
        assert (counters.published_messages, counters.published_batches) == (0, 0)

        for name in made.ground.names:
            made.ground.bookies[name].release()
        await until(lambda: len(publisher.receipts) == 1)
        after_intake = (
            counters.published_messages, counters.published_batches, counters.published_bytes)
        await pass_time(node, 2 * HOUR_MS)
        await until_stored(node, 2)

        assert after_intake == (2, 1, len(batch))
        assert (counters.published_messages, counters.published_batches) == (2, 1)
        assert counters.schedules.scheduled_messages == counters.schedules.fired_messages == 2


async def test_a_topics_traffic_has_delayed_messages_when_they_come_in() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        due_ms = node.clock.wall_ms() + HOUR_MS

        await schedule(publisher, (b"a", due_ms), (b"b", due_ms))
        await publisher.publish(b"c")
        await schedule(publisher, (b"a", due_ms), (b"b", due_ms), first=0)  # known
        traffic = (await node.topic()).publishing.traffic
        came = traffic.messages
        await pass_time(node, 2 * HOUR_MS)
        await until_stored(node, 3)

        assert came == traffic.messages == 3
        assert node.broker.counters.duplicate_batches == 1

"""The façade without an event loop, with partitioned topics, lists and patterns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from magnetar import InitialPosition
from magnetar.errors import InvalidArgument
from magnetar.sync import THREAD, Client
from magnetar.topic import TopicName
from tests.client.partitioned import PATIENCE_MS, Place, place


@pytest.fixture
def here() -> Iterator[Place]:
    """Served by the SDK's own loop: gRPC wants one loop a process."""
    stack = AsyncExitStack()

    async def begin() -> Place:
        made = await stack.enter_async_context(place())
        await made.create("many", 3)
        return made

    yield THREAD.run(begin())
    THREAD.run(stack.aclose())


def test_all_partitions_of_a_topic(here: Place) -> None:
    with Client(here.broker.url) as client:
        with client.create_producer("many") as producer:
            ids = [producer.send(b"x", partition_key=f"k{number}") for number in range(20)]
            producer.send_many([b"y"] * 300)
            producer.flush()
            assert producer.acknowledged_messages == 320
            assert producer.partitions == client.partitions_of("many") == 3
        with client.subscribe(
            "many", "s", initial_position=InitialPosition.Earliest
        ) as consumer:
            found = []
            while len(found) < 320:
                found += consumer.receive_many(100, timeout_millis=PATIENCE_MS)
            assert set(ids) <= {message.message_id for message in found}
            consumer.acknowledge_many(found)
            assert len(consumer.topics) == 3
            last = consumer.last_message_ids()
        with client.create_reader("many", [one for one in last.values() if one]) as reader:
            assert not reader.has_message_available()
            assert reader.last_message_ids() == last
            assert reader.is_connected and not reader.closed
            with pytest.raises(InvalidArgument):
                reader.last_message_id()


def test_topics_that_match_and_come_later(here: Place) -> None:
    with Client(here.broker.url) as client:
        consumer = client.subscribe(subscription_name="s", pattern="orders-.*")
        both = client.subscribe(["a", "b"], "s")
        with client.create_producer("orders-new") as producer:
            producer.send(b"new")
        with client.create_producer("b") as producer:
            producer.send(b"b")

        message = consumer.receive(PATIENCE_MS)
        assert message.topic_name == TopicName.parse("orders-new").full
        consumer.acknowledge(message)
        assert both.receive(PATIENCE_MS).data == b"b"

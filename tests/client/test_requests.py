"""Requests and their replies: matched, in time or not, and what failures look like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from magnetar import Client, ConsumerType, InitialPosition, Message, Reply
from magnetar.consumer import TopicConsumer
from magnetar.consuming import Consumer
from magnetar.errors import (
    AlreadyClosed,
    ConnectionFailed,
    InvalidArgument,
    OperationTimeout,
    RequestFailed,
)
from magnetar.inbox import Inbox
from magnetar.producer_cache import ProducerCache
from magnetar.requests import Requests
from magnetar.topic import TopicName
from tests.broker.world import settle
from tests.client.memory_broker import MemoryCluster


@pytest.fixture
async def server(cluster: MemoryCluster) -> AsyncIterator[Client]:
    """Another client, which answers."""
    async with Client(cluster.url) as server:
        yield server


async def test_a_request_gets_the_reply_of_its_handler(client: Client, server: Client) -> None:
    @server.reply("prices")
    async def price(request: Message) -> Reply:
        return Reply(request.data.upper(), {"for": request.properties["who"]})

    await server.start_listeners()
    reply = await client.request("prices", b"apples", properties={"who": "me"})

    assert reply.data == b"APPLES"
    assert reply.properties["for"] == "me"


async def test_many_are_under_way_at_once_and_each_gets_its_own(
    client: Client, server: Client, cluster: MemoryCluster
) -> None:
    @server.reply("double", concurrency=50)
    async def double(request: Message) -> bytes:
        number = int(request.data)
        for _ in range(number % 7):
            await asyncio.sleep(0)
        return b"%d" % (2 * number)

    await server.start_listeners()
    replies = await asyncio.gather(*(
        client.request("double", b"%d" % number) for number in range(500)))

    assert [int(reply.data) for reply in replies] == [2 * number for number in range(500)]
    assert client.late_replies == 0
    assert len([name for name in cluster.topics if "replies-" in name]) == 1
    assert all(
        name.startswith("non-persistent://public/default/")
        for name in cluster.topics if "replies-" in name)


async def test_nothing_is_a_reply_too(client: Client, server: Client) -> None:
    @server.reply("quiet")
    async def quiet(request: Message) -> None:
        return None

    await server.start_listeners()

    assert (await client.request("quiet", b"")).data == b""


async def test_an_exception_is_the_requesters(
    client: Client, server: Client, cluster: MemoryCluster
) -> None:
    calls = []

    @server.reply("shop")
    async def shop(request: Message) -> bytes:
        calls.append(request.data)
        raise KeyError("no such fruit")

    await server.start_listeners()
    with pytest.raises(RequestFailed, match="KeyError: 'no such fruit'"):
        await client.request("shop", b"kiwi")
    await server.stop_listeners()

    assert calls == [b"kiwi"]
    assert cluster.topic("shop").subscriptions["repliers"].acknowledged == {0: 1}


async def test_no_reply_in_time_and_one_that_is_late(client: Client, server: Client) -> None:
    go, answered = asyncio.Event(), asyncio.Event()

    @server.reply("slow")
    async def slow(request: Message) -> bytes:
        await go.wait()
        answered.set()
        return b"at last"

    await server.start_listeners()
    go.set()
    await client.request("slow", b"")  # so that the next one is sent at once
    go.clear()
    answered.clear()
    with pytest.raises(OperationTimeout, match=r"no reply from slow within 0\.05 s"):
        await client.request("slow", b"", 0.05)
    go.set()
    await answered.wait()
    quick = await client.request("slow", b"")

    assert quick.data == b"at last"
    assert client.late_replies == 1


async def test_a_request_without_anybody_who_answers_leaves_nothing_behind(
    client: Client
) -> None:
    requests = client._all_requests()
    inbox = await requests._inbox(TopicName.parse("nobody"))
    for _ in range(3):
        with pytest.raises(OperationTimeout):
            await client.request("nobody", b"", 0.02)
    cancelled = asyncio.create_task(client.request("nobody", b""))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)

    assert inbox._waiting == {}
    assert requests._room._value == 10_000


async def test_several_share_the_requests(client: Client, cluster: MemoryCluster) -> None:
    async with Client(cluster.url) as one, Client(cluster.url) as other:
        for name, server in ((b"one", one), (b"other", other)):
            @server.reply("work")
            async def work(request: Message, name: bytes = name) -> bytes:
                return name

            await server.start_listeners()
        replies = [await client.request("work", b"") for _ in range(10)]

    assert {reply.data for reply in replies} == {b"one", b"other"}


async def test_a_consumer_can_answer_by_hand(client: Client, server: Client) -> None:
    consumer = await server.subscribe("manual", "s", initial_position=InitialPosition.Earliest)
    asking = asyncio.create_task(client.request("manual", b"ping", partition_key="k"))
    message = await consumer.receive(5000)
    await server.reply_to(message, b"pong")

    assert message.partition_key == "k"
    assert (await asking).data == b"pong"
    async with await client.create_producer("manual") as producer:
        await producer.send(b"no request")
    with pytest.raises(InvalidArgument, match="reply_to"):
        await server.reply_to(await consumer.receive(5000), b"pong")


async def test_a_message_that_is_no_request_is_handled_without_a_reply(
    client: Client, server: Client
) -> None:
    handled = asyncio.Event()

    @server.reply("mixed")
    async def mixed(request: Message) -> bytes:
        handled.set()
        return b"to nobody"

    await server.start_listeners()
    async with await client.create_producer("mixed") as producer:
        await producer.send(b"x")

    await asyncio.wait_for(handled.wait(), 5)


async def test_a_lost_link_ends_no_request(
    client: Client, server: Client, cluster: MemoryCluster
) -> None:
    go = asyncio.Event()

    @server.reply("t")
    async def answer(request: Message) -> bytes:
        await go.wait()
        return b"yes"

    await server.start_listeners()
    asking = asyncio.create_task(client.request("t", b""))
    await asyncio.sleep(0.05)
    cluster.drop_links()
    go.set()

    assert (await asking).data == b"yes"


async def test_closing_ends_whoever_waits(cluster: MemoryCluster) -> None:
    client = Client(cluster.url)
    asking = asyncio.create_task(client.request("nobody", b""))
    while not cluster.topic("nobody").entries:
        await asyncio.sleep(0.001)
    await client.close()

    with pytest.raises(AlreadyClosed):
        await asking
    with pytest.raises(AlreadyClosed):
        await client.request("nobody", b"")


async def test_closing_leaves_no_inbox_that_was_being_opened(client: Client) -> None:
    go, made = asyncio.Event(), list[Consumer]()

    async def subscribe(topic: str, *arguments: Any, **options: Any) -> Consumer:
        if "other" in topic:
            await go.wait()
        made.append(await client.subscribe(topic, *arguments, **options))
        return made[-1]

    requests = Requests(subscribe, client.create_producer, Random(1))
    await requests._inbox(TopicName.parse("t"))
    opening = asyncio.create_task(requests._inbox(TopicName.parse("public/other/t")))
    await settle()
    go.set()
    await requests.close()

    with pytest.raises(AlreadyClosed):
        await opening
    assert [consumer.closed for consumer in made] == [True, True]


async def test_a_damaged_reply_ends_no_inbox(client: Client) -> None:
    async with await client.create_producer("damaged") as producer:
        await producer.send(b"x")
    consumer = await client.subscribe("damaged", "s", initial_position=InitialPosition.Earliest)
    assert isinstance(consumer, TopicConsumer)
    inbox = Inbox(consumer)
    async with asyncio.timeout(10):
        while not any(consumer._damaged.values()):
            await asyncio.sleep(0)
    await settle()

    assert not inbox.ended
    await inbox.close()


async def test_an_inbox_that_ended_is_replaced(
    client: Client, server: Client, cluster: MemoryCluster
) -> None:
    @server.reply("t", consumer_type=ConsumerType.Shared)
    async def answer(request: Message) -> bytes:
        return b"yes"

    await server.start_listeners()
    await client.request("t", b"")
    [inbox] = client._all_requests()._inboxes.values()
    await inbox._consumer.close()
    await asyncio.wait({inbox._reading})

    assert (await client.request("t", b"")).data == b"yes"
    assert len([name for name in cluster.topics if "replies-" in name]) == 2


async def test_what_cannot_be(client: Client, server: Client) -> None:
    for timeout in (0, -1, "1"):
        with pytest.raises(InvalidArgument):
            await client.request("t", b"", timeout)
    with pytest.raises(InvalidArgument, match="reply_to"):
        await client.request("t", b"", properties={"reply_to": "x"})
    with pytest.raises(InvalidArgument, match="async def"):
        server.reply("t")(lambda request: b"")
    async with Client("magnetar://127.0.0.1:1", operation_timeout_seconds=0.1) as nowhere:
        with pytest.raises((ConnectionFailed, OperationTimeout)):
            await nowhere.request("t", b"")


async def test_producers_that_were_not_used_for_longest_are_closed(client: Client) -> None:
    made: list[Any] = []

    async def create(topic: str) -> Any:
        made.append(await client.create_producer(topic))
        return made[-1]

    cache = ProducerCache(create, 2)
    for topic in ("a", "b", "a", "c", "a"):
        await (await cache.send(topic, b"x", {}))
    await cache.close()

    assert [(one.topic[-1], one.closed) for one in made] == [
        ("a", False), ("b", True), ("c", False)]
    await made[0].close()
    tickets = await asyncio.gather(*(cache.send("a", b"y", {}) for _ in range(3)))
    assert len(made) == 4 and len(cache) == 2
    for ticket in tickets:
        await ticket

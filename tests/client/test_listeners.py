"""Handlers bound to topics: what becomes of their messages, however they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from magnetar import Client, ConsumerType, DeadLetterPolicy, InitialPosition, Message
from magnetar.errors import ConsumerBusy, InvalidArgument, MagnetarError, OperationTimeout
from tests.client.memory_broker import MemoryCluster
from tests.client.memory_subscription import MemorySubscription

EARLIEST = InitialPosition.Earliest


class Seen(list[Any]):
    """What handlers saw; `reached` waits for so many."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def add(self, what: Any) -> None:
        self.append(what)
        self._more.set()

    async def reached(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self) < count:
                self._more.clear()
                await self._more.wait()


async def publish(client: Client, names: list[str], topic: str = "t") -> None:
    """The first letter is the key."""
    async with await client.create_producer(topic, batching_enabled=False) as producer:
        for name in names:
            producer.send(name.encode(), partition_key=name[0])


def subscription(cluster: MemoryCluster) -> MemorySubscription:
    return cluster.topic("t").subscriptions["s"]


def names(letters: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count) for letter in letters]


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop run until it holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_each_message_is_handled_once_and_a_restart_goes_on(
    cluster: MemoryCluster
) -> None:
    seen = Seen()
    for part in (names("a", 10), names("b", 10)):
        async with Client(cluster.url) as client:
            @client.on("t", "s", initial_position=EARLIEST)
            async def handle(message: Message) -> None:
                seen.add(message.data.decode())

            await publish(client, part)
            already = len(seen)
            await client.start_listeners()
            await seen.reached(already + 5)

    async with Client(cluster.url) as client:
        client.on("t", "s")(handle)
        await client.start_listeners()
        await seen.reached(20)

    assert seen == names("a", 10) + names("b", 10)


async def test_a_decorated_function_is_still_itself(client: Client) -> None:
    @client.on("t", "s")
    @client.on("u", "s")
    async def handle(message: Message) -> str:
        return "handled"

    assert await handle(None) == "handled"


async def test_a_failure_gives_the_message_back_with_its_reason(
    client: Client, cluster: MemoryCluster
) -> None:
    seen = Seen()

    @client.on("t", "s", initial_position=EARLIEST, redelivery_backoff=[7, 8])
    async def handle(message: Message) -> None:
        seen.add((message.data.decode(), message.redelivery_count))
        if message.data == b"a1" and message.redelivery_count < 2:
            raise ValueError("no stock")

    await publish(client, names("a", 3))
    await client.start_listeners()
    await seen.reached(3)
    for count in (1, 2):
        await settled(lambda: bool(subscription(cluster).delayed))
        subscription(cluster).release()
        await seen.reached(3 + count)
    await client.stop_listeners()

    assert seen == [("a0", 0), ("a1", 0), ("a2", 0), ("a1", 1), ("a1", 2)]
    assert [
        (asked.delay_ms, asked.reason) for asked in subscription(cluster).negatives
        if not asked.uncounted
    ] == [(7000, "ValueError: no stock"), (8000, "ValueError: no stock")]


async def test_what_always_fails_is_given_up(client: Client, cluster: MemoryCluster) -> None:
    seen = Seen()

    @client.on(
        "t", "s", initial_position=EARLIEST, redelivery_backoff=[0],
        dead_letter_policy=DeadLetterPolicy(3, "t-dead"))
    async def handle(message: Message) -> None:
        seen.add(message.data)
        if message.data == b"a1":
            raise ValueError

    await publish(client, names("a", 3))
    await client.start_listeners()
    await settled(lambda: bool(cluster.topic("t-dead").entries))
    await client.stop_listeners()

    assert Counter(seen) == {b"a0": 1, b"a1": 3, b"a2": 1}
    assert cluster.topic("t-dead").payloads() == [b"a1"]


async def test_as_many_at_a_time_as_asked_for(client: Client) -> None:
    seen, go, most = Seen(), asyncio.Event(), 0

    @client.on("t", "s", initial_position=EARLIEST, concurrency=4)
    async def handle(message: Message) -> None:
        nonlocal most
        seen.add(message.data)
        most = max(most, len(seen) - (12 if go.is_set() else 0))
        await go.wait()

    await publish(client, names("a", 12))
    await client.start_listeners()
    await seen.reached(4)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(seen) == 4
    go.set()
    await seen.reached(12)

    assert most == 4


@pytest.mark.parametrize("kind", [ConsumerType.KeyShared, ConsumerType.Exclusive])
async def test_the_messages_of_a_key_are_handled_in_order(
    client: Client, kind: ConsumerType
) -> None:
    seen, active = Seen(), Counter[str]()

    @client.on("t", "s", initial_position=EARLIEST, consumer_type=kind, concurrency=8)
    async def handle(message: Message) -> None:
        name = message.data.decode()
        active[name[0]] += 1
        assert active[name[0]] == 1
        for _ in range(ord(name[0]) * int(name[1:]) % 4):
            await asyncio.sleep(0)
        active[name[0]] -= 1
        seen.add(name)

    await publish(client, names("abcde", 40))
    await client.start_listeners()
    await seen.reached(200)

    for letter in "abcde":
        assert [name for name in seen if name[0] == letter] == names(letter, 40)
    assert seen != names("abcde", 40)


async def test_a_key_whose_message_failed_waits_for_it(
    client: Client, cluster: MemoryCluster
) -> None:
    seen = Seen()

    @client.on(
        "t", "s", initial_position=EARLIEST, consumer_type=ConsumerType.KeyShared, concurrency=8,
        redelivery_backoff=[60])
    async def handle(message: Message) -> None:
        await asyncio.sleep(0)
        if message.data == b"a2" and not message.redelivery_count:
            raise ValueError
        seen.add((message.data.decode(), message.redelivery_count))

    await publish(client, names("ab", 30))
    await client.start_listeners()
    await seen.reached(32)
    await settled(lambda: len(subscription(cluster).waiting) == 27)
    subscription(cluster).release()
    await seen.reached(60)

    assert [name for name, _ in seen if name[0] == "a"] == names("a", 30)
    assert [name for name, _ in seen if name[0] == "b"] == names("b", 30)
    assert [name for name, count in seen if count] == ["a2"]


async def test_a_stop_lets_handlers_finish_and_gives_the_rest_back(
    client: Client, cluster: MemoryCluster
) -> None:
    seen, go = Seen(), asyncio.Event()

    @client.on("t", "s", initial_position=EARLIEST, concurrency=2, consumer_type=(
        ConsumerType.KeyShared))
    async def handle(message: Message) -> None:
        seen.add(message.data.decode())
        await go.wait()

    await publish(client, names("ab", 5))
    await client.start_listeners()
    await seen.reached(2)
    stopping = asyncio.create_task(client.stop_listeners())
    await asyncio.sleep(0)
    assert not stopping.done()
    go.set()
    await stopping

    assert seen == ["a0", "b0"]
    consumer = await client.subscribe("t", "s", consumer_type=ConsumerType.KeyShared)
    rest = [await consumer.receive(5000) for _ in range(8)]
    assert sorted(message.data.decode() for message in rest) == sorted(names("ab", 5)[2:])
    assert {message.redelivery_count for message in rest} == {0}


async def test_a_handler_that_takes_too_long_is_cancelled_and_its_message_comes_again(
    client: Client, cluster: MemoryCluster
) -> None:
    seen, cancelled = Seen(), Seen()

    @client.on(
        "t", "s", initial_position=EARLIEST, concurrency=2, stop_timeout_s=0,
        negative_ack_redelivery_delay_ms=0)
    async def handle(message: Message) -> None:
        seen.add(message.data.decode())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.add(message.data.decode())
            if message.data == b"a0":
                return  # swallowed: it counts as handled
            raise

    await publish(client, names("a", 5))
    await client.start_listeners()
    await seen.reached(2)
    await client.stop_listeners()

    assert sorted(cancelled) == ["a0", "a1"]
    consumer = await client.subscribe("t", "s", consumer_type=ConsumerType.Shared)
    again = [await consumer.receive(5000) for _ in range(4)]
    assert sorted((message.data, message.redelivery_count) for message in again) == [
        (b"a1", 1), (b"a2", 0), (b"a3", 0), (b"a4", 0)]
    assert "the listener stopped while it was being handled" in [
        asked.reason for asked in subscription(cluster).negatives]


async def test_a_handler_that_ignores_its_cancellation_is_left_behind(
    client: Client, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, go, ended = Seen(), asyncio.Event(), asyncio.Event()
    monkeypatch.setattr("magnetar.listener.CANCELLED_S", 0.01)

    @client.on("t", "s", initial_position=EARLIEST, stop_timeout_s=0)
    async def handle(message: Message) -> None:
        seen.add(message.data)
        while not go.is_set():
            with suppress(asyncio.CancelledError):
                await go.wait()
        ended.set()

    await publish(client, ["a0"])
    await client.start_listeners()
    await seen.reached(1)
    await client.stop_listeners()
    assert subscription(cluster).sessions == []
    go.set()
    await ended.wait()
    await asyncio.sleep(0)

    consumer = await client.subscribe("t", "s", consumer_type=ConsumerType.Shared)
    assert (await consumer.receive(5000)).data == b"a0"


async def test_a_handler_that_cancels_itself_has_failed(
    client: Client, cluster: MemoryCluster
) -> None:
    seen = Seen()

    @client.on("t", "s", initial_position=EARLIEST, negative_ack_redelivery_delay_ms=0)
    async def handle(message: Message) -> None:
        seen.add(message.redelivery_count)
        if not message.redelivery_count:
            raise asyncio.CancelledError

    await publish(client, ["a0"])
    await client.start_listeners()
    await seen.reached(2)

    assert seen == [0, 1]
    assert subscription(cluster).reasons[(0, 0)] == "the handler was cancelled"


async def test_a_cancelled_run_stops_gracefully(client: Client, cluster: MemoryCluster) -> None:
    seen, go = Seen(), asyncio.Event()

    @client.on("t", "s", initial_position=EARLIEST)
    async def handle(message: Message) -> None:
        seen.add(message.data)
        await go.wait()

    await publish(client, names("a", 3))
    running = asyncio.create_task(client.run())
    await seen.reached(1)
    running.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert len(subscription(cluster).acknowledged) == len(seen)
    assert subscription(cluster).sessions == []


async def test_run_returns_when_stopped_and_can_run_again(client: Client) -> None:
    seen = Seen()

    @client.on("t", "s", initial_position=EARLIEST)
    async def handle(message: Message) -> None:
        seen.add(message.data.decode())

    for number in range(2):
        running = asyncio.create_task(client.run())
        await publish(client, [f"a{number}"])
        await seen.reached(number + 1)
        await client.stop_listeners()
        await running

    assert seen == ["a0", "a1"]


async def test_run_returns_at_the_end_of_the_topic(
    client: Client, cluster: MemoryCluster
) -> None:
    seen = Seen()

    @client.on("t", "s", initial_position=EARLIEST, concurrency=3)
    async def handle(message: Message) -> None:
        await asyncio.sleep(0)
        seen.add(message.data.decode())

    await publish(client, names("a", 20))
    cluster.topic("t").terminate()
    await client.run()

    assert sorted(seen) == sorted(names("a", 20))
    assert sum(map(int.bit_count, subscription(cluster).acknowledged.values())) == 20


@pytest.mark.parametrize("delay_s", [0, 7])
async def test_what_fails_at_the_end_of_the_topic_is_handled_again(
    client: Client, cluster: MemoryCluster, delay_s: int
) -> None:
    seen, go = Seen(), asyncio.Event()

    @client.on(
        "t", "s", initial_position=EARLIEST, consumer_type=ConsumerType.Exclusive, concurrency=3,
        redelivery_backoff=[delay_s])
    async def handle(message: Message) -> None:
        seen.add((message.data.decode(), message.redelivery_count))
        if not message.redelivery_count:
            await go.wait()
            raise ValueError

    await publish(client, names("ab", 1))
    cluster.topic("t").terminate()
    running = asyncio.create_task(client.run())
    await seen.reached(2)
    await settled(lambda: client._all_listeners()._bound[0].consumer._at_end_of_topic)  # type: ignore[union-attr]
    go.set()
    if delay_s:
        await settled(lambda: len(subscription(cluster).delayed) == 2)
        assert not running.done()
        subscription(cluster).release()
    async with asyncio.timeout(10):
        await running

    assert seen == [("a0", 0), ("b0", 0), ("a0", 1), ("b0", 1)]


async def test_a_stop_ends_a_start_that_is_under_way(
    client: Client, cluster: MemoryCluster
) -> None:
    @client.on("t", "s")
    async def handle(message: Message) -> None:
        pytest.fail("nothing was published")

    for turns in range(30):
        running = asyncio.create_task(client.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.stop_listeners()
        if turns:
            async with asyncio.timeout(10):
                await running
        else:
            running.cancel()
    await settled(lambda: not cluster.topic("t").sessions)


async def test_a_stop_ends_when_no_broker_answers(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnetar.listener.DURABLE_S", 0.0)
    seen, go = Seen(), asyncio.Event()
    client = Client(cluster.url, operation_timeout_seconds=0.1)

    @client.on("t", "s", initial_position=EARLIEST)
    async def handle(message: Message) -> None:
        seen.add(message.data)
        await go.wait()

    await publish(client, names("a", 1))
    await client.start_listeners()
    await seen.reached(1)
    await cluster.stop()
    go.set()

    async with asyncio.timeout(10):
        with pytest.raises(OperationTimeout, match="acknowledgements"):
            await client.stop_listeners()
        await client.close()


async def test_what_is_started_twice_is_subscribed_once(
    client: Client, cluster: MemoryCluster
) -> None:
    @client.on("t", "s")
    async def handle(message: Message) -> None:
        pytest.fail("nothing was published")

    await asyncio.gather(client.start_listeners(), client.start_listeners())

    assert len(subscription(cluster).sessions) == 1


async def test_none_is_started_when_one_cannot_be(
    client: Client, cluster: MemoryCluster
) -> None:
    async def handle(message: Message) -> None:
        raise AssertionError

    busy = await client.subscribe("busy", "s")
    client.on("t", "s", consumer_type=ConsumerType.Exclusive)(handle)
    client.on("busy", "s", consumer_type=ConsumerType.Exclusive)(handle)
    with pytest.raises(ConsumerBusy):
        await client.run()
    assert subscription(cluster).sessions == []

    await busy.close()
    await client.start_listeners()
    assert len(subscription(cluster).sessions) == 1


async def test_the_error_that_ends_a_consumer_ends_run(
    client: Client, cluster: MemoryCluster
) -> None:
    seen = Seen()

    @client.on("t", "s", initial_position=EARLIEST)
    async def handle(message: Message) -> None:
        seen.add(message.data)

    await publish(client, ["a0"])
    running = asyncio.create_task(client.run())
    await seen.reached(1)
    [session] = subscription(cluster).sessions
    session.refuse(MagnetarError("not here"))

    with pytest.raises(MagnetarError, match="not here"):
        await running


async def test_a_damaged_message_is_left_out(client: Client) -> None:
    await publish(client, ["a0"], "damaged")
    listened = Seen()

    @client.on(["damaged"][0], "s", initial_position=EARLIEST)
    async def handle(message: Message) -> None:
        listened.add(message.data)

    await client.start_listeners()
    listener = client._all_listeners()._bound[0]
    await settled(lambda: bool(listener.consumer and listener.consumer._damaged))

    assert listener.started and not listened


async def test_what_cannot_be(client: Client) -> None:
    def plain(message: Message) -> None:
        raise AssertionError

    async def handle(message: Message) -> None:
        raise AssertionError

    with pytest.raises(InvalidArgument, match="async def"):
        client.on("t", "s")(plain)
    with pytest.raises(InvalidArgument, match="concurrency"):
        client.on("t", "s", concurrency=0)(handle)
    with pytest.raises(InvalidArgument, match="subscription"):
        client.on("t", "")(handle)
    with pytest.raises(InvalidArgument, match="no handler"):
        await client.run()

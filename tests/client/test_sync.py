"""The façade without an event loop, and the commands on top of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from magnetar import BatchReceivePolicy, ConsumerType, InitialPosition, Message, Reply
from magnetar.cli.app import app
from magnetar.entry import encode_batch
from magnetar.errors import ConnectionFailed, NotSupported, OperationTimeout, RequestFailed
from magnetar.sync import THREAD, Client, Consumer
from tests.client.memory_broker import MemoryCluster


@pytest.fixture
def cluster() -> Iterator[MemoryCluster]:
    """Served by the SDK's own loop: gRPC wants one loop a process."""
    async def start() -> MemoryCluster:
        cluster = MemoryCluster()
        await cluster.start_broker()
        return cluster

    cluster = THREAD.run(start())
    yield cluster
    THREAD.run(cluster.stop())


def test_everything_blocks_until_done(cluster: MemoryCluster) -> None:
    with Client(cluster.url) as client:
        with client.create_producer("t", producer_name="p") as producer:
            first = producer.send(b"one", properties={"a": "b"})
            producer.send_many([b"two", b"three"], ordering_key="k", event_timestamp=99)
            producer.flush()
            assert producer.acknowledged_messages == 3
            assert producer.last_sequence_id == 2
            assert producer.producer_name == "p"
        with client.subscribe(
            "t", "s", consumer_type=ConsumerType.Shared,
            initial_position=InitialPosition.Earliest,
        ) as consumer:
            message = consumer.receive(timeout_millis=5000)
            assert (message.message_id, message.properties) == (first, {"a": "b"})
            consumer.acknowledge(message)
            rest = consumer.receive_many(10, timeout_millis=5000)
            assert {(one.ordering_key, one.event_timestamp) for one in rest} == {("k", 99)}
            consumer.acknowledge_many(rest)
            with pytest.raises(OperationTimeout):
                consumer.receive(timeout_millis=10)
        with client.create_reader("t") as reader:
            assert reader.has_message_available()
            assert reader.read_next(5000).data == b"one"


def test_what_a_consumer_can_do(cluster: MemoryCluster) -> None:
    told: list[tuple[str, bool]] = []
    active = threading.Event()

    def tell(consumer: Consumer, now: bool) -> None:
        told.append((consumer.consumer_name, now))
        active.set()

    with Client(cluster.url) as client, client.create_producer("t") as producer:
        producer.send_many([b"%d" % number for number in range(6)])
        producer.flush()
        with client.subscribe(
            "t", "s", consumer_type=ConsumerType.Failover, consumer_name="c",
            initial_position=InitialPosition.Earliest, on_active_changed=tell,
            redelivery_backoff=[0],
        ) as consumer:
            assert active.wait(5) and consumer.is_active and consumer.is_connected
            messages = consumer.batch_receive(BatchReceivePolicy(6, 0, 5000))
            consumer.acknowledge_many(messages[:2])
            consumer.acknowledge_cumulative(messages[2])
            consumer.negative_acknowledge(messages[3], reason="why")
            assert consumer.receive(5000).redelivery_count == 1
            consumer.reconsume_later(messages[4], 0)
            assert consumer.receive(5000).data == b"4"
            consumer.give_back(messages[5:])
            assert consumer.receive(5000).redelivery_count == 0
            consumer.redeliver_unacknowledged_messages()
            assert len(consumer.receive_many(10, 5000, 1)) == 1
            consumer.pause()
            consumer.resume()
            cluster.topic("t").terminated = True
            consumer.seek(InitialPosition.Earliest)
            assert [int(message.data) for message in consumer] == list(range(6))
        with client.create_reader("t") as reader:
            assert [int(message.data) for message in reader] == list(range(6))
    assert told == [("c", True), ("c", False)]


def test_plain_functions_handle_messages_in_threads(cluster: MemoryCluster) -> None:
    both, names, seen = threading.Barrier(2, timeout=5), set[str](), list[bytes]()

    with Client(cluster.url) as client:
        @client.on("t", "s", initial_position=InitialPosition.Earliest, concurrency=2)
        def handle(message: Message) -> None:
            names.add(threading.current_thread().name)
            both.wait()
            with client.create_producer("done") as done:
                done.send(message.data)
            seen.append(message.data)
            if len(seen) == 4:
                stop.set()

        stop = threading.Event()
        with client.create_producer("t") as producer:
            producer.send_many([b"%d" % number for number in range(4)])
        running = threading.Thread(target=client.run)
        running.start()
        assert stop.wait(10)
        client.stop_listeners()
        running.join(10)

        assert not running.is_alive()
    assert len(names) == 2 and sorted(seen) == [b"0", b"1", b"2", b"3"]
    assert sorted(cluster.topic("done").payloads()) == sorted(seen)
    assert cluster.topic("t").subscriptions["s"].acknowledged == {0: 0b1111}


def test_handlers_in_the_background(cluster: MemoryCluster) -> None:
    handled = threading.Event()
    with Client(cluster.url) as client:
        @client.on("t", "s", initial_position=InitialPosition.Earliest)
        async def handle(message: Message) -> None:
            handled.set()

        with client.create_producer("t") as producer:
            producer.send(b"x")
        client.start_listeners()
        assert handled.wait(5)


def test_requests_and_replies(cluster: MemoryCluster) -> None:
    with Client(cluster.url) as client, Client(cluster.url) as server:
        @server.reply("prices")
        def price(request: Message) -> Reply:
            return Reply(request.data.upper(), {"thread": threading.current_thread().name})

        @server.reply("shop")
        def shop(request: Message) -> bytes:
            raise ValueError("closed")

        server.start_listeners()
        reply = client.request("prices", b"apples")
        with pytest.raises(RequestFailed, match="ValueError: closed"):
            client.request("shop", b"")

        with client.subscribe(
            "manual", "s", initial_position=InitialPosition.Earliest
        ) as consumer:
            def answer() -> None:
                client.reply_to(consumer.receive(5000), b"pong", {"by": "hand"})

            answering = threading.Thread(target=answer)
            answering.start()
            by_hand = client.request("manual", b"ping", 5, partition_key="k")
            answering.join()
    assert reply.data == b"APPLES" and "handler" in reply.properties["thread"]
    assert (by_hand.data, by_hand.properties["by"]) == (b"pong", "hand")


def test_callbacks_tell_of_success(cluster: MemoryCluster) -> None:
    done = threading.Event()
    told: list[object] = []
    with Client(cluster.url) as client, client.create_producer("t") as producer:
        def tell(error: Exception | None, found: object) -> None:
            told.extend((error, found))
            done.set()

        producer.send_async(b"x", tell)
        assert done.wait(5)

    assert told[0] is None and told[1] is not None


def test_what_send_many_gives_tells_the_ids_when_it_is_asked(cluster: MemoryCluster) -> None:
    async def release() -> None:
        held.set()

    held = cluster.hold_receipts = asyncio.Event()
    with Client(cluster.url) as client, client.create_producer("t") as producer:
        tickets = producer.send_many([b"one", b"two", b"three"])
        assert len(tickets) == 3 and not tickets.done() and producer.pending_bytes > 0

        THREAD.run(release())
        ids = tickets.result()

        assert tickets.done() and [ticket.done() for ticket in tickets] == [True] * 3
        assert [ticket.result() for ticket in tickets] == tickets.result() == ids
        with client.create_reader("t") as reader:
            read = [reader.read_next(5000) for _ in ids]
            assert [(one.message_id, one.data) for one in read] == list(
                zip(ids, [b"one", b"two", b"three"], strict=True))
            assert reader.is_connected and not reader.closed
        assert reader.closed


def test_what_send_many_gives_tells_what_went_wrong(cluster: MemoryCluster) -> None:
    cluster.receipts.extend(("NOT_SUPPORTED", "ok"))
    with Client(cluster.url) as client, client.create_producer("t") as producer:
        refused = producer.send_many([b"no", b"no"])
        with pytest.raises(NotSupported):
            refused.result()
        with pytest.raises(NotSupported):
            next(iter(refused)).result()

        assert len(producer.send_many([b"yes"]).result()) == 1
        producer.flush()  # what a ticket told is not told again


def test_a_batch_that_was_encoded_elsewhere(cluster: MemoryCluster) -> None:
    with Client(cluster.url) as client, client.create_producer("t", "copy") as producer:
        tickets = producer.send_batch(
            encode_batch("copy", 7, [b"a", b"b"], publish_time_ms=1))

        assert len(tickets.result()) == 2 and producer.last_sequence_id == 8
    assert cluster.topic("t").payloads() == [b"a", b"b"]


def test_what_a_producer_and_a_consumer_say_of_themselves(cluster: MemoryCluster) -> None:
    cluster.max_message_bytes = 4096
    with Client(cluster.url) as client:
        with client.create_producer("t") as producer:
            assert producer.is_connected and not producer.closed
            assert (producer.partitions, producer.pending_bytes) == (0, 0)
            assert producer.max_message_size_bytes == 4096
        with client.subscribe("t", "s") as consumer:
            assert consumer.topics == [consumer.topic]
            consumer.pause()
            assert consumer.paused and not consumer.closed

        assert producer.closed and consumer.closed
        assert client.late_replies == 0


def test_several_threads_share_a_producer(cluster: MemoryCluster) -> None:
    with Client(cluster.url) as client, client.create_producer("t") as producer:
        threads = [
            threading.Thread(target=producer.send_many, args=([b"%d" % number] * 10,))
            for number in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        producer.flush()

    assert sorted(cluster.topic("t").payloads()) == sorted([b"%d" % n for n in range(5)] * 10)


def test_produce_and_consume_commands(cluster: MemoryCluster) -> None:
    runner = CliRunner()
    lines = "".join(f"line {number}\n" for number in range(1500))

    first = runner.invoke(
        app, ["produce", "t", "-f", "-", "--name", "n", "--url", cluster.url], input=lines)
    again = runner.invoke(
        app, ["produce", "t", "-f", "-", "--name", "n", "--url", cluster.url], input=lines)
    consumed = runner.invoke(app, ["consume", "t", "-s", "s", "-n", "1500", "--url", cluster.url])
    none = runner.invoke(
        app, ["consume", "t", "-s", "s", "--wait-ms", "50", "--url", cluster.url])

    assert first.stderr == again.stderr == "1500 messages are durable\n"
    assert consumed.stdout == lines
    assert (none.exit_code, none.stdout) == (0, "")


def test_the_consume_command_takes_every_type(cluster: MemoryCluster) -> None:
    runner = CliRunner()
    runner.invoke(app, ["produce", "t", "-f", "-", "--url", cluster.url], input="a\nb\n")

    def consume(*options: str) -> Any:
        return runner.invoke(
            app, ["consume", "t", "-s", options[1], "--wait-ms", "200", "--url", cluster.url,
                  *options])

    for kind in ("exclusive", "failover", "shared", "key-shared"):
        done = consume("--type", kind)
        assert (done.exit_code, sorted(done.stdout.split())) == (0, ["a", "b"]), done.stderr
    for member in ("one", "two"):
        done = consume("--type", "broadcast", "--name", member)
        assert done.stdout == "a\nb\n"
    dead = consume("--type", "shared", "--shared", "--max-deliveries", "3",
                   "--dead-letter-topic", "t-dead")
    assert (dead.exit_code, dead.stdout) == (0, "")
    subscription = cluster.topic("t").subscriptions["shared"]
    assert subscription.max_deliveries == 3
    assert subscription.dead_letter_topic == "persistent://public/default/t-dead"
    assert consume("--type", "failover", "--shared").exit_code == 2
    assert consume("--dead-letter-topic", "t-dead").exit_code == 2


def test_the_consume_command_ends_with_the_topic(cluster: MemoryCluster) -> None:
    runner = CliRunner()
    runner.invoke(app, ["produce", "t", "-f", "-", "--url", cluster.url], input="a\nb\n")
    cluster.topic("t").terminated = True

    done = runner.invoke(app, ["consume", "t", "-s", "s", "--url", cluster.url])

    assert (done.exit_code, done.stdout) == (0, "a\nb\n")


def test_perf_commands(cluster: MemoryCluster) -> None:
    from magnetar.cli import load

    def run(topic: str, rate: int, seconds: float, publish: bool, consume: bool) -> Any:
        return THREAD.run(
            load._run(cluster.url, topic, rate, 64, seconds, publish, consume))

    report = run("perf", 200, 0.3, True, True)
    fast = run("fast", 0, 0.1, True, False)
    for seconds in (0.3, 3, 30):  # a busy machine may need longer
        read = run("perf", 0, seconds, False, True)
        if read["consume"]["messages"] == 60:
            break

    assert report["publish"]["messages"] == report["consume"]["messages"] == 60
    assert report["consume"]["latency"]["p99_ms"] > 0
    assert read["consume"]["messages"] == 60
    assert fast["publish"]["messages"] > 0


def test_nobody_there() -> None:
    with (
        Client("magnetar://127.0.0.1:1", operation_timeout_seconds=0.2) as client,
        pytest.raises(ConnectionFailed),
    ):
        client.create_producer("t")

"""`client.admin` against brokers behind gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from broker.administration import limits
from magnetar import Client, InitialPosition
from magnetar.admin.transport import SERVICE
from magnetar.connection import Connections, LinkLost
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    InvalidFrame,
    MagnetarError,
    ResourceExists,
    ResourceInUse,
    ResourceNotFound,
    SubscriptionNotFound,
    TopicNotFound,
)
from magnetar.wire import admin_pb2 as pb
from magnetar.wire import broker_pb2
from magnetar.wire.errors import to_exception
from magnetar.wire.options import CLIENT_OPTIONS
from tests.broker.administered import AdminServed, admin_served
from tests.broker.world import world


async def raw(broker: AdminServed, method: str, frame: bytes, reply: Any) -> Any:
    """The reply to a frame that no SDK would send; raises the error in it."""
    async with grpc.aio.insecure_channel(broker.address, options=CLIENT_OPTIONS) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
        answer = reply.FromString(await call(frame, timeout=5))
    if answer.HasField("error"):
        raise to_exception(answer.error)
    return answer


async def test_tenants_namespaces_and_policies() -> None:
    async with world() as made, admin_served(made) as broker, Client(broker.url) as client:
        admin = client.admin
        await admin.tenants.create("shop", admin_roles=["ops"], properties={"a": "b"})
        await admin.namespaces.create("shop/orders", {"retention_minutes": 7})
        await admin.policies.set({"ack_quorum": 1})
        set_now = await admin.policies.set(
            {"deduplication": False, "backlog_quota_policy": "producer_reject"},
            namespace="shop/orders",
        )

        assert await admin.tenants.list() == ("public", "shop")
        assert (await admin.tenants.get("shop")).properties == {"a": "b"}
        assert await admin.namespaces.list("shop") == ("shop/orders",)
        assert (await admin.namespaces.get("shop/orders")).policies == set_now == {
            "retention_minutes": 7, "deduplication": False,
            "backlog_quota_policy": "producer_reject",
        }
        held = {one.name: one for one in await admin.policies.effective(topic="shop/orders/x")}
        assert (held["ack_quorum"].value, held["ack_quorum"].source) == (1, "cluster")
        assert held["deduplication"].value is False
        await admin.policies.set({"ack_quorum": None})
        assert await admin.policies.get() == {}

        with pytest.raises(ResourceExists):
            await admin.tenants.create("shop")
        with pytest.raises(ResourceInUse):
            await admin.tenants.delete("shop")
        with pytest.raises(InvalidArgument, match="retention_minutes"):
            await admin.policies.set({"retention_minutes": -5}, topic="shop/orders/x")
        with pytest.raises(InvalidArgument, match="not both"):
            await admin.policies.get(namespace="shop/orders", topic="shop/orders/x")
        await admin.namespaces.delete("shop/orders")
        await admin.tenants.delete("shop")
        with pytest.raises(ResourceNotFound):
            await admin.tenants.get("shop")


async def test_topics_subscriptions_and_messages() -> None:
    async with world() as made, admin_served(made) as broker, Client(broker.url) as client:
        admin = client.admin
        created = await admin.topics.create("orders", properties={"team": "shop"})
        await admin.subscriptions.create("orders", "s", InitialPosition.Earliest)
        producer = await client.create_producer("orders", "p")
        last = None
        for number in range(3):
            last = await producer.send(b"%d" % number, {"n": str(number)}, "key")

        stats = await admin.topics.stats("orders")
        peeked = await admin.subscriptions.peek("orders", "s", 2)
        assert (await admin.topics.list("public/default")).topics[0].name == created.name
        assert (await admin.topics.get("orders")).properties == {"team": "shop"}
        assert (stats.messages, stats.subscriptions[0].backlog_messages) == (3, 3)
        assert [(one.data, one.properties, one.partition_key) for one in peeked] == [
            (b"0", {"n": "0"}, "key"), (b"1", {"n": "1"}, "key")]
        assert await admin.messages.last_ids("orders") == (last,)
        assert last is not None
        assert (await admin.messages.get("orders", last)).data == b"2"
        await admin.subscriptions.seek("orders", "s", last)
        assert (await admin.subscriptions.stats("orders", "s")).backlog_messages == 1
        await admin.subscriptions.delete("orders", "s")
        assert await admin.subscriptions.list("orders") == ()
        with pytest.raises(SubscriptionNotFound):
            await admin.subscriptions.stats("orders", "s")


async def test_a_seek_by_an_administrator_reaches_the_consumer() -> None:
    async with world() as made, admin_served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders")
        consumer = await client.subscribe("orders", "s")
        ids = [await producer.send(b"%d" % number) for number in range(3)]
        received = [await consumer.receive(5_000) for _ in ids]
        await consumer.acknowledge_cumulative(received[-1])

        await client.admin.subscriptions.seek("orders", "s", ids[1])

        again = [(await consumer.receive(5_000)).data for _ in range(2)]
        assert again == [b"1", b"2"]


async def test_any_broker_answers_any_call() -> None:
    async with (
        world() as made, admin_served(made, "b1") as one, admin_served(made, "b2") as two,
        Client(one.url) as first, Client(two.url) as second,
    ):
        producer = await first.create_producer("orders")
        await producer.send(b"x")

        stats = [await client.admin.topics.stats("orders") for client in (first, second)]
        for number, client in enumerate((first, second)):
            await client.admin.subscriptions.create("orders", f"s{number}")

        assert stats[0].owner == stats[1].owner
        assert await second.admin.subscriptions.list("orders") == ("s0", "s1")
        assert [len(one.node.broker.registry), len(two.node.broker.registry)] in ([0, 1], [1, 0])
        with pytest.raises(TopicNotFound):
            await second.admin.topics.stats("nothing")
        assert [broker.broker_id for broker in await first.admin.brokers.list()] == ["b1", "b2"]
        assert await first.admin.bookies.list() == await second.admin.bookies.list()


async def test_a_lost_broker_is_no_obstacle() -> None:
    async with (
        world() as made, admin_served(made, "b1") as one, admin_served(made, "b2") as two,
        Client(f"{one.url},{two.address}") as client,
    ):
        await client.admin.topics.create("orders")
        await client.admin.topics.stats("orders")
        owner = one if len(one.node.broker.registry) else two
        survivor = two if owner is one else one

        await made.kill(owner.node)
        await owner.server.stop(None)

        assert (await client.admin.topics.stats("orders")).owner == (
            survivor.node.broker.settings.broker_id)


async def test_what_was_passed_on_is_not_passed_on_again() -> None:
    async with (
        world() as made, admin_served(made, "b1") as one, admin_served(made, "b2") as two,
    ):
        await one.node.broker._topic("orders")
        request = pb.TopicRequest(topic="orders", forwarded=True).SerializeToString()

        answer = await raw(one, "TopicStats", request, pb.TopicStatsReply)
        assert answer.stats.owner == "b1"
        with pytest.raises(MagnetarError, match="served by"):
            await raw(two, "TopicStats", request, pb.TopicStatsReply)


async def test_bad_requests_are_answered_in_words() -> None:
    async with world() as made, admin_served(made) as broker:
        with pytest.raises(InvalidFrame, match="TopicStats"):
            await raw(broker, "TopicStats", b"\xff\xff", pb.TopicStatsReply)
        with pytest.raises(InvalidArgument, match="bytes"):
            await raw(
                broker, "TopicStats", b"x" * (limits.REQUEST_BYTES + 1), pb.TopicStatsReply)
        await broker.node.broker._topic("orders")
        seek = pb.SeekSubscriptionRequest(topic="orders", subscription="s").SerializeToString()
        with pytest.raises(InvalidArgument, match="where"):
            await raw(broker, "SeekSubscription", seek, pb.DoneReply)


async def test_too_many_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.administration.service.CALLS_AT_ONCE", 0)
    async with world() as made, admin_served(made) as broker:
        request = pb.ListTenantsRequest().SerializeToString()

        async with grpc.aio.insecure_channel(broker.address, options=CLIENT_OPTIONS) as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/ListTenants")
            reply = pb.NamesReply.FromString(await call(request, timeout=5))

        assert reply.error.code == broker_pb2.NOT_OWNER
        async with Client(broker.url, operation_timeout_seconds=0.3) as client:
            with pytest.raises(MagnetarError, match="try another"):
                await client.admin.tenants.list()


async def test_an_unknown_outcome_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    methods: list[str] = []
    call_on = Connections.call_on

    async def answer_is_lost(self: Connections, channel: Any, address: str, method: str,
                             *given: Any) -> bytes:
        answer = await call_on(self, channel, address, method, *given)
        methods.append(method)
        if method.endswith("CreateSubscription") or methods.count(method) == 1:
            raise LinkLost(f"{address}: reset")
        return answer

    async with world() as made, admin_served(made) as broker, Client(broker.url) as client:
        await client.admin.tenants.list()
        await broker.node.broker._topic("orders")
        monkeypatch.setattr(Connections, "call_on", answer_is_lost)

        with pytest.raises(ConnectionFailed, match="CreateSubscription was done is unknown"):
            await client.admin.subscriptions.create("orders", "s")
        assert await client.admin.subscriptions.list("orders") == ("s",)
        assert [method.rpartition("/")[2] for method in methods if "Hello" not in method] == [
            "CreateSubscription", "ListSubscriptions", "ListSubscriptions"]


async def test_without_a_broker_the_call_fails_in_words() -> None:
    async with Client("magnetar://127.0.0.1:1", operation_timeout_seconds=0.2) as client:
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
            await client.admin.tenants.list()

"""Topics in memory are listed beside those with a record, from every broker that has some."""

from __future__ import annotations

from broker.administration.routing import OwnerAdministration
from magnetar import Client
from magnetar.admin.topic_values import TopicPage, TopicSummary
from magnetar.errors import ConnectionFailed
from metadata.tenants import NamespaceRecord, NamespaceRepository
from tests.broker.administered import Directly, admin_served
from tests.broker.world import Publisher, world

NAMESPACE = "public/default"
STORED = "persistent://public/default/{}".format
IN_MEMORY = "non-persistent://public/default/{}".format


def names(page: TopicPage) -> list[str]:
    return [one.name for one in page.topics]


async def test_topics_in_memory_of_every_broker_are_listed() -> None:
    async with world() as made:
        nodes = [await made.broker(name) for name in ("b1", "b2", "b3")]
        directly = Directly()
        admins = [directly.add(node).topics for node in nodes]
        for node in nodes:
            local = f"of-{node.broker.settings.broker_id}"
            await node.broker.registry.obtain(IN_MEMORY(local))
        await admins[0].topics.create(STORED("a"))
        await NamespaceRepository(nodes[0].session).create(NamespaceRecord("public", "other"))
        await nodes[0].broker.registry.obtain("non-persistent://public/other/x")

        for admin in admins:
            assert names(await admin.topics.list(NAMESPACE)) == [
                IN_MEMORY("of-b1"), IN_MEMORY("of-b2"), IN_MEMORY("of-b3"), STORED("a")]
        assert names(await admins[1].topics.list(NAMESPACE, "of-b[23]")) == [
            IN_MEMORY("of-b2"), IN_MEMORY("of-b3")]


async def test_pages_go_over_both_kinds() -> None:
    async with world() as made:
        node = await made.broker("b1")
        admin = Directly().add(node).topics
        for local in ("a", "b", "c"):
            await node.broker.registry.obtain(IN_MEMORY(local))
            await admin.topics.create(STORED(local))
        expected = [IN_MEMORY("a"), IN_MEMORY("b"), IN_MEMORY("c"),
                    STORED("a"), STORED("b"), STORED("c")]

        for size in range(1, 8):
            found, page = list[str](), ""
            while True:
                some = await admin.topics.list(NAMESPACE, page_size=size, page=page)
                assert len(some.topics) <= size
                found += names(some)
                page = some.next_page
                if not page:
                    break
            assert found == expected


async def test_a_topic_in_memory_is_listed_while_it_is_there() -> None:
    async with world() as made:
        node = await made.broker("b1")
        admin = Directly().add(node).topics
        publisher = await Publisher.open(node, topic=IN_MEMORY("x"))

        assert (await admin.topics.list(NAMESPACE)).topics == (TopicSummary(IN_MEMORY("x")),)
        publisher.session.close()
        topic = node.broker.registry.get(IN_MEMORY("x"))
        assert topic is not None
        await node.broker.registry.unload(topic)

        assert (await admin.topics.list(NAMESPACE)).topics == ()


class Unreachable(Directly):
    """No other broker answers."""

    def __call__(self, address: str) -> OwnerAdministration:
        raise ConnectionFailed(f"the owner at {address} cannot be reached")


async def test_it_is_said_which_brokers_could_not_be_asked() -> None:
    async with world() as made:
        nodes = [await made.broker(name) for name in ("b1", "b2")]
        admin = Unreachable().add(nodes[0]).topics
        await admin.topics.create(STORED("a"))
        await nodes[0].broker.registry.obtain(IN_MEMORY("x"))

        page = await admin.topics.list(NAMESPACE)

        assert names(page) == [IN_MEMORY("x"), STORED("a")]
        assert page.unreachable_brokers == ("b2",)


async def test_brokers_ask_each_other_over_the_wire() -> None:
    async with world() as made, admin_served(made, "b1") as one, admin_served(made, "b2") as two:
        await two.node.broker.registry.obtain(IN_MEMORY("x"))
        async with Client(one.url) as client:
            await client.admin.topics.create(STORED("a"))

            page = await client.admin.topics.list(NAMESPACE)

        assert names(page) == [IN_MEMORY("x"), STORED("a")]
        assert page.unreachable_brokers == ()

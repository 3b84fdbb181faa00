"""What is set at a level, and what holds, with its source."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from magnetar.errors import ResourceNotFound
from magnetar.topic import TopicName
from metadata.embedded import EmbeddedSession, EmbeddedStore
from tenants.administration import TenantAdministration
from tenants.policies import SETTINGS, TopicPolicies
from tenants.policy_view import PolicyView

TOPIC = TopicName.parse("shop/orders/created")


@pytest.fixture
async def session() -> AsyncIterator[EmbeddedSession]:
    store = EmbeddedStore.open(None)
    opened = store.open_session()
    administration = TenantAdministration(opened)
    await administration.create_tenant("shop")
    await administration.create_namespace("shop", "orders", {"retention_minutes": 2})
    await administration.change_cluster_policies({"retention_minutes": 1, "ack_quorum": 1})
    await administration.change_topic_policies(TOPIC, {"deduplication": False})
    yield opened
    await opened.close()
    await store.close()


async def test_each_level_shows_what_is_set_on_it(session: EmbeddedSession) -> None:
    view = PolicyView(session)

    assert await view.of_cluster() == {"retention_minutes": 1, "ack_quorum": 1}
    assert await view.of_namespace("shop", "orders") == {"retention_minutes": 2}
    assert await view.of_topic(TOPIC.with_partition(3)) == {"deduplication": False}
    assert await view.of_topic(TopicName.parse("shop/orders/other")) == {}
    with pytest.raises(ResourceNotFound):
        await view.of_namespace("shop", "x")


async def test_what_holds_tells_where_it_comes_from(session: EmbeddedSession) -> None:
    view = PolicyView(session, defaults=TopicPolicies(ensemble_size=7))

    found = {one.name: one for one in await view.effective(topic=TOPIC)}
    cluster = {one.name: one for one in await view.effective()}

    assert list(found) == [setting.name for setting in SETTINGS]
    shown = {name: (found[name].value, found[name].source) for name in found}
    assert shown["ensemble_size"] == (7, "default")
    assert shown["ack_quorum"] == (1, "cluster")
    assert shown["retention_minutes"] == (2, "namespace")
    assert shown["deduplication"] == (False, "topic")
    assert (cluster["retention_minutes"].value, cluster["retention_minutes"].source) == (
        1, "cluster")
    assert found["ack_quorum"].meaning

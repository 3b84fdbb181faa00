"""Changing policies: checked before they are stored, and safe against each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from magnetar.admin.values import TenantInfo
from magnetar.errors import InvalidArgument, ResourceExists, ResourceInUse, ResourceNotFound
from magnetar.topic import TopicName
from metadata.embedded import EmbeddedSession, EmbeddedStore
from metadata.tenants import NamespaceRecord, NamespaceRepository
from metadata.topics import TopicRecord, TopicRepository
from tenants.administration import TenantAdministration
from tenants.errors import NamespaceNotFound, PolicyError
from tenants.policy_view import PolicyView

TOPIC = TopicName.parse("persistent://shop/orders/created")


@pytest.fixture
async def session() -> AsyncIterator[EmbeddedSession]:
    store = EmbeddedStore.open(None)
    opened = store.open_session()
    yield opened
    await opened.close()
    await store.close()


@pytest.fixture
async def administration(session: EmbeddedSession) -> TenantAdministration:
    made = TenantAdministration(session)
    await made.create_tenant("shop")
    await made.create_namespace("shop", "orders")
    return made


async def stored(session: EmbeddedSession) -> dict[str, object]:
    record, _ = await NamespaceRepository(session).get("shop", "orders")
    return dict(record.policies)


async def test_names_are_made_once_and_below_what_exists(
    administration: TenantAdministration,
) -> None:
    with pytest.raises(ResourceExists):
        await administration.create_tenant("shop")
    with pytest.raises(ResourceExists):
        await administration.create_namespace("shop", "orders")
    with pytest.raises(ResourceNotFound):
        await administration.create_namespace("nobody", "orders")


async def test_what_was_made_is_shown(administration: TenantAdministration) -> None:
    made = await administration.create_tenant("b", admin_roles=["ops"], properties={"x": "y"})
    await administration.create_namespace("b", "n", {"ack_quorum": 1})

    assert await administration.list_tenants() == ("b", "shop")
    assert await administration.get_tenant("b") == made
    assert made == TenantInfo("b", ("ops",), (), {"x": "y"})
    assert await administration.list_namespaces("b") == ("b/n",)
    assert (await administration.get_namespace("b", "n")).policies == {"ack_quorum": 1}


async def test_only_what_is_empty_is_deleted(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    await TopicRepository(session).create(TopicRecord(TOPIC.full))

    with pytest.raises(ResourceInUse, match="orders"):
        await administration.delete_tenant("shop")
    with pytest.raises(ResourceInUse, match="created"):
        await administration.delete_namespace("shop", "orders")

    topics = TopicRepository(session)
    await topics.delete(TOPIC.full, (await topics.get(TOPIC.full))[1])
    await administration.delete_namespace("shop", "orders")
    await administration.delete_tenant("shop")
    assert await administration.list_tenants() == ()


async def test_policies_of_topics_go_with_their_namespace(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    await administration.change_topic_policies(TOPIC, {"retention_minutes": 5})

    await administration.delete_namespace("shop", "orders")
    await administration.create_namespace("shop", "orders")

    assert await PolicyView(session).of_topic(TOPIC) == {}


async def test_a_namespace_that_gets_a_topic_while_it_is_deleted_stays(
    session: EmbeddedSession, administration: TenantAdministration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topics = TopicRepository(session)
    delete = NamespaceRepository.delete

    async def made_meanwhile(self: NamespaceRepository, *given: Any) -> None:
        await topics.create(TopicRecord(TOPIC.full))
        await delete(self, *given)

    monkeypatch.setattr(NamespaceRepository, "delete", made_meanwhile)

    with pytest.raises(ResourceInUse):
        await administration.delete_namespace("shop", "orders")
    assert (await administration.get_namespace("shop", "orders")).name == "shop/orders"


async def test_what_is_not_there_is_said_so(administration: TenantAdministration) -> None:
    for call in (
        administration.get_tenant("x"), administration.delete_tenant("x"),
        administration.list_namespaces("x"), administration.get_namespace("shop", "x"),
        administration.delete_namespace("shop", "x"),
        administration.change_namespace_policies("shop", "x", {}),
    ):
        with pytest.raises(ResourceNotFound, match="x"):
            await call


@pytest.mark.parametrize("name", ["", "a/b", "a b", "..", "ä" * 300])
async def test_bad_names_are_refused(administration: TenantAdministration, name: str) -> None:
    with pytest.raises(InvalidArgument):
        await administration.create_tenant(name)
    with pytest.raises(InvalidArgument):
        await administration.create_namespace("shop", name)


async def test_changes_add_up_and_none_takes_one_back(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    change = administration.change_namespace_policies
    await change("shop", "orders", {"retention_minutes": 5, "ack_quorum": 1})
    await change("shop", "orders", {"retention_minutes": None, "deduplication": False})

    assert await stored(session) == {"ack_quorum": 1, "deduplication": False}


async def test_a_bad_change_stores_nothing(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    with pytest.raises(PolicyError, match="ack_quorum"):
        await administration.change_namespace_policies(
            "shop", "orders", {"retention_minutes": 5, "ack_quorum": 0}
        )

    assert await stored(session) == {}


async def test_a_level_must_fit_those_above_it(administration: TenantAdministration) -> None:
    await administration.change_cluster_policies({"ensemble_size": 5, "write_quorum": 4})

    with pytest.raises(PolicyError, match="ack_quorum"):
        await administration.change_namespace_policies("shop", "orders", {"ack_quorum": 5})
    with pytest.raises(PolicyError, match="write_quorum"):
        await administration.change_topic_policies(TOPIC, {"ensemble_size": 3})
    with pytest.raises(PolicyError, match="write_quorum"):
        await administration.create_namespace("shop", "small", {"ensemble_size": 2})


async def test_topic_policies_need_the_namespace_and_not_the_topic(
    administration: TenantAdministration,
) -> None:
    await administration.change_topic_policies(TOPIC, {"retention_minutes": 5})

    with pytest.raises(NamespaceNotFound):
        await administration.change_topic_policies(
            TopicName.parse("shop/unknown/topic"), {"retention_minutes": 5}
        )


async def test_what_a_newer_version_stored_is_kept(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    newer = NamespaceRecord("shop", "orders", {"of_a_newer_version": [1, 2]})
    await NamespaceRepository(session).update(newer, 0)

    await administration.change_namespace_policies("shop", "orders", {"ack_quorum": 1})

    assert await stored(session) == {"of_a_newer_version": [1, 2], "ack_quorum": 1}


async def test_concurrent_changes_all_take_effect(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    changes = [{"retention_minutes": 5}, {"retention_bytes": 6}, {"max_ledger_entries": 7}]

    await asyncio.gather(*(
        administration.change_namespace_policies("shop", "orders", change) for change in changes
    ))

    assert await stored(session) == {
        "retention_minutes": 5, "retention_bytes": 6, "max_ledger_entries": 7,
    }

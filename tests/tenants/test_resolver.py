"""Which policies hold for a topic, how changes arrive, and what bad stored values do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from magnetar.errors import ConnectionLoss
from magnetar.topic import TopicName
from metadata.embedded import EmbeddedSession, EmbeddedStore
from metadata.tenants import (
    NamespaceRecord,
    NamespaceRepository,
    PoliciesRecord,
    PolicyRepository,
    TenantRecord,
    TenantRepository,
)
from tenants.administration import TenantAdministration
from tenants.errors import NamespaceNotFound, PolicyError
from tenants.policies import TopicPolicies
from tenants.resolver import PolicyResolver

TOPIC = TopicName.parse("persistent://shop/orders/created")


@pytest.fixture
async def session() -> AsyncIterator[EmbeddedSession]:
    store = EmbeddedStore.open(None)
    opened = store.open_session()
    await TenantRepository(opened).create(TenantRecord("shop"))
    await NamespaceRepository(opened).create(NamespaceRecord("shop", "orders"))
    yield opened
    await opened.close()
    await store.close()


@pytest.fixture
def administration(session: EmbeddedSession) -> TenantAdministration:
    return TenantAdministration(session)


async def test_defaults_hold_where_nothing_is_set(session: EmbeddedSession) -> None:
    alone = TopicPolicies(ensemble_size=1, write_quorum=1, ack_quorum=1)

    assert await PolicyResolver(session).resolve(TOPIC) == TopicPolicies()
    assert await PolicyResolver(session, defaults=alone).resolve(TOPIC) == alone


async def test_the_narrower_level_wins(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    await administration.change_cluster_policies(
        {"retention_minutes": 1, "retention_bytes": 1, "max_ledger_entries": 1}
    )
    await administration.change_namespace_policies(
        "shop", "orders", {"retention_minutes": 2, "retention_bytes": 2}
    )
    await administration.change_topic_policies(TOPIC, {"retention_minutes": 3})

    resolved = await PolicyResolver(session).resolve(TOPIC)
    neighbour = await PolicyResolver(session).resolve(TopicName.parse("shop/orders/other"))

    assert resolved.retention_minutes == 3
    assert resolved.retention_bytes == 2
    assert resolved.max_ledger_entries == 1
    assert neighbour.retention_minutes == 2


async def test_partitions_follow_their_topic(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    await administration.change_topic_policies(TOPIC, {"retention_minutes": 3})

    resolved = await PolicyResolver(session).resolve(TOPIC.with_partition(7))

    assert resolved.retention_minutes == 3


async def test_a_topic_of_no_namespace_is_refused(session: EmbeddedSession) -> None:
    with pytest.raises(NamespaceNotFound, match="shop/unknown"):
        await PolicyResolver(session).resolve(TopicName.parse("shop/unknown/topic"))


async def test_a_namespace_made_later_is_found(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    resolver = PolicyResolver(session)
    topic = TopicName.parse("shop/later/topic")
    with pytest.raises(NamespaceNotFound):
        await resolver.resolve(topic)

    await administration.create_namespace("shop", "later", {"ack_quorum": 1})

    assert (await resolver.resolve(topic)).ack_quorum == 1


async def test_levels_are_read_once_until_they_change(
    session: EmbeddedSession,
    administration: TenantAdministration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = PolicyResolver(session)
    changed = asyncio.Event()
    resolver.on_change(changed.set)
    await resolver.resolve(TOPIC)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedSession, "get", refuse)
        assert await resolver.resolve(TOPIC) == TopicPolicies()

    await administration.change_namespace_policies("shop", "orders", {"deduplication": False})
    await changed.wait()

    assert not (await resolver.resolve(TOPIC)).deduplication


async def test_a_change_during_the_read_is_not_kept_out(
    session: EmbeddedSession,
    administration: TenantAdministration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = PolicyResolver(session)
    changed = asyncio.Event()
    resolver.on_change(changed.set)
    original = NamespaceRepository.get
    meanwhile = iter([{"retention_minutes": 5}])

    async def read_then_change(
        self: NamespaceRepository, tenant: str, name: str
    ) -> tuple[NamespaceRecord, int]:
        answer = await original(self, tenant, name)
        for changes in meanwhile:
            await administration.change_namespace_policies(tenant, name, changes)
            await changed.wait()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(NamespaceRepository, "get", read_then_change)
        await resolver.resolve(TOPIC)

    assert (await resolver.resolve(TOPIC)).retention_minutes == 5


async def test_an_unreadable_level_is_an_error_and_is_not_remembered(
    session: EmbeddedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = PolicyResolver(session)

    async def lose(*_: object) -> tuple[NamespaceRecord, int]:
        raise ConnectionLoss("lost")

    with monkeypatch.context() as patch, pytest.raises(ConnectionLoss):
        patch.setattr(NamespaceRepository, "get", lose)
        await resolver.resolve(TOPIC)

    assert await resolver.resolve(TOPIC) == TopicPolicies()


async def test_a_bad_stored_value_names_the_setting_and_the_level(
    session: EmbeddedSession,
) -> None:
    await NamespaceRepository(session).update(
        NamespaceRecord("shop", "orders", {"ack_quorum": "two"}), 0
    )

    with pytest.raises(PolicyError) as caught:
        await PolicyResolver(session).resolve(TOPIC)

    assert caught.value.setting == "ack_quorum"
    assert "namespace shop/orders" in str(caught.value)


async def test_levels_that_do_not_fit_together_name_the_topic(session: EmbeddedSession) -> None:
    await PolicyRepository(session).put_topic(
        TOPIC.full, PoliciesRecord({"ensemble_size": 1}), None
    )

    with pytest.raises(PolicyError, match="write_quorum") as caught:
        await PolicyResolver(session).resolve(TOPIC)

    assert TOPIC.full in str(caught.value)


async def test_only_so_many_levels_are_kept(session: EmbeddedSession) -> None:
    resolver = PolicyResolver(session, max_kept_levels=4)

    for number in range(20):
        await resolver.resolve(TopicName.parse(f"shop/orders/topic-{number}"))

    assert len(resolver._kept) == 4


async def test_a_stopped_resolver_calls_nobody(
    session: EmbeddedSession, administration: TenantAdministration
) -> None:
    resolver = PolicyResolver(session)
    other = PolicyResolver(session)
    calls: list[str] = []
    resolver.on_change(lambda: calls.append("stopped"))
    changed = asyncio.Event()
    other.on_change(changed.set)
    await resolver.resolve(TOPIC)
    await other.resolve(TOPIC)

    resolver.stop()
    await administration.change_topic_policies(TOPIC, {"retention_minutes": 1})
    await changed.wait()

    assert calls == []


async def test_a_watch_that_calls_back_once_it_is_set_starts_no_loop(
    session: EmbeddedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZooKeeper and the served store may call back without a change when a watch is set."""
    loop = asyncio.get_running_loop()
    watch = session.watch

    def calling_back_once(path: str, callback: Callable[[], None]) -> Callable[[], None]:
        loop.call_soon(callback)
        return watch(path, callback)

    monkeypatch.setattr(EmbeddedSession, "watch", lambda _self, *given: calling_back_once(*given))
    resolver = PolicyResolver(session)
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1
        following.append(loop.create_task(resolver.resolve(TOPIC)))

    following: list[asyncio.Task[TopicPolicies]] = []
    resolver.on_change(changed)
    await resolver.resolve(TOPIC)
    for _ in range(20):
        await asyncio.sleep(0)

    levels = 3
    assert changes == levels
    await asyncio.gather(*following)
    resolver.stop()

"""Repositories, and the settling of writes whose answers were lost."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from magnetar.errors import (
    AlreadyExists,
    BadVersion,
    ConnectionLoss,
    LedgerNotFound,
    NotEmpty,
    NotFound,
)
from magnetar.ids import BookieId, BrokerId, EntryId, LedgerId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from metadata import paths
from metadata.bookies import BookieDirectory, BookieRegistration, BookieRepository
from metadata.brokers import BrokerDirectory, BrokerRegistration, BrokerRepository
from metadata.cas import MAX_ATTEMPTS, create_settled, delete_settled, put_settled
from metadata.cluster import initialize_cluster, read_cluster
from metadata.embedded import EmbeddedStore
from metadata.ledgers import Fragment, LedgerMetadata, LedgerRepository, LedgerState
from metadata.open import open_store
from metadata.tenants import (
    NamespaceRecord,
    NamespaceRepository,
    PoliciesRecord,
    PolicyRepository,
    TenantRecord,
    TenantRepository,
)
from metadata.topics import Owner, TopicRecord, TopicRepository
from tests.metadata.faulty_store import Fault, FaultyStore
from tests.metadata.memory_network import MemoryNetwork
from tests.metadata.waiting import Signal

UNAPPLIED, UNANSWERED = Fault.UNAPPLIED, Fault.UNANSWERED


@pytest.fixture
def embedded() -> EmbeddedStore:
    return EmbeddedStore.open(None)


@pytest.fixture
def faulty(embedded: EmbeddedStore) -> FaultyStore:
    return FaultyStore(embedded)


def _ledger(ledger_id: int) -> LedgerMetadata:
    ensemble = tuple(BookieId(name) for name in ("b1", "b2", "b3"))
    return LedgerMetadata(
        LedgerId(ledger_id), 3, 3, 2, LedgerState.OPEN, (Fragment(EntryId(0), ensemble),)
    )


def _bookie(name: str, port: int = 1, read_only: bool = False) -> BookieRegistration:
    return BookieRegistration(
        BookieId(name), Address("host", port), None, read_only=read_only, incarnation="one"
    )


LOSSES = [
    losses
    for length in (1, 2, 3)
    for losses in itertools.product((UNAPPLIED, UNANSWERED), repeat=length)
]


@pytest.mark.parametrize("losses", LOSSES)
async def test_every_writing_is_settled_whatever_is_lost(
    faulty: FaultyStore, losses: tuple[Fault, ...]
) -> None:
    faulty.faults[:] = losses
    assert await create_settled(faulty, "/a", b"zero") == 0

    faulty.faults[:] = losses
    assert await put_settled(faulty, "/a", b"one", 0) == 1
    assert (await faulty.get("/a")).value == b"one"

    faulty.faults[:] = losses
    await delete_settled(faulty, "/a", 1)
    with pytest.raises(NotFound):
        await faulty.get("/a")


async def test_a_lost_answer_is_settled_through_lost_readings(faulty: FaultyStore) -> None:
    await faulty.create("/a", b"zero")
    faulty.faults[:] = [UNANSWERED]
    faulty.read_faults[:] = [UNANSWERED, UNAPPLIED]

    assert await put_settled(faulty, "/a", b"one", 0) == 1


async def test_another_writer_is_never_taken_for_us(
    embedded: EmbeddedStore, faulty: FaultyStore
) -> None:
    other = embedded.open_session()
    await faulty.create("/a", b"zero")
    faulty.faults[:] = [UNAPPLIED]
    await other.put("/a", b"theirs", 0)

    with pytest.raises(BadVersion):
        await put_settled(faulty, "/a", b"ours", 0)
    faulty.faults[:] = [UNAPPLIED]
    with pytest.raises(AlreadyExists):
        await create_settled(faulty, "/a", b"ours")
    assert (await faulty.get("/a")).value == b"theirs"


async def test_ours_overwritten_before_we_could_look_is_a_changed_node(
    embedded: EmbeddedStore, faulty: FaultyStore
) -> None:
    other = embedded.open_session()
    await faulty.create("/a", b"zero")
    faulty.faults[:] = [UNANSWERED]

    async def overwrite() -> None:
        await other.put("/a", b"theirs", 1)

    faulty.before_loss = overwrite

    with pytest.raises(BadVersion):
        await put_settled(faulty, "/a", b"ours", 0)


@pytest.mark.parametrize(
    "write",
    [
        lambda store: put_settled(store, "/a", b"", 0),
        lambda store: create_settled(store, "/b", b""),
        lambda store: delete_settled(store, "/a"),
    ],
)
async def test_what_cannot_be_settled_stays_unknown(
    faulty: FaultyStore, write: Callable[[FaultyStore], Awaitable[object]]
) -> None:
    await faulty.create("/a", b"")
    faulty.faults[:] = [UNAPPLIED] * MAX_ATTEMPTS

    with pytest.raises(ConnectionLoss):
        await write(faulty)


async def test_ledger_ids_are_unique_and_rising(embedded: EmbeddedStore) -> None:
    repositories = [LedgerRepository(embedded.open_session()) for _ in range(3)]

    rounds = [
        await asyncio.gather(*(repository.allocate() for repository in repositories))
        for _ in range(5)
    ]

    ids = [ledger_id for batch in rounds for ledger_id in batch]
    assert sorted(set(ids)) == list(range(15))
    assert all(max(before) < min(after) for before, after in itertools.pairwise(rounds))


async def test_a_lost_allocation_skips_its_id(faulty: FaultyStore) -> None:
    ledgers = LedgerRepository(faulty)
    assert await ledgers.allocate() == 0
    faulty.faults[:] = [UNANSWERED, UNAPPLIED]

    assert await ledgers.allocate() == 2


async def test_a_ledger_lives_under_compare_and_set(faulty: FaultyStore) -> None:
    ledgers, metadata, watcher = LedgerRepository(faulty), _ledger(5), Signal()
    ledgers.watch(LedgerId(5), watcher)
    assert await ledgers.create(metadata) == 0
    with pytest.raises(AlreadyExists):
        await ledgers.create(metadata)
    recovering = replace(metadata, state=LedgerState.IN_RECOVERY)

    faulty.faults[:] = [UNANSWERED]
    assert await ledgers.update(recovering, 0) == 1
    with pytest.raises(BadVersion):
        await ledgers.update(metadata, 0)

    assert await ledgers.get(LedgerId(5)) == (recovering, 1)
    assert [ledger_id async for ledger_id in ledgers.list()] == [5]
    await watcher.fired()


async def test_one_list_tells_of_all_neighbours_of_a_ledger(faulty: FaultyStore) -> None:
    ledgers = LedgerRepository(faulty)
    for ledger_id in (4095, 4096, 4097, 8191, 8192):
        await ledgers.create(_ledger(ledger_id))

    assert await ledgers.listed_beside(LedgerId(5000)) == {4096, 4097, 8191}
    assert await ledgers.listed_beside(LedgerId(1 << 40)) == frozenset()


async def test_a_ledgers_absence_is_certain_or_an_error(faulty: FaultyStore) -> None:
    ledgers = LedgerRepository(faulty)
    await ledgers.create(_ledger(5))
    faulty.read_faults[:] = [UNAPPLIED, UNAPPLIED]

    with pytest.raises(ConnectionLoss):
        await ledgers.exists(LedgerId(5))
    with pytest.raises(ConnectionLoss):
        await ledgers.get(LedgerId(5))
    assert await ledgers.exists(LedgerId(5))

    await ledgers.delete(LedgerId(5))
    await ledgers.delete(LedgerId(5))
    assert not await ledgers.exists(LedgerId(5))
    with pytest.raises(LedgerNotFound):
        await ledgers.get(LedgerId(5))
    with pytest.raises(LedgerNotFound):
        await ledgers.update(_ledger(5), 0)


async def test_topics_are_listed_by_namespace(faulty: FaultyStore) -> None:
    topics = TopicRepository(faulty)
    names = [f"persistent://public/default/t{n}" for n in range(20)]
    for name in [*names, "persistent://public/other/x"]:
        await topics.create(TopicRecord(name))

    assert await topics.list("public", "default") == sorted(names)
    assert await topics.list("public", "none") == []


async def test_a_topic_changes_owner_by_compare_and_set(faulty: FaultyStore) -> None:
    topics, watcher = TopicRepository(faulty), Signal()
    record = TopicRecord("persistent://public/default/a/b")
    topics.watch(record.name, watcher)
    await topics.create(record)
    owned = replace(record, owner=Owner(BrokerId("one"), "x", 1))
    faulty.faults[:] = [UNANSWERED, UNAPPLIED]

    _, before = await topics.get(record.name)
    after = await topics.update(owned, before)
    with pytest.raises(BadVersion):
        await topics.update(replace(record, owner=Owner(BrokerId("two"), "y", 1)), before)

    assert await topics.get(record.name) == (owned, after)
    await watcher.fired()
    await topics.delete(record.name, after)
    with pytest.raises(NotFound):
        await topics.get(record.name)


async def test_tenants_namespaces_and_policies(faulty: FaultyStore) -> None:
    tenants, namespaces = TenantRepository(faulty), NamespaceRepository(faulty)
    policies = PolicyRepository(faulty)
    with pytest.raises(NotFound):
        await namespaces.create(NamespaceRecord("acme", "billing"))
    await tenants.create(TenantRecord("acme"))
    await namespaces.create(NamespaceRecord("acme", "billing"))

    assert await tenants.list() == ["acme"]
    assert await namespaces.list("acme") == ["billing"]
    changed = NamespaceRecord("acme", "billing", {"retention_minutes": 5})
    assert await namespaces.update(changed, 0) == 1
    assert await namespaces.get("acme", "billing") == (changed, 1)
    with pytest.raises(NotEmpty):
        await tenants.delete("acme")
    await namespaces.delete("acme", "billing")
    await tenants.delete("acme")
    assert await tenants.list() == []

    topic, set_on = "persistent://acme/billing/x", PoliciesRecord({"deduplication": True})
    assert await policies.put_cluster(set_on, None) == 0
    assert await policies.put_topic(topic, set_on, None) == 0
    with pytest.raises(AlreadyExists):
        await policies.put_topic(topic, set_on, None)
    assert await policies.put_topic(topic, PoliciesRecord(), 0) == 1
    assert await policies.get_topic(topic) == (PoliciesRecord(), 1)
    assert await policies.get_cluster() == (set_on, 0)


async def test_initialising_a_cluster_twice_changes_nothing(embedded: EmbeddedStore) -> None:
    chance = random.Random(1)
    stores = [FaultyStore(embedded) for _ in range(3)]
    with pytest.raises(NotFound, match="magnetar cluster init"):
        await read_cluster(stores[0])
    stores[0].faults[:] = [UNANSWERED, UNAPPLIED, UNANSWERED]

    records = await asyncio.gather(
        *(
            initialize_cluster(store, random_bytes=chance.randbytes, clock=SystemClock())
            for store in stores
        )
    )

    assert records[0] == records[1] == records[2] == await read_cluster(stores[0])
    assert len(records[0].cluster_key) == 32
    assert await NamespaceRepository(stores[0]).list("public") == ["default"]


@pytest.mark.parametrize("losses", LOSSES)
async def test_an_announcement_is_made_whatever_is_lost(
    embedded: EmbeddedStore, faulty: FaultyStore, losses: tuple[Fault, ...]
) -> None:
    bookies, other = BookieRepository(faulty), BookieRepository(embedded.open_session())
    faulty.faults[:] = losses
    await bookies.register(_bookie("b1"))
    faulty.faults[:] = losses
    await bookies.update(_bookie("b1", read_only=True))

    assert await other.list() == [_bookie("b1", read_only=True)]
    await faulty.session.close()
    assert await other.list() == []


async def test_an_announcement_of_an_earlier_session_is_replaced(
    embedded: EmbeddedStore,
) -> None:
    earlier, later = embedded.open_session(), embedded.open_session()
    await BookieRepository(earlier).register(_bookie("b1"))

    await BookieRepository(later).register(_bookie("b1"))
    await BookieRepository(earlier).unregister(BookieId("b1"))
    await earlier.close()

    assert await BookieRepository(later).list() == [_bookie("b1")]
    await BookieRepository(later).unregister(BookieId("b1"))
    await BookieRepository(later).unregister(BookieId("b1"))
    assert await BookieRepository(later).list() == []


async def test_another_life_of_a_broker_takes_its_place(embedded: EmbeddedStore) -> None:
    old, new = (BrokerRepository(embedded.open_session()) for _ in range(2))
    first = BrokerRegistration(BrokerId("x"), "first", Address("host", 1))
    second = replace(first, incarnation="second")
    await old.register(first)

    await new.register(second)

    assert await old.get(BrokerId("x")) == second


async def test_cookies_change_by_compare_and_set(faulty: FaultyStore) -> None:
    bookies, bookie_id = BookieRepository(faulty), BookieId("b1")
    with pytest.raises(NotFound):
        await bookies.get_cookie(bookie_id)
    faulty.faults[:] = [UNANSWERED]
    assert await bookies.create_cookie(bookie_id, b"one") == 0
    with pytest.raises(AlreadyExists):
        await bookies.create_cookie(bookie_id, b"other")
    assert await bookies.update_cookie(bookie_id, b"two", 0) == 1
    assert await bookies.get_cookie(bookie_id) == (b"two", 1)
    await bookies.delete_cookie(bookie_id, 1)


async def test_a_bookie_directory_follows(embedded: EmbeddedStore) -> None:
    session = embedded.open_session()
    bookies, changed = BookieRepository(session), Signal()
    directory = BookieDirectory(BookieRepository(embedded.open_session()))
    await directory.start()
    directory.on_change(changed)
    assert directory.all() == ()

    await bookies.register(_bookie("b2", 2))
    await bookies.register(_bookie("b1", 1))
    await changed.until(lambda: len(directory.all()) == 2)
    assert [bookie.bookie_id for bookie in directory.writable()] == ["b1", "b2"]
    assert directory.address(BookieId("b2")) == Address("host", 2)
    assert directory.address(BookieId("b3")) is None

    await bookies.update(_bookie("b1", 1, read_only=True))
    await changed.until(lambda: len(directory.writable()) == 1)
    assert len(directory.all()) == 2

    await session.close()
    await changed.until(lambda: directory.all() == ())
    await directory.stop()


async def test_a_directory_tells_once_however_often_its_watches_fire(
    embedded: EmbeddedStore,
) -> None:
    session, watching = embedded.open_session(), embedded.open_session()
    directory, changed = BookieDirectory(BookieRepository(watching)), Signal()
    await BookieRepository(session).register(_bookie("b1"))
    await directory.start()
    directory.on_change(changed)

    for _ in range(5):
        watching.suspend()
        watching.resume()
    await BookieRepository(session).register(_bookie("b2"))
    await changed.until(lambda: len(directory.all()) == 2)

    assert changed.count == 1
    await directory.stop()


async def test_a_directory_keeps_its_view_through_silence(embedded: EmbeddedStore) -> None:
    session, watching = embedded.open_session(), embedded.open_session()
    directory, changed = BookieDirectory(BookieRepository(watching)), Signal()
    await BookieRepository(session).register(_bookie("b1"))
    await directory.start()
    directory.on_change(changed)

    watching.suspend()
    await session.close()
    await asyncio.sleep(0)
    assert [bookie.bookie_id for bookie in directory.all()] == ["b1"]
    watching.resume()
    await changed.until(lambda: directory.all() == ())
    await directory.stop()


async def test_a_stopped_directory_is_silent(embedded: EmbeddedStore) -> None:
    session = embedded.open_session()
    directory, changed = BookieDirectory(BookieRepository(session)), Signal()
    await directory.start()
    directory.on_change(changed)
    tasks = len(asyncio.all_tasks())

    await BookieRepository(session).register(_bookie("b1"))
    await directory.stop()
    await directory.stop()
    for _ in range(3):
        await asyncio.sleep(0)

    assert changed.count == 0
    assert len(asyncio.all_tasks()) == tasks - 1


async def test_one_unreadable_record_does_not_hide_the_others(embedded: EmbeddedStore) -> None:
    session = embedded.open_session()
    await BookieRepository(session).register(_bookie("b1"))
    await session.create(f"{paths.BOOKIES}/b0", b'{"v":99}')
    directory = BookieDirectory(BookieRepository(session))

    await directory.start()

    assert [bookie.bookie_id for bookie in directory.all()] == ["b1"]
    await directory.stop()


async def test_a_broker_directory_finds_by_id(embedded: EmbeddedStore) -> None:
    repository = BrokerRepository(embedded.open_session())
    broker = BrokerRegistration(BrokerId("x/1"), "life", Address("host", 6650))
    await repository.register(broker)
    directory = BrokerDirectory(repository)
    await directory.start()

    assert directory.get(BrokerId("x/1")) == broker
    assert directory.all() == (broker,)
    await directory.stop()


@pytest.mark.parametrize("url", ["", "http://a:1", "zk://", "zk://host", "served://", "zk:/a:1"])
async def test_urls_that_name_no_store_are_refused(url: str) -> None:
    from magnetar.errors import InvalidArgument

    with pytest.raises(InvalidArgument):
        await open_store(url, network=MemoryNetwork(), clock=SystemClock())

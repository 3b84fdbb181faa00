"""Partitioned topics and generations, on every form of the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from magnetar.errors import AlreadyExists, InvalidArgument, NotFound
from metadata import paths
from metadata.embedded import EmbeddedStore
from metadata.partitioned_topics import (
    MAX_PARTITIONS,
    PartitionedTopicRecord,
    PartitionedTopicRepository,
)
from metadata.store import MetadataStore
from metadata.topic_generations import TopicGenerations
from metadata.topics import TopicRecord, TopicRepository
from tests.metadata.faulty_store import Fault, FaultyStore
from tests.metadata.paused_store import PausedStore
from tests.metadata.waiting import Signal

NAME = "persistent://public/default/orders"
OTHER = "persistent://public/default/zebras"

OpenSession = Callable[[], Awaitable[MetadataStore]]


async def test_a_topic_grows_and_never_shrinks(open_session: OpenSession) -> None:
    topics, seen = PartitionedTopicRepository(await open_session()), Signal()
    topics.watch(NAME, seen)
    await topics.create(PartitionedTopicRecord(NAME, 2, 5, properties=(("a", "b"),)))
    await seen.fired()

    grown = await topics.grow(NAME, 4)

    assert grown == PartitionedTopicRecord(NAME, 4, 5, properties=(("a", "b"),))
    assert (await topics.get(NAME))[0] == grown
    assert await topics.grow(NAME, 4) == grown
    with pytest.raises(InvalidArgument, match="never falls"):
        await topics.grow(NAME, 3)
    for wrong in (0, -1, MAX_PARTITIONS + 1):
        with pytest.raises(InvalidArgument, match="1 to 10,000"):
            await topics.grow(NAME, wrong)
    with pytest.raises(NotFound):
        await topics.grow(OTHER, 5)


async def test_growing_at_once_ends_with_the_most(open_session: OpenSession) -> None:
    repositories = [PartitionedTopicRepository(await open_session()) for _ in range(3)]
    await repositories[0].create(PartitionedTopicRecord(NAME, 1))

    await asyncio.gather(
        *(one.grow(NAME, n) for n, one in enumerate(repositories, 5)), return_exceptions=True
    )

    assert (await repositories[0].get(NAME))[0].partitions == 7


async def test_a_name_is_plain_or_partitioned(open_session: OpenSession) -> None:
    store = await open_session()
    plain, partitioned = TopicRepository(store), PartitionedTopicRepository(store)
    await plain.create(TopicRecord(NAME))
    await partitioned.create(PartitionedTopicRecord(OTHER, 3))

    with pytest.raises(AlreadyExists):
        await partitioned.create(PartitionedTopicRecord(NAME, 3))
    with pytest.raises(AlreadyExists):
        await plain.create(TopicRecord(OTHER))

    assert await partitioned.read(NAME) == TopicRecord(NAME)
    with pytest.raises(NotFound, match="not partitioned"):
        await partitioned.get(NAME)
    with pytest.raises(NotFound):
        await partitioned.delete(NAME)
    with pytest.raises(InvalidArgument, match="is partitioned"):
        await plain.get(OTHER)
    assert list(await partitioned.list("public", "default")) == [OTHER]


@pytest.mark.parametrize("attempt", range(4))
async def test_of_two_creators_of_different_kinds_one_wins(
    open_session: OpenSession, attempt: int
) -> None:
    stores = [await open_session() for _ in range(2)]
    creations: list[Awaitable[None]] = [
        TopicRepository(stores[0]).create(TopicRecord(NAME)),
        PartitionedTopicRepository(stores[1]).create(PartitionedTopicRecord(NAME, 2)),
    ]

    results = await asyncio.gather(
        *(creations[::-1] if attempt % 2 else creations), return_exceptions=True
    )

    assert results.count(None) == 1
    assert sum(isinstance(one, AlreadyExists) for one in results) == 1


async def test_deleted_topics_leave_nothing(open_session: OpenSession) -> None:
    store = await open_session()
    topics = PartitionedTopicRepository(store)
    await topics.create(PartitionedTopicRecord(NAME, 2))
    await topics.create(PartitionedTopicRecord(OTHER, 2))

    assert (await topics.mark_deleting(NAME)).deleting
    await topics.delete(NAME)

    assert list(await topics.list("public", "default")) == [OTHER]
    with pytest.raises(NotFound):
        await store.get(paths.partitioned_topic(NAME))
    with pytest.raises(NotFound):
        await topics.delete(NAME)
    await topics.create(PartitionedTopicRecord(NAME, 1))
    assert list(await topics.list("public", "default")) == [NAME, OTHER]


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("get", paths.partitioned_topic(NAME)),
        ("delete", paths.partitioned_topic(NAME)),
        ("delete", paths.topic(NAME)),
    ],
)
async def test_what_is_created_while_it_is_deleted_stays_in_the_index(
    operation: str, path: str
) -> None:
    embedded = EmbeddedStore.open(None)
    store = PausedStore(embedded.open_session())
    deleter = PartitionedTopicRepository(store)  # type: ignore[arg-type]
    creator = PartitionedTopicRepository(embedded.open_session())
    await creator.create(PartitionedTopicRecord(NAME, 1, deleting=True))
    pause = store.pause(operation, path)
    deleting = asyncio.create_task(deleter.delete(NAME))
    await pause.reached.wait()

    with contextlib.suppress(AlreadyExists):
        await creator.create(PartitionedTopicRecord(NAME, 2))
    pause.let_go()
    await deleting

    try:
        left = {NAME: (await creator.get(NAME))[0]}
    except NotFound:
        left = {}
    assert await creator.list("public", "default") == left


async def test_a_deletion_seen_late_does_not_hide_a_half_made_topic() -> None:
    embedded = EmbeddedStore.open(None)
    store = PausedStore(embedded.open_session())
    creator = PartitionedTopicRepository(store)  # type: ignore[arg-type]
    deleter = PartitionedTopicRepository(embedded.open_session())
    await deleter.create(PartitionedTopicRecord(NAME, 1, deleting=True))
    pause = store.pause("create", paths.topic(NAME))
    creating = asyncio.create_task(creator.create(PartitionedTopicRecord(NAME, 2)))
    await pause.reached.wait()

    await deleter.delete(NAME)
    pause.let_go()
    await creating

    assert await deleter.list("public", "default") == {NAME: PartitionedTopicRecord(NAME, 2)}


@pytest.mark.parametrize("fault", [Fault.UNAPPLIED, Fault.UNANSWERED])
async def test_lost_answers_are_settled(fault: Fault) -> None:
    store = FaultyStore(EmbeddedStore.open(None))
    topics = PartitionedTopicRepository(store)
    store.faults[:] = [fault] * 2
    await topics.create(PartitionedTopicRecord(NAME, 2))
    store.faults[:] = [fault]
    await topics.grow(NAME, 3)
    store.faults[:] = [fault]

    assert (await topics.mark_deleting(NAME)).partitions == 3
    store.faults[:] = [fault]
    await topics.delete(NAME)

    assert await topics.list("public", "default") == {}


async def test_an_index_entry_without_its_topic_is_told_apart(open_session: OpenSession) -> None:
    store = await open_session()
    topics = PartitionedTopicRepository(store)
    await store.create(paths.partitioned_topic(NAME), b'{"v":1}')
    await topics.create(PartitionedTopicRecord(OTHER, 1))

    found = await topics.list("public", "default")

    assert found == {NAME: None, OTHER: PartitionedTopicRecord(OTHER, 1)}


async def test_watchers_of_a_generation_are_told_of_every_change(
    open_session: OpenSession,
) -> None:
    ours, theirs = [TopicGenerations(await open_session()) for _ in range(2)]
    seen, elsewhere = Signal(), Signal()
    ours.watch("public", "default", seen)
    ours.watch("public", "other", elsewhere)

    for _ in range(3):
        await asyncio.gather(
            ours.advance("public", "default"), theirs.advance("public", "default")
        )
        await seen.fired()

    assert elsewhere.count <= 1

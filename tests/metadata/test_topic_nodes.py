"""Topics that are deleted and made again: nobody writes to the new one what he read of the old."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magnetar.errors import BadVersion, MetadataError, NotFound
from magnetar.ids import BrokerId, LedgerId
from metadata import paths
from metadata.embedded import EmbeddedStore
from metadata.partitioned_topics import PartitionedTopicRecord, PartitionedTopicRepository
from metadata.topic_nodes import MAX_CONFLICTS
from metadata.topics import LedgerInfo, Owner, TopicRecord, TopicRepository
from tests.metadata.conftest import OpenSession
from tests.metadata.faulty_store import Fault, FaultyStore

NAME = "persistent://public/default/orders"
FORMER = TopicRecord(
    NAME, Owner(BrokerId("former"), "1", 1), (LedgerInfo(LedgerId(7)),), last_ledger_id=LedgerId(7)
)


def neighbours(count: int) -> list[str]:
    """Topics that lie in the same bucket."""
    bucket = paths.topic_bucket(NAME)
    names = (f"persistent://public/default/n{number}" for number in range(100_000))
    return [name for name in names if paths.topic_bucket(name) == bucket][:count]


async def delete(topics: TopicRepository, name: str) -> None:
    await topics.delete(name, (await topics.get(name))[1])


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
async def test_a_former_owner_cannot_write_to_a_topic_made_again(
    open_session: OpenSession, writes: int
) -> None:
    """Whatever version the new one has, that of the old one among them."""
    former, topics = [TopicRepository(await open_session()) for _ in range(2)]
    await former.create(TopicRecord(NAME))
    version = await former.update(FORMER, (await former.get(NAME))[1])
    version = await former.update(replace(FORMER, created_ms=1), version)
    await delete(topics, NAME)
    made_again = TopicRecord(NAME)
    await topics.create(made_again)
    _, current = await topics.get(NAME)
    for number in range(writes):
        made_again = replace(made_again, next_ordinal=number)
        current = await topics.update(made_again, current)

    with pytest.raises(BadVersion):
        await former.update(replace(FORMER, created_ms=2), version)
    with pytest.raises(BadVersion):
        await former.delete(NAME, version)

    assert (await topics.get(NAME))[0] == made_again


async def test_a_topic_that_is_gone_is_not_written(open_session: OpenSession) -> None:
    topics = TopicRepository(await open_session())
    await topics.create(FORMER)
    _, version = await topics.get(NAME)
    await delete(topics, NAME)

    with pytest.raises(NotFound):
        await topics.update(replace(FORMER, created_ms=2), version)
    with pytest.raises(NotFound):
        await topics.delete(NAME, version)


async def test_a_plain_topic_is_not_taken_for_the_partitioned_one_before_it(
    open_session: OpenSession,
) -> None:
    store = await open_session()
    plain, partitioned = TopicRepository(store), PartitionedTopicRepository(store)
    await partitioned.create(PartitionedTopicRecord(NAME, 1))
    await partitioned.mark_deleting(NAME)
    _, version = await partitioned.get(NAME)
    await partitioned.delete(NAME)
    await plain.create(FORMER)

    with pytest.raises(BadVersion):
        await plain.update(replace(FORMER, created_ms=2), version)

    assert (await plain.get(NAME))[0] == FORMER


async def test_the_end_of_other_topics_fails_nobodys_write(open_session: OpenSession) -> None:
    topics = TopicRepository(await open_session())
    await topics.create(FORMER)
    _, version = await topics.get(NAME)
    for number, name in enumerate(neighbours(3)):
        await topics.create(TopicRecord(name))
        await delete(topics, name)
        version = await topics.update(replace(FORMER, created_ms=number), version)

    await topics.create(TopicRecord(name))
    await delete(topics, name)
    await topics.delete(NAME, version)

    assert await topics.list("public", "default") == []


async def test_a_change_and_the_end_of_another_topic_at_once_is_a_change(
    open_session: OpenSession,
) -> None:
    topics, (neighbour,) = TopicRepository(await open_session()), neighbours(1)
    await topics.create(FORMER)
    await topics.create(TopicRecord(neighbour))
    _, version = await topics.get(NAME)
    await topics.update(replace(FORMER, created_ms=1), version)
    await delete(topics, neighbour)

    with pytest.raises(BadVersion):
        await topics.update(replace(FORMER, created_ms=2), version)


@pytest.mark.parametrize("fault", [Fault.UNAPPLIED, Fault.UNANSWERED])
async def test_lost_answers_are_settled(fault: Fault) -> None:
    store = FaultyStore(EmbeddedStore.open(None))
    topics = TopicRepository(store)
    store.faults[:] = [fault]
    await topics.create(TopicRecord(NAME))
    _, version = await topics.get(NAME)
    store.faults[:] = [fault] * 2

    version = await topics.update(FORMER, version)
    assert (await topics.get(NAME)) == (FORMER, version)
    store.faults[:] = [fault] * 2
    await topics.delete(NAME, version)

    assert await topics.list("public", "default") == []


async def test_a_write_that_others_deletions_keep_failing_is_unknown_in_the_end() -> None:
    embedded = EmbeddedStore.open(None)
    topics, neighbour = TopicRepository(embedded.open_session()), neighbours(1)[0]
    busy = _NeighbourGoes(embedded, neighbour)
    await topics.create(FORMER)
    _, version = await topics.get(NAME)

    with pytest.raises(MetadataError, match="try again"):
        await TopicRepository(busy).update(replace(FORMER, created_ms=1), version)

    assert busy.tried == MAX_CONFLICTS
    assert (await topics.get(NAME))[0] == FORMER


class _NeighbourGoes(FaultyStore):
    """Before every write a neighbour is made and deleted."""

    def __init__(self, embedded: EmbeddedStore, neighbour: str) -> None:
        super().__init__(embedded)
        self._others = TopicRepository(embedded.open_session())
        self._neighbour = neighbour
        self.tried = 0

    async def put(self, *arguments: object) -> int:  # type: ignore[override]
        self.tried += 1
        await self._others.create(TopicRecord(self._neighbour))
        await delete(self._others, self._neighbour)
        return await super().put(*arguments)  # type: ignore[arg-type]

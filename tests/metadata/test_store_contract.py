"""One contract for every form of the metadata store."""

from __future__ import annotations

import asyncio

import pytest

from magnetar.errors import (
    AlreadyClosed,
    AlreadyExists,
    BadVersion,
    InvalidArgument,
    NotEmpty,
    NotFound,
)
from metadata.store import MAX_VALUE_BYTES, Guard, MetadataStore, Record, SessionState
from tests.metadata.conftest import OpenSession

PATIENCE_S = 10.0


@pytest.fixture
async def store(open_session: OpenSession) -> MetadataStore:
    return await open_session()


class Watcher:
    """Counts callbacks, and waits for them."""

    def __init__(self) -> None:
        self.count = 0
        self._fired = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._fired.set()

    async def fired(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._fired.wait()
        self._fired.clear()


async def test_a_created_node_is_read_back_at_version_0(store: MetadataStore) -> None:
    version = await store.create("/a", b"one")

    assert version == 0
    assert await store.get("/a") == Record(b"one", 0)


async def test_parents_are_made_and_stay(store: MetadataStore) -> None:
    await store.create("/a/b/c", b"leaf")
    await store.delete("/a/b/c")

    assert await store.get("/a/b") == Record(b"", 0)
    assert await store.children("/a") == ["b"]


async def test_creating_what_exists_is_refused(store: MetadataStore) -> None:
    await store.create("/a/b", b"one")

    with pytest.raises(AlreadyExists):
        await store.create("/a/b", b"two")
    with pytest.raises(AlreadyExists):
        await store.create("/a", b"")
    with pytest.raises(AlreadyExists):
        await store.create("/", b"")
    assert (await store.get("/a/b")).value == b"one"


async def test_put_replaces_only_the_version_it_names(store: MetadataStore) -> None:
    await store.create("/a", b"zero")

    assert await store.put("/a", b"one", 0) == 1
    assert await store.put("/a", b"two", 1) == 2
    with pytest.raises(BadVersion):
        await store.put("/a", b"stale", 1)
    with pytest.raises(BadVersion):
        await store.put("/a", b"early", 3)

    assert await store.get("/a") == Record(b"two", 2)


async def test_there_is_no_any_version(store: MetadataStore) -> None:
    await store.create("/a", b"zero")

    with pytest.raises(InvalidArgument):
        await store.put("/a", b"one", -1)
    with pytest.raises(InvalidArgument):
        await store.delete("/a", -1)


async def test_absence_is_said(store: MetadataStore) -> None:
    for path in ("/absent", "/absent/below"):
        with pytest.raises(NotFound):
            await store.get(path)
        with pytest.raises(NotFound):
            await store.put(path, b"", 0)
        with pytest.raises(NotFound):
            await store.delete(path)
        with pytest.raises(NotFound):
            await store.children(path)


async def test_delete_honours_versions_and_children(store: MetadataStore) -> None:
    await store.create("/a/b", b"")
    await store.put("/a/b", b"", 0)

    with pytest.raises(BadVersion):
        await store.delete("/a/b", 0)
    with pytest.raises(NotEmpty):
        await store.delete("/a")
    await store.delete("/a/b", 1)
    await store.delete("/a")

    with pytest.raises(NotFound):
        await store.get("/a")


async def test_a_guarded_write_needs_the_versions_of_both_nodes(store: MetadataStore) -> None:
    await store.create("/a/b", b"one")
    await store.create("/a/c", b"other")
    await store.delete("/a/c", 0, Guard("/a", 0))

    for version, guard in [(0, Guard("/a", 0)), (1, Guard("/a", 1)), (0, Guard("/a", 2))]:
        with pytest.raises(BadVersion):
            await store.put("/a/b", b"two", version, guard)
    assert await store.put("/a/b", b"two", 0, Guard("/a", 1)) == 1

    assert await store.get("/a/b") == Record(b"two", 1)
    assert await store.get("/a") == Record(b"", 1)


async def test_a_guarded_deletion_gives_its_guard_another_version(store: MetadataStore) -> None:
    await store.create("/a/b/c", b"leaf")

    for version, guard in [(0, Guard("/a", 1)), (1, Guard("/a", 0))]:
        with pytest.raises(BadVersion):
            await store.delete("/a/b/c", version, guard)
    with pytest.raises(NotEmpty):
        await store.delete("/a/b", 0, Guard("/a", 0))
    assert await store.get("/a") == Record(b"", 0)
    await store.delete("/a/b/c", 0, Guard("/a", 0))

    assert await store.children("/a/b") == []
    assert await store.get("/a") == Record(b"", 1)


async def test_guarded_changes_of_what_is_absent_are_refused(store: MetadataStore) -> None:
    await store.create("/a/b", b"one")

    with pytest.raises(NotFound):
        await store.put("/a/x", b"", 0, Guard("/a", 0))
    with pytest.raises(NotFound):
        await store.delete("/a/x", 0, Guard("/a", 0))
    with pytest.raises(NotFound):
        await store.put("/a/b", b"", 0, Guard("/none", 0))


async def test_a_node_made_again_begins_at_version_0(store: MetadataStore) -> None:
    await store.create("/a", b"")
    await store.put("/a", b"", 0)
    await store.delete("/a")

    assert await store.create("/a", b"again") == 0
    assert await store.get("/a") == Record(b"again", 0)


async def test_children_are_sorted_names(store: MetadataStore) -> None:
    for name in ("b", "a-2", "ü%2F", "a-10"):
        await store.create(f"/folder/{name}", b"")
    await store.create("/folder/b/deeper", b"")

    assert await store.children("/folder") == ["a-10", "a-2", "b", "ü%2F"]
    assert await store.children("/folder/a-2") == []
    assert "folder" in await store.children("/")


@pytest.mark.parametrize("path", ["", "a", "/a/", "//a", "/a/../b", "/a/./b", "/a\x00", "/\ud800"])
async def test_malformed_paths_are_refused(store: MetadataStore, path: str) -> None:
    with pytest.raises(InvalidArgument):
        await store.get(path)
    with pytest.raises(InvalidArgument):
        await store.create(path, b"")
    with pytest.raises(InvalidArgument):
        store.watch(path, lambda: None)


async def test_values_up_to_the_limit_are_kept_and_above_refused(store: MetadataStore) -> None:
    largest = bytes(range(256)) * (MAX_VALUE_BYTES // 256)
    await store.create("/large", largest)

    assert (await store.get("/large")).value == largest
    with pytest.raises(InvalidArgument):
        await store.create("/larger", b"x" * (MAX_VALUE_BYTES + 1))
    with pytest.raises(InvalidArgument):
        await store.put("/large", b"x" * (MAX_VALUE_BYTES + 1), 0)


async def test_the_root_cannot_be_deleted(store: MetadataStore) -> None:
    with pytest.raises(InvalidArgument):
        await store.delete("/")


async def test_an_ephemeral_node_vanishes_with_its_session(open_session: OpenSession) -> None:
    owner, other = await open_session(), await open_session()
    await owner.create("/live/one", b"here", ephemeral=True)
    await owner.create("/kept/one", b"here")
    assert (await other.get("/live/one")).value == b"here"

    await owner.close()

    with pytest.raises(NotFound):
        await other.get("/live/one")
    assert await other.children("/live") == []
    assert (await other.get("/kept/one")).value == b"here"


async def test_an_ephemeral_node_has_no_children(store: MetadataStore) -> None:
    await store.create("/live", b"", ephemeral=True)

    with pytest.raises(InvalidArgument):
        await store.create("/live/below", b"")


async def test_sessions_are_distinct_and_connected(open_session: OpenSession) -> None:
    first, second = await open_session(), await open_session()

    assert first.session_id != second.session_id
    assert first.state is SessionState.CONNECTED
    assert first.silence_s() == 0.0
    assert 1.0 <= first.session_timeout_s <= 10.0


async def test_one_of_many_writers_wins_each_version(open_session: OpenSession) -> None:
    sessions = [await open_session() for _ in range(2)]
    await sessions[0].create("/counter", b"0")

    async def increment(store: MetadataStore, times: int) -> None:
        while times:
            record = await store.get("/counter")
            try:
                await store.put("/counter", b"%d" % (int(record.value) + 1), record.version)
            except BadVersion:
                continue
            times -= 1

    await asyncio.gather(*(increment(store, 20) for store in sessions))

    assert await sessions[1].get("/counter") == Record(b"40", 40)


async def test_calls_of_one_session_are_applied_in_order(store: MetadataStore) -> None:
    await store.create("/a", b"")

    versions = await asyncio.gather(*(store.put("/a", b"%d" % n, n) for n in range(50)))

    assert versions == [n + 1 for n in range(50)]
    assert (await store.get("/a")).value == b"49"


async def test_a_watch_tells_of_creation_change_and_deletion(open_session: OpenSession) -> None:
    watching, writing = await open_session(), await open_session()
    watcher = Watcher()
    watching.watch("/a/b", watcher)

    await writing.create("/a/b", b"")
    await watcher.fired()
    assert (await watching.get("/a/b")).version == 0

    await writing.put("/a/b", b"new", 0)
    await watcher.fired()
    assert (await watching.get("/a/b")).value == b"new"

    await writing.delete("/a/b")
    await watcher.fired()
    with pytest.raises(NotFound):
        await watching.get("/a/b")


async def test_a_watch_tells_of_changes_of_the_child_list(open_session: OpenSession) -> None:
    watching, writing = await open_session(), await open_session()
    watcher = Watcher()
    watching.watch("/folder", watcher)

    for step in range(3):
        await writing.create(f"/folder/{step}", b"", ephemeral=True)
        while len(await _names(watching, "/folder")) <= step:
            await watcher.fired()
    await writing.close()
    while await _names(watching, "/folder"):
        await watcher.fired()


async def _names(store: MetadataStore, path: str) -> list[str]:
    try:
        return await store.children(path)
    except NotFound:
        return []


async def test_no_change_is_missed_under_a_burst(open_session: OpenSession) -> None:
    watching, writing = await open_session(), await open_session()
    await writing.create("/a", b"0")
    watcher = Watcher()
    watching.watch("/a", watcher)
    changes = 60

    async def follow() -> None:
        while (await watching.get("/a")).version < changes:
            await watcher.fired()

    follower = asyncio.create_task(follow())
    for version in range(changes):
        await writing.put("/a", b"x", version)

    await asyncio.wait_for(follower, PATIENCE_S)


async def test_a_cancelled_watch_is_silent_and_others_are_not(open_session: OpenSession) -> None:
    watching, writing = await open_session(), await open_session()
    cancelled, kept = Watcher(), Watcher()
    cancel = watching.watch("/a", cancelled)
    watching.watch("/a", kept)
    cancel()
    cancel()

    await writing.create("/a", b"")
    await kept.fired()

    assert cancelled.count == 0


async def test_a_watch_set_again_after_its_cancel_works(open_session: OpenSession) -> None:
    watching, writing = await open_session(), await open_session()
    watching.watch("/a", Watcher())()
    again = Watcher()
    watching.watch("/a", again)

    await writing.create("/a", b"")

    await again.fired()


async def test_a_failing_callback_does_not_stop_the_others(open_session: OpenSession) -> None:
    store = await open_session()
    watcher = Watcher()

    def fail() -> None:
        raise RuntimeError("a callback of a test")

    store.watch("/a", fail)
    store.watch("/a", watcher)
    await store.create("/a", b"")

    await watcher.fired()


async def test_a_closed_session_takes_no_calls(store: MetadataStore) -> None:
    await store.close()
    await store.close()

    with pytest.raises(AlreadyClosed):
        await store.get("/a")

"""The simulator's metadata tree answers as the embedded store does."""

from __future__ import annotations

import random

import pytest

from magnetar.errors import InvalidArgument, MetadataError
from metadata.embedded import EmbeddedStore
from metadata.store import Guard
from tests.sim.store import MetadataTree

PATHS = ("/a", "/a/b", "/a/b/c", "/d", "/d/e", "/e")


def attempt(call):  # type: ignore[no-untyped-def]
    try:
        return call()
    except (MetadataError, InvalidArgument) as error:
        return type(error).__name__


@pytest.mark.parametrize("seed", range(12))
async def test_the_tree_answers_as_the_embedded_store(seed: int) -> None:
    chance = random.Random(seed)
    embedded = EmbeddedStore.open(None)
    session = embedded.open_session()
    tree = MetadataTree()
    number = tree.open_session(0.0)

    async def real(method: str, *arguments, **options):  # type: ignore[no-untyped-def]
        try:
            return await getattr(session, method)(*arguments, **options)
        except (MetadataError, InvalidArgument) as error:
            return type(error).__name__

    for step in range(120):
        path, version = chance.choice(PATHS), chance.randrange(3)
        value = b"%d" % step
        kind = chance.randrange(6)
        beside = chance.choice([one for one in PATHS if one != path])
        guard = Guard(beside, chance.randrange(2)) if chance.random() < 0.3 else None
        if kind == 0:
            ephemeral = chance.random() < 0.3
            ours = attempt(lambda p=path, v=value, e=ephemeral: tree.create(p, v, e, number))
            theirs = await real("create", path, value, ephemeral=ephemeral)
        elif kind in (1, 2):
            ours = attempt(lambda p=path, v=value, n=version, w=guard: tree.put(p, v, n, w))
            theirs = await real("put", path, value, version, guard)
        elif kind == 3:
            ours = attempt(lambda p=path: tree.get(p))
            theirs = await real("get", path)
        elif kind == 4:
            given = chance.choice((None, version))
            ours = attempt(lambda p=path, g=given, w=guard: tree.delete(p, g, w))
            theirs = await real("delete", path, given, guard)
        else:
            ours = attempt(lambda p=path: tree.children(p))
            theirs = await real("children", path)
        assert ours == theirs, (step, kind, path)

    tree.end_session(number)
    await session.close()
    after = embedded.open_session()
    for path in PATHS:
        try:
            theirs = await after.get(path)
        except MetadataError as error:
            theirs = type(error).__name__
        assert attempt(lambda p=path: tree.get(p)) == theirs
    await after.close()
    await embedded.close()

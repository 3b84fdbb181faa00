"""Cookies: a bookie runs on its own disk or not at all (R17)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from bookie.identity import COOKIE_NAME, Cookie, WrongIdentity, adopt, establish_identity
from magnetar.errors import InvalidFrame
from magnetar.ids import BookieId
from metadata.bookies import BookieRepository
from metadata.embedded import EmbeddedStore
from tests.bookie.memory_disk import MemoryDisk

BOOKIE = BookieId("b1")


@pytest.fixture
async def bookies() -> AsyncIterator[BookieRepository]:
    store = EmbeddedStore.open(None)
    yield BookieRepository(store.open_session())
    await store.close()


async def establish(
    disk: MemoryDisk, bookies: BookieRepository, *, bookie: BookieId = BOOKIE,
    cluster: str = "c1", accept_loss: bool = False, seed: int = 1,
) -> Cookie | None:
    return await establish_identity(
        disk, bookies, bookie, cluster, random.Random(seed), accept_loss=accept_loss
    )


async def test_a_new_bookie_gets_a_cookie_and_is_known_again(bookies: BookieRepository) -> None:
    disk = MemoryDisk()
    assert await establish(disk, bookies) is None
    cookie = Cookie.decode(disk.read(COOKIE_NAME))
    assert (cookie.bookie_id, cookie.cluster_id) == ("b1", "c1")
    assert await establish(disk, bookies, seed=2) is None
    assert Cookie.decode(disk.read(COOKIE_NAME)) == cookie


async def test_a_wiped_disk_is_refused_until_the_loss_is_accepted(
    bookies: BookieRepository,
) -> None:
    await establish(MemoryDisk(), bookies)
    wiped = MemoryDisk()
    with pytest.raises(WrongIdentity, match="accept-loss"):
        await establish(wiped, bookies, seed=2)
    cookie = await establish(wiped, bookies, accept_loss=True, seed=2)
    assert cookie is not None
    with pytest.raises(WrongIdentity):  # the limbo was not recorded yet
        await establish(wiped, bookies, seed=3)
    await adopt(wiped, cookie)
    assert await establish(wiped, bookies) is None


async def test_the_disk_of_another_bookie_or_cluster_is_refused(
    bookies: BookieRepository,
) -> None:
    disk = MemoryDisk()
    await establish(disk, bookies)
    for bookie, cluster in ((BookieId("b2"), "c1"), (BOOKIE, "c2")):
        with pytest.raises(WrongIdentity, match="belongs to bookie b1"):
            await establish(disk, bookies, bookie=bookie, cluster=cluster, accept_loss=True)


async def test_a_second_disk_under_the_same_id_is_refused(bookies: BookieRepository) -> None:
    first, second = MemoryDisk(), MemoryDisk()
    await establish(first, bookies)
    await adopt(second, Cookie("b1", "c1", "another"))
    with pytest.raises(WrongIdentity, match="another disk"):
        await establish(second, bookies, accept_loss=True)


async def test_a_start_cut_short_after_the_local_cookie_goes_on(
    bookies: BookieRepository,
) -> None:
    disk = MemoryDisk()
    cookie = Cookie("b1", "c1", "x")
    await adopt(disk, cookie)
    assert await establish(disk, bookies) is None
    assert Cookie.decode((await bookies.get_cookie(BOOKIE))[0]) == cookie


async def test_a_log_the_metadata_do_not_know_is_refused(bookies: BookieRepository) -> None:
    disk = MemoryDisk()
    await disk.create("log-000000000001")
    with pytest.raises(WrongIdentity, match="holds a log"):
        await establish(disk, bookies)


def test_a_malformed_cookie_is_refused() -> None:
    for text in (b"", b"{}", b"[]", b'{"v": 2}', b'{"v": 1}'):
        with pytest.raises(InvalidFrame):
            Cookie.decode(text)

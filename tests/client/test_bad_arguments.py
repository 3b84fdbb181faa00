"""What is no such choice or place is refused in words, and never taken for another."""

from __future__ import annotations

from typing import Any

import pytest

from magnetar import Client, InitialPosition
from magnetar.errors import InvalidArgument
from tests.client.partitioned import place


@pytest.mark.parametrize("given", [
    {"access_mode": "exclusive"}, {"compression_type": "zstd"},
    {"message_routing_mode": "single_partition"}, {"hashing_scheme": "murmur3"},
])
async def test_a_producers_choices(client: Client, given: dict[str, Any]) -> None:
    [name] = given
    with pytest.raises(InvalidArgument, match=f"{name} is a .*, not '{given[name]}'"):
        await client.create_producer("t", **given)


@pytest.mark.parametrize("given", [
    {"consumer_type": "shared"}, {"initial_position": "earliest"},
])
async def test_a_consumers_choices(client: Client, given: dict[str, Any]) -> None:
    [name] = given
    with pytest.raises(InvalidArgument, match=f"{name} is a .*, not '{given[name]}'"):
        await client.subscribe("t", "s", **given)


@pytest.mark.parametrize("partitions", [0, 2])
@pytest.mark.parametrize("where", ["x", "earliest", None, 1.5, ["1:2"]])
async def test_where_a_reader_or_consumer_goes_on(partitions: int, where: Any) -> None:
    async with place() as here:
        await here.create("t", partitions)
        reader = await here.client.create_reader("t")
        consumer = await here.client.subscribe("t", "s")

        with pytest.raises(InvalidArgument, match="begins at an InitialPosition"):
            await here.client.create_reader("t", where)
        for one in (reader, consumer):
            with pytest.raises(InvalidArgument, match="seek to a MessageId"):
                await one.seek(where)
        await consumer.seek(InitialPosition.Earliest)

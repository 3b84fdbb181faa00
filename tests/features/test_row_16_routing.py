"""Row 16: who asks for A only gets no byte of B, not even of a B in the middle of a batch."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from magnetar import CompressionType, InitialPosition
from tests.features.cluster import FeatureCluster, client_of
from tests.features.wire_bytes import ports_of, received_bytes

MESSAGES, WANTED_EACH, PAYLOAD_BYTES = 2_000, 100, 1_000
OVERHEAD_BYTES = 200
"""Of a wanted message: its index, properties, checksums and share of the frames."""


class Received(NamedTuple):
    payloads: list[bytes]
    wire_bytes: int


async def _consumed(
    cluster: FeatureCluster, topic: str, tags: str, condition: str, count: int
) -> Received:
    ports = ports_of(cluster.service_url)
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, f"s-{tags}-{condition}", initial_position=InitialPosition.Earliest,
            tags=tags, filter=condition)
        before_bytes = received_bytes(ports)
        found: list[bytes] = []
        while len(found) < count:
            for message in await consumer.receive_many(timeout_millis=30_000):
                found.append(message.data)
                consumer.acknowledge(message)
        return Received(found, received_bytes(ports) - before_bytes)


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize(("tags", "condition"), [("A", ""), ("*", "kind = 'A'")])
async def test_unwanted_bytes_do_not_cross_the_wire(
    cluster: FeatureCluster, topic: str, compression: CompressionType, tags: str, condition: str
) -> None:
    chance = random.Random(3)
    async with client_of(cluster) as client:
        producer = await client.create_producer(topic, compression_type=compression)
        wanted = []
        tickets = []
        for number in range(MESSAGES):
            kind = "B" if number % WANTED_EACH else "A"
            payload = chance.randbytes(PAYLOAD_BYTES)
            if kind == "A":
                wanted.append(payload)
            tickets.append(producer.send(payload, {"kind": kind}, tag=kind))
        for ticket in tickets:
            await ticket

    received = await _consumed(cluster, topic, tags, condition, len(wanted))

    assert received.payloads == wanted
    assert received.wire_bytes < len(wanted) * (PAYLOAD_BYTES + OVERHEAD_BYTES) + 4_000

"""The containers: publish and consume from the host while a bookie's container is killed.

Needs root and Docker with docker-compose, both of which `deploy/ensure-docker.sh` sees to;
where they cannot be had the test is skipped.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.ports import free_port
from magnetar import Client, Consumer, InitialPosition, __version__

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = REPOSITORY / "deploy/docker-compose.yml"
TOPIC = "persistent://public/default/containers"
MESSAGES = 20_000
START_LIMIT_S = 240.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Containers:
    """The cluster of docker-compose.yml under a project name and host ports of its own."""

    def __init__(self) -> None:
        self.ports = (free_port(), free_port())
        self._project = f"magnetartest{os.getpid()}"
        self._environment = {
            **os.environ,
            "MAGNETAR_PORT_1": str(self.ports[0]),
            "MAGNETAR_PORT_2": str(self.ports[1]),
            "MAGNETAR_SUBNET": "172.30.66",
        }

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker-compose", "--file", str(COMPOSE), "--project-name", self._project, *arguments],
            env=self._environment, capture_output=True, text=True, timeout=START_LIMIT_S,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def images() -> None:
    ready = subprocess.run(
        [str(REPOSITORY / "deploy/ensure-docker.sh")], capture_output=True, text=True, check=False
    )
    if ready.returncode:
        pytest.skip(f"no Docker here: {ready.stderr.strip()}")
    subprocess.run([str(REPOSITORY / "deploy/build-images.sh")], check=True, timeout=600)


@pytest.fixture(scope="module")
def containers(images: None) -> Iterator[Containers]:
    cluster = Containers()
    try:
        cluster.compose("up", "--detach")
        yield cluster
    finally:
        cluster.compose("down", "--volumes", "--timeout", "5")


def test_the_image_runs_the_command_line(images: None) -> None:
    command = ["docker", "run", "--rm", "magnetar:latest", "--version"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (0, f"magnetar {__version__}\n"), done.stderr


async def test_nothing_is_lost_when_a_bookie_container_is_killed(containers: Containers) -> None:
    first, second = containers.ports
    sent = [f"message {number}".encode() for number in range(MESSAGES)]

    async with (
        Client(f"magnetar://127.0.0.1:{first}", operation_timeout_seconds=120) as publishing,
        Client(f"magnetar://127.0.0.1:{second}", operation_timeout_seconds=120) as consuming,
    ):
        producer = await publishing.create_producer(TOPIC, "host")
        consumer = await consuming.subscribe(
            TOPIC, "host", initial_position=InitialPosition.Earliest
        )
        receiving = asyncio.create_task(_receive(consumer, len(sent)))
        half = len(sent) // 2
        await (await producer.send_many(sent[:half]))
        killing = asyncio.create_task(asyncio.to_thread(containers.compose, "kill", "bookie-2"))
        for at in range(half, len(sent), 100):
            await producer.send_many(sent[at : at + 100])
            await asyncio.sleep(0)
        await producer.flush()
        await killing
        received = await receiving

    assert producer.acknowledged_messages == len(sent)
    assert received == sent


async def _receive(consumer: Consumer, count: int) -> list[bytes]:
    received: list[bytes] = []
    while len(received) < count:
        messages = await consumer.receive_many(1000, 60_000)
        received += [message.data for message in messages]
    return received


async def test_both_brokers_serve_through_their_published_port(containers: Containers) -> None:
    for number, port in enumerate(containers.ports):
        topic = f"persistent://public/default/through-{number}"
        async with Client(f"magnetar://127.0.0.1:{port}", operation_timeout_seconds=60) as client:
            producer = await client.create_producer(topic)
            await producer.send(b"hello")
            reader = await client.create_reader(topic, InitialPosition.Earliest)
            message = await reader.read_next(30_000)

        assert message.data == b"hello"

"""Numbered messages under way while things break, and the log held against their receipts."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from magnetar import Client, InitialPosition, MessageId, Ticket

READ_TOGETHER: Final = 10_000
READ_LIMIT_MS: Final = 30_000
TURN_S: Final = 0.001
SEND_TIMEOUT_MS: Final = 120_000
SENT_A_TURN: Final = 4
"""A few thousand a second: enough that something is always in flight."""


async def read_log(url: str, topic: str) -> list[bytes]:
    """Every message of the topic, in the log's order."""
    found: list[bytes] = []
    async with (
        Client(url) as client,
        await client.create_reader(topic, InitialPosition.Earliest) as reader,
    ):
        while await reader.has_message_available():
            found += [message.data for message in await reader.read_many(
                READ_TOGETHER, READ_LIMIT_MS)]
    return found


class Traffic:
    """One producer that sends numbers from 0 until it is told to stop."""

    def __init__(self, url: str, topic: str, name: str = "traffic") -> None:
        self._url, self._topic, self._name = url, topic, name
        self._stopping = asyncio.Event()
        self._tickets: deque[tuple[int, Ticket]] = deque()
        self.confirmed: dict[int, MessageId] = {}
        self.failures: list[Exception] = []
        self.sent = 0

    async def run(self) -> None:
        """Send until `stop`, then until everything sent has its outcome."""
        async with Client(self._url, operation_timeout_seconds=60) as client:
            producer = await client.create_producer(
                self._topic, self._name, send_timeout_millis=SEND_TIMEOUT_MS
            )
            while not self._stopping.is_set():
                for _ in range(SENT_A_TURN):
                    payload = f"{self._name} {self.sent}".encode()
                    self._tickets.append((self.sent, producer.send(payload)))
                    self.sent += 1
                await self._settle(wait=False)
                await producer.ready()
                await asyncio.sleep(TURN_S)
            await self._settle(wait=True)

    async def _settle(self, *, wait: bool) -> None:
        while self._tickets and (wait or self._tickets[0][1].done()):
            number, ticket = self._tickets.popleft()
            try:
                self.confirmed[number] = await ticket
            except Exception as error:
                self.failures.append(error)

    async def until_confirmed(self, more: int) -> None:
        """Wait until so many more messages have their receipt."""
        wanted = len(self.confirmed) + more
        while len(self.confirmed) < wanted:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stopping.set()

    def check(self, log: list[bytes]) -> None:
        """Every confirmed message is in the log once, and its messages are in order."""
        prefix = f"{self._name} ".encode()
        numbers = [int(data.removeprefix(prefix)) for data in log if data.startswith(prefix)]
        found = set(numbers)
        lost = [number for number in self.confirmed if number not in found]
        assert not lost, f"{len(lost)} confirmed messages are not in the log: {lost[:10]}"
        assert len(numbers) == len(found), "the log holds messages twice"
        assert numbers == sorted(numbers), "the log's order is not the producer's"

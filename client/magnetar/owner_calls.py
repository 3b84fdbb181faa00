"""Single requests to whoever owns a topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from magnetar.connection import SERVICE, Connections, LinkLost, Open, Owner
from magnetar.errors import MagnetarError, OperationTimeout
from magnetar.wire.errors import RETRYABLE

Reply = TypeVar("Reply")


class OwnerCalls:
    """Knows the owner until it fails or answers that it is none."""

    def __init__(self, connections: Connections, topic: str) -> None:
        self._connections = connections
        self.topic = topic
        self._owner: Owner | None = None
        self._unreachable = ""

    async def call(
        self, method: str, request: Open, read: Callable[[bytes], Reply], *, answer_s: float,
        patience_s: float,
    ) -> Reply:
        """Ask, again until there is an answer, which `read` takes or raises.

        `answer_s` is how long one answer may take. Raises the first error that another attempt
        cannot cure, and after `patience_s` the last of the others: then the outcome is unknown.
        """
        attempts = self._connections.attempts_for(patience_s)
        while True:
            try:
                return read(await self._ask(method, request, answer_s))
            except RETRYABLE as error:
                await attempts.failed(error, again_at_once=self._failed(error))

    async def stream(self, method: str, request: Open) -> AsyncGenerator[bytes, None]:
        """The frames that answer; one attempt. Raises what goes wrong."""
        owner = await self._find()
        channel = await self._connections.reach(owner.address)
        stream = self._connections.answers_to(
            channel, owner.address, SERVICE + method, request(owner.relay))
        try:
            while True:
                yield await stream.read()
        except RETRYABLE as error:
            self._failed(error)
            raise
        finally:
            stream.close()

    async def _ask(self, method: str, request: Open, answer_s: float) -> bytes:
        connections = self._connections
        owner = await self._find()
        try:
            async with asyncio.timeout(connections.settings.attempt_timeout_s):
                channel = await connections.reach(owner.address)
        except TimeoutError as error:
            raise OperationTimeout(f"no answer from {owner.address}") from error
        return await connections.call_on(
            channel, owner.address, SERVICE + method, request(owner.relay), answer_s)

    async def _find(self) -> Owner:
        if self._owner is None:
            self._owner = await self._connections.owner_of(self.topic, self._unreachable)
            self._unreachable = ""
        return self._owner

    def _failed(self, error: MagnetarError) -> bool:
        """Forget who it was; True: another broker may already be able to answer."""
        owner, self._owner = self._owner, None
        if owner is None:
            return False
        if isinstance(error, LinkLost):
            self._connections.forget(owner.address)
        if isinstance(error, LinkLost | OperationTimeout) and owner.address != owner.via:
            told_before, self._unreachable = self._unreachable, owner.address
            return told_before != owner.address
        return False

"""A session whose answers can be lost, with the operation applied or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

from magnetar.errors import ConnectionLoss
from metadata.embedded import EmbeddedSession, EmbeddedStore
from metadata.store import Cancel, Guard, Record, SessionState

T = TypeVar("T")


class Fault(Enum):
    """What becomes of one operation."""

    NONE = "answered"
    UNAPPLIED = "lost on its way there"
    UNANSWERED = "applied, and the answer lost"


class FaultyStore:
    """Takes the next fault of `faults` for each writing, or of `read_faults` for each reading."""

    def __init__(self, embedded: EmbeddedStore) -> None:
        self.session: EmbeddedSession = embedded.open_session()
        self.faults: list[Fault] = []
        self.read_faults: list[Fault] = []
        self.before_loss: Callable[[], Awaitable[None]] | None = None

    async def _with(self, faults: list[Fault], operation: Awaitable[T]) -> T:
        fault = faults.pop(0) if faults else Fault.NONE
        if fault is Fault.UNAPPLIED:
            operation.close()  # type: ignore[attr-defined]
            raise ConnectionLoss("a request of a test was lost")
        outcome = await operation
        if fault is Fault.UNANSWERED:
            if self.before_loss is not None:
                await self.before_loss()
            raise ConnectionLoss("an answer of a test was lost")
        return outcome

    @property
    def session_id(self) -> int:
        return self.session.session_id

    @property
    def session_timeout_s(self) -> float:
        return self.session.session_timeout_s

    @property
    def state(self) -> SessionState:
        return self.session.state

    def silence_s(self) -> float:
        return self.session.silence_s()

    def on_session(self, callback: Callable[[SessionState], None]) -> Cancel:
        return self.session.on_session(callback)

    def watch(self, path: str, callback: Callable[[], None]) -> Cancel:
        return self.session.watch(path, callback)

    async def get(self, path: str) -> Record:
        return await self._with(self.read_faults, self.session.get(path))

    async def children(self, path: str) -> list[str]:
        return await self._with(self.read_faults, self.session.children(path))

    async def create(self, path: str, value: bytes, *, ephemeral: bool = False) -> int:
        creating = self.session.create(path, value, ephemeral=ephemeral)
        return await self._with(self.faults, creating)

    async def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> int:
        return await self._with(self.faults, self.session.put(path, value, version, guard))

    async def delete(
        self, path: str, version: int | None = None, guard: Guard | None = None
    ) -> None:
        await self._with(self.faults, self.session.delete(path, version, guard))

    async def close(self) -> None:
        await self.session.close()

"""Why a topic takes no messages just now: it was terminated, or its backlog is too large.

Producers are held back (their streams are not read) or told an error, never both at once. A
batch that arrives while the termination is being written is answered once that is decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from broker.conversation import MessagePosition
from broker.topic_log import TopicLog
from magnetar.errors import ConnectionFailed, MagnetarError, ResourceInUse, TopicTerminated

Refuse = Callable[[MagnetarError], None]
"""Tells the producer of one batch."""


class Quota(Protocol):
    """What a backlog that is too large does to producers."""

    @property
    def holds(self) -> bool:
        """Producers wait."""
        ...

    def refusal(self) -> MagnetarError | None:
        """What the producer of a new batch is told; None: it is stored."""


class PublishGate:
    """Asked once a batch, in constant time."""

    def __init__(self, log: TopicLog, quota: Quota, release: Callable[[], None]) -> None:
        """`release` lets producers go on that were held back."""
        self._log = log
        self._release = release
        self._quota = quota
        self._terminating: asyncio.Task[MessagePosition | None] | None = None
        self._undecided: list[Refuse] = []

    @property
    def terminated(self) -> bool:
        """The topic takes no more messages, for ever."""
        return self._log.log.record.terminated

    @property
    def holds(self) -> bool:
        """Producers' streams are not to be read."""
        return self._quota.holds or self._terminating is not None

    def refuses(self, refuse: Refuse) -> bool:
        """True when a new batch is not to be stored; `refuse` is told why, now or soon."""
        if self._terminating is not None:
            # A frame at most for each producer, since their streams are not read any more.
            self._undecided.append(refuse)
            return True
        error = self._termination() or self._quota.refusal()
        if error is None:
            return False
        refuse(error)
        return True

    def check_open(self) -> None:
        """Raises TopicTerminated for a producer that wants to begin."""
        error = self._termination()
        if error is not None:
            raise error

    async def terminate(
        self, drained: Callable[[], Coroutine[Any, Any, None]],
        in_the_way: Callable[[], ResourceInUse | None],
    ) -> MessagePosition | None:
        """Take no more messages; answers with the last one, or None if there is none.

        What was accepted before is stored first; `drained` waits for that. Once begun it is done,
        also when nobody waits for it any more. Raises ResourceInUse while messages wait for
        their time, as `in_the_way` tells then, and LedgerFenced, after which the topic closes.
        """
        if self._terminating is None:
            self._terminating = asyncio.get_running_loop().create_task(
                self._terminate(drained, in_the_way)
            )
            self._terminating.add_done_callback(self._decided)
        return await asyncio.shield(self._terminating)

    async def _terminate(
        self, drained: Callable[[], Coroutine[Any, Any, None]],
        in_the_way: Callable[[], ResourceInUse | None],
    ) -> MessagePosition | None:
        if not self.terminated:
            await drained()
            if (refusal := in_the_way()) is not None:
                raise refusal
            await self._log.log.roll()
            await self._log.log.terminate()
        return await self._log.last_message()

    def _decided(self, task: asyncio.Task[MessagePosition | None]) -> None:
        self._terminating = None
        undecided, self._undecided = self._undecided, []
        error: MagnetarError | None = None
        if not task.cancelled():
            failure = task.exception()
            error = self._termination()
            if isinstance(failure, ResourceInUse):
                error = ConnectionFailed("the topic was about to be terminated; send it again")
        if error is not None:  # else the topic closes, and with it their sessions
            for refuse in undecided:
                refuse(error)
            self._release()

    def _termination(self) -> TopicTerminated | None:
        if not self.terminated:
            return None
        return TopicTerminated(f"{self._log.log.record.name} was terminated; it takes no messages")

"""Lets producers of one topic in and out, and keeps durable who may come back.

The rules are `broker.producer_access`; here is what takes time: writing the record before
anybody is told, and waiting for one's turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.conversation import Access
from broker.producer_access import Admission, Answer, ProducerAccess, Seat
from broker.state_records import StateRecord
from magnetar.errors import MagnetarError

OnDone = Callable[[MagnetarError | None], None]


class ProducerDoor:
    """Made for each loading of a topic. `put_out` ends the sessions of those who are fenced."""

    def __init__(
        self, access: ProducerAccess, write: Callable[[StateRecord, OnDone], None],
        put_out: Callable[[tuple[Admission, ...]], None],
    ) -> None:
        self._access = access
        self._write = write
        self._put_out = put_out
        self._last_written = access.record
        self._writing: asyncio.Future[MagnetarError | None] | None = None
        self._turns: dict[Admission, asyncio.Future[None]] = {}
        self._grace: asyncio.TimerHandle | None = None
        self._shut: MagnetarError | None = None

    @property
    def topic_epoch(self) -> int:
        """The newest; 0: the topic never had an exclusive producer."""
        return self._access.epoch

    @property
    def waiting(self) -> int:
        """How many wait to be exclusive."""
        return self._access.waiting

    def loaded(self, grace_s: float) -> None:
        """The state was read; an exclusive producer of the last owner gets so long to return."""
        self._last_written = self._access.record
        if self._access.seat is Seat.EXPECTED:
            self._grace = asyncio.get_running_loop().call_later(grace_s, self._expect_no_more)

    async def enter(self, name: str, access: Access) -> Admission:
        """Let a producer in, at once or when its turn comes; what it may rely on is durable.

        Cancelling leaves the queue. Raises ProducerBusy, ProducerFenced, InvalidArgument, and
        what ended the topic meanwhile.
        """
        admission = Admission(name, access.mode, access.topic_epoch)
        came_back = bool(access.topic_epoch)
        entered = self._access.enter(admission)
        try:
            if entered.fenced:
                self._put_out(entered.fenced)
                self._wake(entered.fenced)
            if entered.answer is Answer.QUEUED:
                access.waiting()
                await self._turn(admission)
            self._record()
            await self._durable()
            if admission.fenced is not None:
                raise admission.fenced
        except BaseException:
            self.leave(admission, for_good=not came_back)
            raise
        return admission

    def leave(self, admission: Admission, *, for_good: bool) -> None:
        """A producer ended, `for_good` or with its link; who waits may have its turn now."""
        if self._shut is not None:
            return  # the next owner is to expect it
        promoted = self._access.leave(admission, for_good=for_good)
        self._record()
        if promoted is not None:
            self._wake((promoted,))

    def shut(self, error: MagnetarError) -> None:
        """The topic ends here: whoever waits is told."""
        self._shut = error
        if self._grace is not None:
            self._grace.cancel()
        self._wake(tuple(self._turns))

    def _expect_no_more(self) -> None:
        promoted = self._access.expect_no_more()
        self._record()
        if promoted is not None:
            self._wake((promoted,))

    async def _turn(self, admission: Admission) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns[admission] = turn
        try:
            await turn
        finally:
            del self._turns[admission]
        if self._shut is not None:
            raise self._shut

    def _wake(self, admissions: tuple[Admission, ...]) -> None:
        for admission in admissions:
            turn = self._turns.get(admission)
            if turn is not None and not turn.done():
                turn.set_result(None)

    def _record(self) -> None:
        """Write what changed."""
        record = self._access.record
        if record == self._last_written or self._shut is not None:
            return
        self._last_written = record
        writing: asyncio.Future[MagnetarError | None]
        writing = self._writing = asyncio.get_running_loop().create_future()

        def written(error: MagnetarError | None) -> None:
            if not writing.done():
                writing.set_result(error)

        self._write(record, written)

    async def _durable(self) -> None:
        """Wait for the newest record; what is written later is somebody else's."""
        if self._writing is not None:
            error = await asyncio.shield(self._writing)
            if error is not None:
                raise error

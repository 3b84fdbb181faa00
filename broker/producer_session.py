"""One producer, as its stream sees it: batches in, receipts out in the same order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple, Protocol

from broker.conversation import OnEnded, OnReceipts, Receipt
from broker.deduplication import Source
from broker.producer_access import Admission
from magnetar.entry import EntryHeader
from magnetar.errors import AlreadyClosed, MagnetarError
from magnetar.runtime.network import Buffer


class PublishHost(Protocol):
    """What a producer session needs of its topic."""

    @property
    def name(self) -> str: ...

    def publish(self, session: ProducerSession, batch: Buffer) -> None: ...

    def producer_closed(self, session: ProducerSession, *, for_good: bool) -> None: ...

    @property
    def congested(self) -> bool: ...

    async def until_uncongested(self) -> None: ...


class Arrived(NamedTuple):
    """A batch that was looked at and is not on its way yet."""

    receipt: Receipt
    batch: Buffer
    header: EntryHeader


class ProducerSession:
    """Receipts of one turn of the event loop go out together."""

    __slots__ = (
        "_ended", "_flush_scheduled", "_host", "_outstanding", "_reply", "admission", "barred",
        "closed", "held", "last_sequence_id", "max_message_size_bytes", "producer_epoch", "source",
    )

    def __init__(
        self, host: PublishHost, source: Source, admission: Admission, reply: OnReceipts,
        ended: OnEnded, max_message_size_bytes: int,
    ) -> None:
        self._host = host
        self.source = source
        self.admission = admission
        self._reply = reply
        self._ended = ended
        self.producer_epoch = source.epoch
        self.last_sequence_id = source.last_stored
        self.max_message_size_bytes = max_message_size_bytes
        self._outstanding: deque[Receipt] = deque()
        self._flush_scheduled = False
        self.held: deque[Arrived] = deque()
        """Batches that wait for earlier ones; those that come after them wait too."""
        self.closed = False
        self.barred = False
        """After an overlap nothing more is taken: what follows would overtake the rest of it."""

    @property
    def topic(self) -> str:
        """The full name."""
        return self._host.name

    @property
    def producer_name(self) -> str:
        return self.source.name

    @property
    def topic_epoch(self) -> int:
        """Of an exclusive producer; 0 for a shared one."""
        return self.admission.topic_epoch

    @property
    def outstanding(self) -> int:
        """Batches without a receipt."""
        return len(self._outstanding)

    def publish(self, batch: Buffer) -> None:
        """Take one batch; its receipt comes later. Raises InvalidFrame for bytes that are no
        batch, after which the stream is to be ended. Batches on an ended session are dropped."""
        if not (self.closed or self.barred):
            self._host.publish(self, batch)

    @property
    def congested(self) -> bool:
        """The bookies are behind: await `ready()` before the next batch."""
        return self._host.congested

    async def ready(self) -> None:
        """Wait until the topic has room for more; raises AlreadyClosed when the session ended."""
        await self._host.until_uncongested()
        if self.closed:
            raise AlreadyClosed("the producer's session ended")

    def expect(self, receipt: Receipt) -> None:
        """The next receipt in order."""
        self._outstanding.append(receipt)

    def settle(
        self, receipt: Receipt, ledger_id: int = 0, entry_id: int = -1,
        error: MagnetarError | None = None,
    ) -> None:
        """The fate of a batch is known; receipts still go out in the order of the batches."""
        receipt.ledger_id = ledger_id
        receipt.entry_id = entry_id
        receipt.error = error
        receipt.settled = True
        if not self._flush_scheduled and self._outstanding[0] is receipt:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send the receipts that are due."""
        self._flush_scheduled = False
        if self.closed:
            return
        outstanding = self._outstanding
        due: list[Receipt] = []
        while outstanding and outstanding[0].settled:
            due.append(outstanding.popleft())
        if due:
            self._reply(due)

    def close(self, *, for_good: bool = False) -> None:
        """The client left, `for_good` when it said so; what is in flight is stored all the same."""
        if not self.closed:
            self.closed = True
            self._host.producer_closed(self, for_good=for_good)

    def end(self, error: MagnetarError) -> None:
        """The broker ends the session. Receipts that are due still go out before."""
        if not self.closed:
            self.flush()
            self.closed = True
            self._host.producer_closed(self, for_good=False)
            self._ended(error)

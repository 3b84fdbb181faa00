"""Acknowledgements on their way: collected while the ones before are being made durable.

One group is in flight at a time; what comes meanwhile goes into the next. A group whose link was
lost is sent again on the next one, so that its outcome is always known in the end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from math import inf

from magnetar.errors import MagnetarError
from magnetar.message import Message, ReceivedEntry
from magnetar.message_id import MessageId, stored_id
from magnetar.receive_queue import Position, ReceiveQueue, bits_of
from magnetar.wire import broker_pb2 as pb

POSITIONS_A_REQUEST = 10_000
"""Entries named in one request; brokers refuse requests that are far larger."""


class Acknowledgement:
    """A group of acknowledgements; await it to know that they are durable."""

    __slots__ = ("_future", "cumulative", "done", "entries", "error", "ids")

    def __init__(self) -> None:
        self.entries: dict[ReceivedEntry, list[int]] = {}
        self.ids: dict[Position, int | None] = {}
        self.cumulative: MessageId | None = None
        self.done = False
        self.error: MagnetarError | None = None
        self._future: asyncio.Future[None] | None = None

    def __await__(self) -> Generator[object, None, None]:
        if not self.done:
            if self._future is None:
                self._future = asyncio.get_running_loop().create_future()
            yield from asyncio.shield(self._future)
        if self.error is not None:
            raise self.error

    def finish(self, error: MagnetarError | None) -> None:
        """Wake whoever waits."""
        self.done, self.error = True, error
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def add_id(self, message_id: MessageId) -> None:
        """Acknowledge by id; a batch index of -1 is the whole entry."""
        position = (message_id.ledger_id, message_id.entry_id)
        before = self.ids.get(position, 0)
        if message_id.batch_index < 0 or before is None:
            self.ids[position] = None
        else:
            self.ids[position] = before | 1 << message_id.batch_index

    def bitmaps(self) -> dict[Position, int | None]:
        """What is acknowledged of each entry, apart from the cumulative one; None: all of it."""
        found = dict(self.ids)
        for entry, indexes in self.entries.items():
            position = entry.position
            before = found.get(position, 0)
            count = entry.view.count  # of a cut entry's messages only, never of the whole
            whole = len(indexes) >= count == len(entry.meant) and not entry.view.picked
            bits = bits_of(indexes)
            if before is None or (whole and bits == bits_of(entry.meant)):
                found[position] = None
            else:
                found[position] = before | bits
        return found


class Acknowledgements:
    """Many acknowledgements; await it to know that all are durable."""

    __slots__ = ("groups",)

    def __init__(self, groups: Iterable[Acknowledgement]) -> None:
        self.groups = list(dict.fromkeys(groups))

    def __await__(self) -> Generator[object, None, None]:
        for group in self.groups:
            yield from group.__await__()


class Acknowledger:
    """Collects, numbers and settles groups for one consumer."""

    def __init__(self, queue: ReceiveQueue) -> None:
        self._queue = queue
        self._open: Acknowledgement | None = None
        self._full: deque[Acknowledgement] = deque()
        self._in_flight: Acknowledgement | None = None
        self._bitmaps: dict[Position, int | None] = {}
        self._request_id = 0

    def add(self, what: Message | MessageId) -> Acknowledgement:
        """Acknowledge one message; raises InvalidArgument."""
        if not isinstance(what, Message):
            return self._add_id(stored_id(what))
        group = self._open or self._begin()
        indexes = group.entries.get(what.entry)
        if indexes is not None:
            indexes.append(what.index)
        else:
            if len(group.entries) >= POSITIONS_A_REQUEST:
                group = self._begin()
            group.entries[what.entry] = [what.index]
        return group

    def add_many(self, several: Iterable[Message | MessageId]) -> Iterator[Acknowledgement]:
        """The groups they are in, which may repeat; raises as `add`, with those before added."""
        entry: ReceivedEntry | None = None
        indexes: list[int] = []
        for what in several:
            if isinstance(what, Message):
                if what.entry is entry:  # most are of the entry of the one before
                    indexes.append(what.index)
                    continue
                group, entry = self.add(what), what.entry
                indexes = group.entries[entry]
                yield group
            else:
                yield self.add(what)

    def _add_id(self, message_id: MessageId) -> Acknowledgement:
        group = self._open or self._begin()
        if len(group.ids) >= POSITIONS_A_REQUEST:
            group = self._begin()
        group.add_id(message_id)
        return group

    def add_cumulative(self, message_id: MessageId) -> Acknowledgement:
        """Acknowledge everything up to and with one message."""
        group = self._open or self._begin()
        if group.cumulative is None or _reach(message_id) > _reach(group.cumulative):
            group.cumulative = message_id
        return group

    def _begin(self) -> Acknowledgement:
        if self._open is not None:
            self._full.append(self._open)
        self._open = Acknowledgement()
        return self._open

    @property
    def sendable(self) -> bool:
        return self._open is not None and self._in_flight is None

    @property
    def newest(self) -> Acknowledgement | None:
        """The last group that is not settled."""
        return self._open or self._in_flight

    def next_request(self, request_id: int) -> pb.Acknowledge | None:
        """The group to send now, when none is in flight."""
        if not self.sendable:
            return None
        if self._full:
            self._in_flight = self._full.popleft()
        else:
            self._in_flight, self._open = self._open, None
        return self._request(request_id)

    def resend(self, request_id: int) -> pb.Acknowledge | None:
        """On a new link: what was in flight on the old one."""
        return None if self._in_flight is None else self._request(request_id)

    def settled(self, request_id: int, error: MagnetarError | None) -> bool:
        """The broker's answer; False when it is not about the group in flight."""
        group = self._in_flight
        if group is None or request_id != self._request_id:
            return False
        self._in_flight = None
        if error is None:
            for position, bits in self._bitmaps.items():
                self._queue.acknowledged(position, bits)
            if (last := group.cumulative) is not None:
                self._queue.acknowledged_up_to(
                    (last.ledger_id, last.entry_id), last.batch_index)
        group.finish(error)
        return True

    def fail(self, error: MagnetarError) -> None:
        """Nothing will be sent any more."""
        for group in (self._in_flight, *self._full, self._open):
            if group is not None:
                group.finish(error)
        self._in_flight = self._open = None
        self._full.clear()

    def _request(self, request_id: int) -> pb.Acknowledge:
        group = self._in_flight
        assert group is not None
        self._request_id = request_id
        self._bitmaps = group.bitmaps()
        request = pb.Acknowledge(request_id=request_id, individual=[
            position_of(position, bits) for position, bits in self._bitmaps.items()
        ])
        if (last := group.cumulative) is not None:
            request.cumulative.CopyFrom(pb.Position(
                ledger_id=last.ledger_id, entry_id=last.entry_id,
                batch_index=last.batch_index))
        return request


def _reach(message_id: MessageId) -> tuple[int, int, float]:
    """How far a cumulative acknowledgement goes; the whole entry is beyond all its messages."""
    index = message_id.batch_index if message_id.batch_index >= 0 else inf
    return message_id.ledger_id, message_id.entry_id, index


def position_of(position: Position, bits: int | None) -> pb.Position:
    """As the wire has it; None: the whole entry."""
    found = pb.Position(ledger_id=position[0], entry_id=position[1], batch_index=-1)
    if bits is not None:
        found.batch_indexes = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    return found

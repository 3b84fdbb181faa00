"""What a producer must get right, without any I/O: order, resends, receipts, bounds.

A message is in the open batch, then in the queue of what is to be sent, then in flight, then
settled. Batches leave each stage in the order of their sequence ids. A lost link puts what was
in flight back at the head of the queue, as the same bytes, so that the broker recognises it.

Whoever drives this core calls `opened` when a link is ready, sends `next_batches()` until it is
empty, hands every receipt to `receipt`, and calls `disconnected` when the link is gone. Batches
given back as settled have their `outcome`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from magnetar.batch import OVERHEAD_BYTES, Batch, Options, encoded_batch
from magnetar.entry import Codec, parse_header
from magnetar.entry.layout import HEADER
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    InvalidFrame,
    MagnetarError,
    MessageTooLarge,
    NotOwner,
    OperationTimeout,
    ProducerFenced,
    ProducerQueueFull,
    SequenceOverlap,
    TopicTerminated,
)
from magnetar.runtime.clock import Clock

MAX_SEQUENCE_ID = 2**63 - 1
LINK_ERRORS = (ConnectionFailed, NotOwner, OperationTimeout)
"""Told in a receipt: the outcome of this batch and of all behind it is unknown."""
ROOM_SHARE = 0.5
"""After a refusal there is room again once no more than this share of the queue is taken."""


@dataclass(frozen=True, slots=True)
class ProducerLimits:
    """Bounds of one producer."""

    batch_bytes: int = 128 * 1024
    batch_messages: int = 16_384
    frame_bytes: int = 256 * 1024
    queue_bytes: int = 16 << 20
    """Payload and overhead of all messages not yet acknowledged."""
    batches_in_flight: int = 64
    eager_batches: int = 2
    """With fewer in flight a batch goes out at once; with more it waits until it is full.

    On a busy machine many small batches under way are what makes each of them late: at 1,000/s
    on 2 cores p50 was 18 ms with 8, 13 ms with 4, 9 ms with 2 and 7 ms with 1 (medians of 3).
    """
    batching: bool = True


class ProducerCore:
    """One producer's messages. All calls come from one thread."""

    def __init__(
        self,
        clock: Clock,
        limits: ProducerLimits | None = None,
        *,
        codec: Codec = Codec.NONE,
        initial_sequence_id: int | None = None,
        send_timeout_s: float = 0.0,
    ) -> None:
        self._clock = clock
        self.limits = limits or ProducerLimits()
        self._codec = codec
        self._initial_sequence_id = initial_sequence_id
        self.send_timeout_s = send_timeout_s
        self._open: Batch | None = None
        self._queue: deque[Batch] = deque()
        self._in_flight: deque[Batch] = deque()
        self._linked = False
        self._next_sequence_id: int | None = None
        self._last_added = -1
        self._stored_before = -1
        self.producer_name = ""
        self.producer_epoch = 0
        self.max_message_bytes = 5 << 20
        self._batch_bytes = self.limits.batch_bytes
        """What a batch is filled up to: the topic's limit of a message is one of a batch."""
        self.pending_bytes = 0
        self._refused_bytes = 0
        self.acknowledged_messages = 0
        self.last_sequence_id = -1
        """The highest one known to be durable; -1: none."""

    # What the user does.

    def add(
        self, content: bytes, options: Options | None = None, sequence_id: int | None = None
    ) -> Batch:
        """Put one message behind all others; its index is the batch's count of payloads before.

        Raises ProducerQueueFull, MessageTooLarge, and InvalidArgument for a sequence id that
        does not grow.
        """
        size = len(content) + OVERHEAD_BYTES
        if options is not None:
            size += options.size_bytes
        if size - OVERHEAD_BYTES > self.max_message_bytes:
            raise MessageTooLarge(
                f"{size - OVERHEAD_BYTES} bytes; the topic allows {self.max_message_bytes}"
            )
        if self.pending_bytes + size > self.limits.queue_bytes and self.pending_bytes:
            self._refused_bytes = size
            raise ProducerQueueFull(
                f"{self.pending_bytes} bytes wait already; await ready() or use send_many()"
            )
        if sequence_id is not None and not (
            isinstance(sequence_id, int) and self._last_added < sequence_id <= MAX_SEQUENCE_ID
        ):
            raise InvalidArgument(
                f"sequence id {sequence_id} does not follow {self._last_added}; ids must grow"
            )
        batch = self._open
        delayed = options is not None and options.deliver_at_ms is not None
        if batch is None or batch.delayed is not delayed or not self._fits(
            batch, size, sequence_id
        ):
            batch = self._new_batch(sequence_id, delayed)
        if batch.sequence_ids is not None or sequence_id is not None:
            batch.add_sequence_id(self._upcoming(sequence_id))
        if options is not None:
            batch.options.append((len(batch.payloads), options))
        batch.payloads.append(content)
        batch.size_bytes += size
        self.pending_bytes += size
        self._refused_bytes = 0
        self._last_added = self._upcoming(sequence_id)
        self._next_sequence_id = self._last_added + 1
        if not self.limits.batching:
            self._seal()
        return batch

    def add_many(self, contents: Sequence[bytes]) -> list[tuple[Batch, int, int]]:
        """As many as there is room for: (batch, first index, count) for each batch they went to.

        Answers with fewer messages than given when the queue is full. Raises MessageTooLarge
        before anything was added.
        """
        sizes = list(map(len, contents))
        if not sizes:
            return []
        if max(sizes) > self.max_message_bytes:
            raise MessageTooLarge(f"{max(sizes)} bytes; the topic allows {self.max_message_bytes}")
        ends = [
            end + number * OVERHEAD_BYTES for number, end in enumerate(accumulate(sizes), start=1)
        ]
        room = max(self.limits.queue_bytes - self.pending_bytes, 0)
        fitting = bisect_right(ends, room)
        if fitting == 0 and not self.pending_bytes:
            fitting = 1
        placed: list[tuple[Batch, int, int]] = []
        at = before = 0
        while at < fitting:
            batch = self._open
            if batch is None or batch.delayed or not self._fits(
                batch, sizes[at] + OVERHEAD_BYTES, None
            ):
                batch = self._new_batch(None)
            start = len(batch.payloads)
            free = self._batch_bytes - batch.size_bytes
            most = self.limits.batch_messages - start if self.limits.batching else 1
            if batch.first_sequence_id <= self._stored_before:
                most = min(most, self._stored_before + 1 - self._upcoming(None))
            stop = bisect_right(ends, before + free, at, min(fitting, at + most))
            stop = max(stop, at + 1)
            size = ends[stop - 1] - before
            if batch.sequence_ids is not None:
                first = self._upcoming(None)
                batch.sequence_ids.extend(range(first, first + stop - at))
            batch.payloads += contents[at:stop]
            batch.size_bytes += size
            self.pending_bytes += size
            self._last_added = self._upcoming(None) + stop - at - 1
            self._next_sequence_id = self._last_added + 1
            placed.append((batch, start, stop - at))
            at, before = stop, ends[stop - 1]
            if not self.limits.batching:
                self._seal()
        return placed

    def add_encoded(self, encoded: bytes) -> Batch:
        """Put a batch that is encoded already behind all others, to be sent as it is.

        Raises ProducerQueueFull, MessageTooLarge, and InvalidArgument for another producer's
        batch, or for sequence ids that do not grow; InvalidFrame when it is no batch.
        """
        header = parse_header(encoded)
        size = len(encoded)
        if header.producer_name != self.producer_name:
            raise InvalidArgument(
                f"the batch names producer {header.producer_name!r}, this is"
                f" {self.producer_name!r}"
            )
        if header.first_sequence_id <= self._last_added:
            raise InvalidArgument(
                f"sequence id {header.first_sequence_id} does not follow {self._last_added}"
            )
        if size > self.max_message_bytes:
            raise MessageTooLarge(f"{size} bytes; the topic allows {self.max_message_bytes}")
        if self.pending_bytes + size > self.limits.queue_bytes and self.pending_bytes:
            self._refused_bytes = size
            raise ProducerQueueFull(
                f"{self.pending_bytes} bytes wait already; await ready() and send again"
            )
        self._seal()
        batch = encoded_batch(encoded, header, self._clock.monotonic_s())
        self._queue.append(batch)
        self.pending_bytes += size
        self._refused_bytes = 0
        self._last_added = header.last_sequence_id
        self._next_sequence_id = self._last_added + 1
        return batch

    @property
    def has_room(self) -> bool:
        """Much of the queue is free, and the message last refused would fit."""
        return not self.pending_bytes or (
            self.pending_bytes <= self.limits.queue_bytes * ROOM_SHARE
            and self.pending_bytes + self._refused_bytes <= self.limits.queue_bytes
        )

    @property
    def last_batch(self) -> Batch | None:
        """The newest batch that is not settled."""
        if self._open is not None:
            return self._open
        return self._queue[-1] if self._queue else self._in_flight[-1] if self._in_flight else None

    # What the link tells.

    def opened(
        self, producer_name: str, producer_epoch: int, last_sequence_id: int,
        max_message_bytes: int,
    ) -> None:
        """A link is ready: everything not settled is to be sent on it, from the oldest on."""
        self._back_to_queue()
        self._linked = True
        self.producer_name, self.producer_epoch = producer_name, producer_epoch
        self.max_message_bytes = max_message_bytes or self.max_message_bytes
        room_bytes = self.max_message_bytes - HEADER.size - len(producer_name.encode())
        # Half: with all columns a message takes more than the overhead that is counted for it.
        self._batch_bytes = min(self.limits.batch_bytes, room_bytes // 2)
        self._stored_before = max(self._stored_before, last_sequence_id)
        if self._next_sequence_id is None:
            initial = self._initial_sequence_id
            self._next_sequence_id = (last_sequence_id if initial is None else initial) + 1
            self.last_sequence_id = last_sequence_id

    def disconnected(self) -> None:
        """The link is gone: the outcome of what was in flight is unknown."""
        self._linked = False
        self._back_to_queue()

    @property
    def sendable(self) -> bool:
        """Whether `next_batches` has something now."""
        in_flight = len(self._in_flight)
        if not self._linked or in_flight >= self.limits.batches_in_flight:
            return False
        return bool(self._queue) or (
            self._open is not None and in_flight < self.limits.eager_batches
        )

    def next_batches(self) -> list[bytes]:
        """What to send as the next frame; empty when everything has to wait."""
        found: list[bytes] = []
        size = 0
        while size < self.limits.frame_bytes and self.sendable:
            if not self._queue:
                if found:  # the frame is worth sending as it is; the open batch may still grow
                    break
                self._seal()
            batch = self._queue[0]
            encoded = batch.encode(self.producer_name, self._clock.wall_ms(), self._codec)
            if found and size + len(encoded) > self.limits.frame_bytes:
                break
            self._in_flight.append(self._queue.popleft())
            found.append(encoded)
            size += len(encoded)
        return found

    def receipt(
        self, first_sequence_id: int, count: int, ledger_id: int, entry_id: int,
        error: MagnetarError | None = None,
    ) -> Batch | None:
        """The settled batch; None for a receipt told twice.

        Raises InvalidFrame for one that is not the oldest's, and the error itself when the
        outcome is unknown or the batch was cut: then the link must be replaced; or when it holds
        for every batch to come: then the producer is at its end.
        """
        if not self._in_flight:
            self._check_told_before(first_sequence_id)
            return None
        batch = self._in_flight[0]
        if first_sequence_id != batch.waiting_sequence_id:
            self._check_told_before(first_sequence_id)
            return None
        if count != batch.count - batch.already_stored:
            raise InvalidFrame(f"a receipt for {count} of {batch.count} messages")
        if error is None:
            return self._settle(batch, (ledger_id, entry_id))
        if isinstance(error, SequenceOverlap):
            if error.last_sequence_id < batch.waiting_sequence_id:
                raise InvalidFrame("an overlap that overlaps nothing")
            if batch.skip_stored(error.last_sequence_id):
                raise error
            return self._settle(batch, (0, -1))
        if isinstance(error, (*LINK_ERRORS, TopicTerminated, ProducerFenced)):
            raise error
        return self._settle(batch, error)

    # What time and fate bring.

    def seconds_to_expiry(self) -> float | None:
        """Until the oldest message has waited for `send_timeout_s`; None: nothing can expire."""
        oldest = self._oldest()
        if oldest is None or self.send_timeout_s <= 0:
            return None
        return oldest.created_s + self.send_timeout_s - self._clock.monotonic_s()

    def expire(self, reason: MagnetarError | None = None) -> list[Batch]:
        """Fail everything when the oldest waited too long, since order forbids to skip it;
        `reason` is why there is no link, if that is known.

        The link must be replaced when this answers with batches.
        """
        left = self.seconds_to_expiry()
        if left is None or left > 0:
            return []
        why = f" ({reason})" if reason is not None else ""
        return self.fail_all(OperationTimeout(
            f"not acknowledged within {self.send_timeout_s:g} s; it may or may not be stored{why}"
        ))

    def fail_all(self, error: MagnetarError) -> list[Batch]:
        """Settle everything with the error, oldest first."""
        if self._open is not None:
            self._seal()
        failed = [*self._in_flight, *self._queue]
        self._in_flight.clear()
        self._queue.clear()
        self.pending_bytes = 0
        for batch in failed:
            batch.outcome = error
        return failed

    # Inside.

    def _upcoming(self, sequence_id: int | None) -> int:
        if sequence_id is not None:
            return sequence_id
        if self._next_sequence_id is None:
            raise InvalidArgument("the producer was never opened")
        return self._next_sequence_id

    def _fits(self, batch: Batch, size: int, sequence_id: int | None) -> bool:
        if batch.size_bytes + size > self._batch_bytes or (
            len(batch.payloads) >= self.limits.batch_messages
        ):
            return False
        # A batch is wholly stored before this producer began, or wholly new.
        stored_before = self._stored_before
        return batch.first_sequence_id > stored_before or (
            self._upcoming(sequence_id) <= stored_before
        )

    def _new_batch(self, sequence_id: int | None, delayed: bool = False) -> Batch:
        self._seal()
        self._open = Batch(self._upcoming(sequence_id), self._clock.monotonic_s(), delayed)
        return self._open

    def _seal(self) -> None:
        if self._open is not None:
            self._queue.append(self._open)
            self._open = None

    def _oldest(self) -> Batch | None:
        if self._in_flight:
            return self._in_flight[0]
        return self._queue[0] if self._queue else self._open

    def _back_to_queue(self) -> None:
        self._queue.extendleft(reversed(self._in_flight))
        self._in_flight.clear()

    def _settle(self, batch: Batch, outcome: tuple[int, int] | MagnetarError) -> Batch:
        self._in_flight.popleft()
        self.pending_bytes -= batch.size_bytes
        batch.outcome = outcome
        batch.encoded = None
        if isinstance(outcome, tuple):
            self.acknowledged_messages += batch.count
            self.last_sequence_id = max(self.last_sequence_id, batch.last_sequence_id)
        elif self._oldest() is None:
            # Certainly not stored, and nothing came after it: its numbers are free again.
            self._next_sequence_id = batch.waiting_sequence_id
            self._last_added = self._next_sequence_id - 1
        return batch

    def _check_told_before(self, first_sequence_id: int) -> None:
        if first_sequence_id > self.last_sequence_id:
            raise InvalidFrame(f"a receipt for {first_sequence_id} is not the oldest batch's")

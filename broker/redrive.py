"""Dead letters back to where they came from: one run over a dead-letter topic.

The messages go through the lanes of the subscription `redrive`, so each is written once and only
then acknowledged here, whatever crashes in between; a run that was cut off is gone on with by the
next one. What a run does not want stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from broker.consumer_session import ConsumerSession
from broker.conversation import InitialPosition, OnDeliveries, OnEnded, OpenConsumer
from broker.cursor import full_mask
from broker.forwarding.copies import opened
from broker.forwarding.lane import ForwardLane
from broker.forwarding.lanes import TopicLanes
from broker.forwarding.partitions import partition_of
from broker.selector import MessageFilter
from broker.stored_entry import StoredEntry
from broker.subscription import Subscription
from broker.topic_log import TopicLog
from magnetar.dead_letter import (
    REDRIVEN_COUNT,
    REDRIVEN_FROM,
    DeadLetter,
    without_dead_letter,
)
from magnetar.entry import EntryView, indexes_of
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    InvalidFrame,
    InvalidTopicName,
    MagnetarError,
    NotSupported,
)
from magnetar.message_id import MessageId
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName

READ_ENTRIES = 100
READ_BYTES = 1 << 20
GIVEN_MESSAGES = 4_000
"""Messages that a run has in its lanes at a time."""
GIVEN_BYTES = 4 << 20
PATIENCE_S = 30.0
TELL_S = 0.5
"""How often a run tells how far it is."""


@dataclass(frozen=True, slots=True)
class RedriveRequest:
    """`to` empty: each goes where it came from. `max_messages` 0: all there are now."""

    topic: str
    subscription: str
    to: str = ""
    filter: MessageFilter | None = None
    max_messages: int = 0
    patience_s: float = PATIENCE_S


@dataclass(slots=True)
class RedriveProgress:
    """Numbers are of messages."""

    moved: int = 0
    unwanted: int = 0
    without_target: int = 0
    refused: int = 0
    problem: str = ""
    targets: dict[str, int] = field(default_factory=dict)
    done: bool = False


OnProgress = Callable[[RedriveProgress], None]


@dataclass(slots=True)
class RedriveLabels:
    """A message as it was, with word of where it was in between."""

    topic: str
    partition: int
    withdrawn: bool = False

    def properties(self, view: EntryView, entry: StoredEntry, index: int) -> dict[str, str]:
        """Without what made it a dead letter."""
        kept = without_dead_letter(view.properties(index))
        before = kept.get(REDRIVEN_COUNT, "")
        count = int(before) if before.isascii() and before.isdigit() and len(before) < 10 else 0
        message_id = MessageId(self.partition, entry.ledger_id, entry.entry_id, index)
        return kept | {
            REDRIVEN_COUNT: str(count + 1), REDRIVEN_FROM: f"{self.topic} {message_id}",
        }


class RedriveHost(Protocol):
    """What a run needs of the dead-letter topic."""

    log: TopicLog
    lanes: TopicLanes

    @property
    def name(self) -> str: ...

    def subscription_named(self, name: str) -> Subscription | None: ...

    async def open_consumer(
        self, request: OpenConsumer, deliver: OnDeliveries, ended: OnEnded,
        backlog_bytes: Callable[[], int] = lambda: 0,
    ) -> ConsumerSession: ...


class Redrive:
    """One run; `run` may be cancelled at any time."""

    def __init__(
        self, host: RedriveHost, request: RedriveRequest, clock: Clock, told: OnProgress
    ) -> None:
        self._host = host
        self._request = request
        self._clock = clock
        self._told = told
        self._told_s = clock.monotonic_s()
        self.progress = RedriveProgress()
        """So far; also after a run that failed."""
        self._ended: MagnetarError | None = None
        self._moved = asyncio.Event()
        self._last_move_s = clock.monotonic_s()
        self._given_messages = 0
        self._given_bytes = 0
        self._chosen = 0
        self._partitions: dict[str, int] = {}
        self._used: set[str] = set()
        topic = TopicName.parse(host.name)
        self._labels = RedriveLabels(topic.full, topic.partition)

    async def run(self) -> RedriveProgress:
        """Raises InvalidArgument; ConsumerBusy when another run, or a consumer, has the
        subscription; what ended the topic here; ConnectionFailed when nothing moved for
        `patience_s`."""
        request = self._request
        if not request.subscription:
            raise InvalidArgument("a redrive keeps its position under a subscription's name")
        if request.to and TopicName.parse(request.to).base == TopicName.parse(request.topic).base:
            raise InvalidArgument(f"{request.to} is where the dead letters are; name another topic")
        # Attached without permits, only so that nobody else is.
        session = await self._host.open_consumer(
            OpenConsumer(
                request.topic, request.subscription, initial_position=InitialPosition.EARLIEST,
                consumer_name="redrive",
            ),
            lambda _deliveries: None, self._end)
        try:
            subscription = self._host.subscription_named(request.subscription)
            assert subscription is not None, "it has just been attached to"
            await self._walk(subscription)
            await self._settled(0)
            self.progress.refused += self._aside
        finally:
            self._labels.withdrawn = True
            session.close()
            self._host.lanes.drop_idle(request.subscription)
        if not self.progress.refused:
            self.progress.problem = ""
        self.progress.done = True
        return self.progress

    def _end(self, error: MagnetarError) -> None:
        self._ended = error
        self._moved.set()

    async def _walk(self, subscription: Subscription) -> None:
        """Over what is there now and not acknowledged, once."""
        log, end = self._host.log, self._host.log.end_ordinal
        after = await log.before_ordinal(subscription.cursor.floor)
        while not self._chosen_all:
            entries = await log.read(after, READ_ENTRIES, READ_BYTES)
            if not entries:
                return
            for entry in entries:
                if entry.first_ordinal >= end or self._chosen_all:
                    return
                mask = full_mask(entry.count) & ~subscription.cursor.mask(
                    entry.first_ordinal, entry.count)
                if mask:
                    await self._give(entry, mask)
                after = entry.position

    @property
    def _chosen_all(self) -> bool:
        return 0 < self._request.max_messages <= self._chosen

    async def _give(self, entry: StoredEntry, mask: int) -> None:
        """Each message of `mask` that is wanted to the lane of its target."""
        try:
            view = opened(entry)
            targets = [
                (index, await self._target(view, entry, index)) for index in indexes_of(mask)
            ]
        except (InvalidFrame, NotSupported) as error:
            self.progress.refused += mask.bit_count()
            self.progress.problem = f"{entry.position} does not read: {error}"
            return
        masks: dict[str, int] = {}
        for index, target in targets:
            if self._chosen_all:
                break
            match target:
                case None:
                    self.progress.unwanted += 1
                case "":
                    self.progress.without_target += 1
                case _:
                    self._chosen += 1
                    masks[target] = masks.get(target, 0) | 1 << index
        for target, part in masks.items():
            self._give_to(target, entry, part)
        await self._settled(GIVEN_MESSAGES)

    def _give_to(self, target: str, entry: StoredEntry, mask: int) -> None:
        size_bytes = len(entry.body)
        self._given_messages += mask.bit_count()
        self._given_bytes += size_bytes
        self._used.add(target)

        left = mask

        def settled(mask: int) -> None:
            nonlocal left
            left &= ~mask
            messages = mask.bit_count()
            self._given_messages -= messages
            if not left:
                self._given_bytes -= size_bytes
            progress = self.progress
            progress.moved += messages
            progress.targets[target] = progress.targets.get(target, 0) + messages
            self._last_move_s = self._clock.monotonic_s()
            self._moved.set()

        self._host.lanes.lane(self._request.subscription, target).give(
            entry, mask, self._labels, settled)

    async def _target(self, view: EntryView, entry: StoredEntry, index: int) -> str | None:
        """The full name of the log it goes to; empty when nobody says where; None: not wanted."""
        wanted = self._request.filter
        if wanted is not None and not wanted.wants(view, index):
            return None
        to = self._request.to
        if not to:
            letter = DeadLetter.of(view.properties(index))
            to = "" if letter is None else letter.topic
        try:
            name = TopicName.parse(to)
        except InvalidTopicName:
            return ""
        if name.partition >= 0:
            return name.full
        partitions = await self._partitions_of(name.full)
        if not partitions:
            return name.full
        return name.with_partition(partition_of(view, entry, index, partitions)).full

    async def _partitions_of(self, topic: str) -> int:
        known = self._partitions.get(topic)
        if known is None:
            forwarder = self._host.lanes.office.forwarder
            known = self._partitions[topic] = await forwarder.partitions(topic)
        return known

    @property
    def _aside(self) -> int:
        """Messages that cannot go, though others can."""
        return sum(lane.messages_aside for lane in self._lanes())

    def _lanes(self) -> list[ForwardLane]:
        lanes = self._host.lanes.of(self._request.subscription)
        return [lanes[target] for target in sorted(self._used)]

    async def _settled(self, most: int) -> None:
        """Wait until at most so many messages are on their way, telling how far it is."""
        while self._given_messages - self._aside > most or (
            most and self._given_bytes > GIVEN_BYTES and self._given_messages > self._aside
        ):
            self._tell()
            if self._ended is not None:
                raise self._ended
            left_s = self._last_move_s + self._request.patience_s - self._clock.monotonic_s()
            if left_s <= 0:
                raise ConnectionFailed(
                    f"nothing moved for {self._request.patience_s:g} s:"
                    f" {self.progress.problem or 'the targets do not answer'}"
                )
            self._moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, TELL_S)):
                    await self._moved.wait()
        self._tell()

    def _tell(self) -> None:
        problems = [lane.problem or lane.problem_aside for lane in self._lanes()]
        self.progress.problem = next(filter(None, problems), self.progress.problem)
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            self._told(self.progress)

"""What a topic remembers beside its messages: written to, and rebuilt from, its state ledger."""

from __future__ import annotations

from collections.abc import Callable

from broker.deduplication import Deduplication
from broker.producer_access import ProducerAccess
from broker.schedule.lane import ScheduleLane
from broker.settings import BrokerLimits
from broker.state_records import (
    SOURCES_A_RECORD,
    Acknowledged,
    Checkpoint,
    CursorReset,
    FilterSet,
    ForwardPlanned,
    LogLength,
    OptionsSet,
    Redelivered,
    ScheduleProgress,
    ScheduleSourcesAdvanced,
    SourcesAdvanced,
    SourcesForgotten,
    StateRecord,
    SubscriptionCreated,
    SubscriptionDeleted,
    TopicEpoch,
    decode,
    encode,
    in_parts,
)
from broker.subscription import Subscription
from broker.topic_log import TopicLog
from ledger.position import BEFORE_FIRST, Position
from magnetar.entry import parse_header, parse_prefix
from magnetar.errors import CorruptRecord, LedgerClosed, MagnetarError
from magnetar.ids import EntryId, LedgerId

REPLAY_ENTRIES = 1_000
REPLAY_BYTES = 4 << 20

OnDone = Callable[[MagnetarError | None], None]
MakeSubscription = Callable[[SubscriptionCreated], Subscription]


class TopicState:
    """Subscriptions and sources of one topic, and the checkpoint that ties them to its log."""

    def __init__(
        self, log: TopicLog, limits: BrokerLimits, make: MakeSubscription,
        on_failed: Callable[[MagnetarError], None],
    ) -> None:
        self._log = log
        self._limits = limits
        self._make = make
        self._on_failed = on_failed
        self.subscriptions: dict[str, Subscription] = {}
        self.sources = Deduplication(limits.remembered_batches, limits.automatic_sources)
        self.access = ProducerAccess(limits.waiting_producers_a_topic)
        self.schedule = ScheduleLane(limits)
        self.checkpoint_position = BEFORE_FIRST
        self._checkpoint_ordinal = 0
        self._since_entries = 0
        self._since_bytes = 0
        self._snapshot_bytes = 0
        self._compacting = False

    async def load(self) -> None:
        """Replay the state ledger, then the log's entries after the last checkpoint."""
        for data in await self._log.log.state.replay():
            self._apply(decode(data))
        after = self.checkpoint_position
        while True:
            entries = await self._log.read_bodies(after, REPLAY_ENTRIES, REPLAY_BYTES)
            if not entries:
                break
            for entry in entries:
                prefix, batch = parse_prefix(entry.body)
                header = parse_header(batch)
                after = entry.position
                if prefix.mark is None:
                    self.sources.replay(
                        header.producer_name, header.first_sequence_id,
                        header.last_sequence_id, after.ledger_id, after.entry_id,
                    )
                end = prefix.first_ordinal + header.count
                self._log.resume(end, prefix.append_time_ms, prefix.mark)
                self._log.index.stored(
                    after.ledger_id, after.entry_id, prefix.first_ordinal, end, len(entry.body)
                )
                self._since_entries += 1
                self._since_bytes += len(entry.body)
        self._log.learn_lengths()

    def _apply(self, record: StateRecord) -> None:
        match record:
            case SubscriptionCreated():
                self.subscriptions[record.name] = self._make(record)
            case SubscriptionDeleted():
                self.subscriptions.pop(record.name, None)
            case SourcesAdvanced():
                for progress in record.sources:
                    self.sources.restore(progress)
            case SourcesForgotten():
                self.sources.forget(record.names)
                self.schedule.sources.forget(record.names)
            case LogLength():
                self._log.index.goes_on(
                    LedgerId(record.ledger_id), record.entry_id + 1, record.first_ordinal,
                    record.end_ordinal, record.size_bytes,
                )
            case TopicEpoch():
                self.access.restore(record)
            case ScheduleProgress() | ScheduleSourcesAdvanced():
                self.schedule.restore(record)
            case Checkpoint():
                self.checkpoint_position = Position(
                    LedgerId(record.ledger_id), EntryId(record.entry_id)
                )
                self._checkpoint_ordinal = record.next_ordinal
                self._log.resume(
                    record.next_ordinal, record.append_time_ms, self.schedule.restored_mark
                )
            case (
                Acknowledged() | CursorReset() | Redelivered() | FilterSet()
                | OptionsSet()
                | ForwardPlanned()
            ):
                subscription = self.subscriptions.get(record.name)
                if subscription is not None:  # deleted while the write was on its way
                    subscription.restore(record)
            case _:
                raise CorruptRecord(f"no rule for {record!r}")

    def write(self, record: StateRecord, on_done: OnDone) -> None:
        """Append a record; a failure is told to `on_done` and closes the topic.

        LedgerClosed is no failure: it came too late for a topic that is closing already."""

        def written(result: object) -> None:
            error = result if isinstance(result, MagnetarError) else None
            on_done(error)
            if error is not None and not isinstance(error, LedgerClosed):
                self._on_failed(error)

        self._log.log.state.append(encode(record), written)

    def entry_stored(self, size_bytes: int) -> None:
        """Count towards the next checkpoint."""
        self._since_entries += 1
        self._since_bytes += size_bytes
        if (
            self._since_entries >= self._limits.checkpoint_entries
            or self._since_bytes >= self._limits.checkpoint_bytes
        ):
            self.checkpoint(lambda _error: None)

    @property
    def checkpoint_is_due(self) -> bool:
        """Something was stored since the last checkpoint, by this owner or one before."""
        return self._since_entries > 0 or self.schedule.position > self.schedule.durable_position

    def checkpoint(self, on_done: OnDone) -> None:
        """Write the sources that changed, and from where on the log is to be replayed."""
        self._since_entries = self._since_bytes = 0
        position, ordinal = self._log.last_position, self._log.end_ordinal
        scheduled = self.schedule.position
        for part in in_parts(self.sources.take_changes()):
            self.write(SourcesAdvanced(part), lambda _error: None)
        for record in self.schedule.changes(self._log.fired):
            self.write(record, lambda _error: None)
        length = self._log_length()
        if length is not None:
            self.write(length, lambda _error: None)

        def written(error: MagnetarError | None) -> None:
            if error is None:
                self.schedule.checkpointed(scheduled)
                self.checkpoint_position = max(self.checkpoint_position, position)
                self._checkpoint_ordinal = max(self._checkpoint_ordinal, ordinal)
            on_done(error)

        self.write(self._checkpoint_record(), written)

    def _checkpoint_record(self) -> Checkpoint:
        position = self._log.last_position
        return Checkpoint(
            position.ledger_id, position.entry_id, self._log.end_ordinal,
            self._log.append_time_ms,
        )

    def _log_length(self) -> LogLength | None:
        position = self._log.last_position
        known = self._log.index.told_of(position.ledger_id)
        if known is None:
            return None
        first_ordinal, size_bytes = known
        return LogLength(
            position.ledger_id, position.entry_id, size_bytes, first_ordinal,
            self._log.end_ordinal,
        )

    def forget_sources(self, now_ms: int) -> None:
        """Drop automatic names that are idle for too long."""
        names = self.sources.expire(now_ms, self._limits.automatic_source_idle_ms)
        self.schedule.sources.forget(names)
        for start in range(0, len(names), SOURCES_A_RECORD):
            self.write(
                SourcesForgotten(names[start : start + SOURCES_A_RECORD]), lambda _error: None
            )

    def snapshot(self) -> list[StateRecord]:
        """Everything, as records."""
        records: list[StateRecord] = []
        for subscription in self.subscriptions.values():
            if subscription.durable and not subscription.deleted:
                records += subscription.snapshot()
        records += [SourcesAdvanced(part) for part in in_parts(self.sources.snapshot())]
        records += self.schedule.snapshot(self._log.fired)
        if self.access.epoch:
            records.append(self.access.record)
        length = self._log_length()
        if length is not None:
            records.append(length)
        records.append(self._checkpoint_record())
        return records

    @property
    def compaction_is_due(self) -> bool:
        """The state ledger is large, and a snapshot would be much smaller, or there are many."""
        log = self._log.log
        if len(log.record.state_ledgers) > self._limits.state_ledgers:
            return True
        size = log.state.size_bytes
        return size > max(self._limits.state_compaction_bytes, 4 * self._snapshot_bytes)

    async def compact(self) -> None:
        """Replace the state ledger by one that begins with a snapshot."""
        if self._compacting:
            return
        self._compacting = True
        try:
            records = [encode(record) for record in self.snapshot()]
            self._snapshot_bytes = sum(map(len, records))
            await self._log.log.state.compact(records)
        finally:
            self._compacting = False


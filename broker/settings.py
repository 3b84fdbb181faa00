"""What an operator can set on a broker, and every limit of its queues and caches."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.schedule.runs.builder import BLOCK_LIMITS, BlockLimits
from magnetar.ids import BrokerId
from magnetar.runtime.network import Address

KIB = 1024
MIB = 1024 * KIB
DEFAULT_LISTEN = Address("127.0.0.1", 6650)


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Named bounds; each queue, cache, batch and retry in this room has its own."""

    tail_cache_bytes: int = 64 * MIB
    """Newest entries of all topics together, kept for consumers that keep up."""
    pending_publish_bytes: int = 32 * MIB
    """Bytes of one topic on their way to the bookies before its producers are held back."""
    read_ahead_bytes: int = 1 * MIB
    """Bytes one subscription reads from the bookies ahead of its consumers."""
    read_ahead_entries: int = 1_000
    frame_bytes: int = 256 * KIB
    """Deliveries are joined into frames of about this size."""
    consumer_backlog_bytes: int = 1 * MIB
    """Bytes handed to a consumer's stream and not yet taken by it, before dispatch waits."""
    in_flight_entries: int = 100_000
    """Entries a subscription tracks of which something is delivered and not acknowledged, or
    waits. At the limit nothing new is delivered; an exclusive one without a bound in messages
    goes on, and starts over from its cursor on reconnect."""
    look_ahead_messages: int = 50_000
    """Messages a subscription sets aside because their key or consumer cannot take them, while
    those of other keys pass them."""
    failover_drain_s: float = 10.0
    """How long a new active consumer of a failover subscription waits for what the former one
    has, before that is taken back."""
    idle_owner_s: float = 2.0
    """How long a key stays with a key_shared consumer that takes nothing while nothing at all is
    out; then others get its messages."""
    state_stall_s: float = 10.0
    """Acknowledgements that cannot be made durable for so long stop dispatch."""
    acknowledge_positions: int = 100_000
    """Positions in one acknowledgement, and of one redelivery request looked at in one go."""
    remembered_batches: int = 1_024
    """Newest batches of a source kept with their ids, so that a resend gets the id it got."""
    automatic_sources: int = 10_000
    """Automatically named producers remembered for each topic."""
    automatic_source_idle_ms: int = 6 * 3_600_000
    checkpoint_entries: int = 2_000
    """Entries after which the sources of deduplication are written to the state ledger."""
    checkpoint_bytes: int = 32 * MIB
    state_compaction_bytes: int = 8 * MIB
    """Size from which a state ledger is replaced by a snapshot, if that is worth it."""
    state_ledgers: int = 8
    """Each owner writes to a ledger of its own; more of them are replaced by a snapshot."""
    schedule_entry_messages: int = 512
    """Messages of a schedule that are put into one entry of the log when they are due."""
    schedule_entry_bytes: int = 128 * KIB
    schedule_entries_in_flight: int = 4
    """Such entries of one topic on their way to the bookies; meanwhile the next collects."""
    schedule_entry_pause_ms: float = 5.0
    """The next one collects at least so long, where nothing more was due behind the last one."""
    memory_bytes: int = 256 * MIB
    """Messages of all non-persistent topics together; above it the oldest are dropped, first of
    the topic in which least happens."""
    memory_topic_bytes: int = 32 * MIB
    """Messages of one non-persistent topic; above it its oldest are dropped."""
    memory_tail_bytes: int = 16 * MIB
    """Newest entries of non-persistent topics, ready for consumers that keep up; a cache of their
    own, so that they do not displace what would have to be read from bookies."""
    memory_segment_bytes: int = 1 * MIB
    """So much is dropped at a time."""
    probed_s: float = 1.0
    """A broker that is to serve a non-persistent topic is probed once in so long."""
    presumed_dead_s: float = 15.0
    """A broker whose port did not answer serves no non-persistent topic for so long, unless its
    registration ends before or another life of it begins."""
    schedule_memory_bytes: int = 24 * MIB
    """Of what waits in the schedules of all topics together; what is above is written to runs,
    and above twice of it producers of delayed messages are held back meanwhile."""
    schedule_ledger_bytes: int = 64 * MIB
    """Of a schedule's ledgers, beyond twice of what waits in memory, before a run is made of it."""
    schedule_runs: int = 32
    """Of one schedule; more are merged, so that firing looks at few."""
    schedule_runs_merged: int = 16
    """At once, where there are too many."""
    schedule_garbage_bytes: int = 64 * MIB
    """Fired and cancelled messages in runs that are not worth a merge."""
    schedule_merge_bytes: int = 1024 * MIB
    """Of messages that one merge writes, unless there are too many runs."""
    schedule_blocks: BlockLimits = BLOCK_LIMITS
    topics: int = 100_000
    producers_a_topic: int = 10_000
    waiting_producers_a_topic: int = 1_000
    """Producers that wait for exclusive access."""
    exclusive_return_s: float = 10.0
    """After a change of owner nobody takes an exclusive producer's place for so long, unless by
    fencing; longer than clients need to notice that their broker fell silent."""
    subscriptions_a_topic: int = 10_000
    consumers_a_subscription: int = 10_000
    topic_watchers: int = 10_000
    """Clients' streams that are told of topics that come and go."""
    topics_a_watch: int = 100_000
    """Topics a stream may name, and topics that its pattern may match."""
    watched_names: int = 100_000
    """Different topics that the streams of a namespace watch by name."""
    listing_pause_s: float = 0.2
    """Least time between two readings of a namespace's topics for those who watch them."""
    listing_again_s: float = 60.0
    """A namespace that is watched is read again after so long, changed or not."""
    idle_unload_s: float = 300.0
    maintenance_interval_s: float = 10.0
    topic_round_interval_s: float = 300.0
    """Pause between two rounds over the topics that nobody uses, to see what is due there."""
    topic_round_reads_a_second: float = 50.0
    topic_round_visits_a_second: float = 5.0
    """Topics loaded in such a round."""
    schedule_round_interval_s: float = 5.0
    """Pause between two rounds over the topics that have a schedule and that nobody may have
    loaded; a broker's end begins one at once."""
    schedule_round_reads_a_second: float = 200.0
    """Records of such topics read again whose owner seemed alive."""
    schedule_round_visits_at_once: int = 8
    """Topics loaded at a time in such a round."""
    probe_timeout_s: float = 0.3
    takeovers_a_second: float = 200.0
    """Probe-based takeovers a broker may do; what is above waits for the owner's session."""
    takeover_pause_s: float = 5.0
    """Least time between two probe-based takeovers of one topic by this broker."""
    forwarding_bytes: int = 32 * MIB
    """Copies on their way to other topics that a broker has in hand, over all its topics."""
    relays: int = 1_000
    """Streams passed on at a time to owners that clients cannot reach."""
    load_timeout_s: float = 30.0
    drain_timeout_s: float = 10.0
    read_retry_s: float = 0.2


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """`advertised` is what lookup answers with; None: the address listened on."""

    broker_id: BrokerId
    listen: Address = DEFAULT_LISTEN
    advertised: Address | None = None
    admin_listen: Address | None = None
    limits: BrokerLimits = field(default_factory=BrokerLimits)

"""What a user asks of a subscription, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from magnetar.batch_receive_policy import BatchReceivePolicy
from magnetar.consuming import OnActiveChanged
from magnetar.dead_letter_policy import DeadLetterPolicy
from magnetar.enums import ConsumerType, InitialPosition, check_choice
from magnetar.errors import InvalidArgument
from magnetar.interceptors import ConsumerInterceptor
from magnetar.receive_queue import check_size
from magnetar.redelivery_backoff import Backoffs, Delay, RedeliveryBackoff, backoff_of
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb

SHARED_QUEUE_SIZE = 1000
"""Messages fetched ahead where others could have them instead."""

_TYPES = {
    ConsumerType.Exclusive: pb.EXCLUSIVE,
    ConsumerType.Shared: pb.SHARED,
    ConsumerType.Failover: pb.FAILOVER,
    ConsumerType.KeyShared: pb.KEY_SHARED,
    ConsumerType.Broadcast: pb.BROADCAST,
}
_HOLDS = {None: pb.HOLD_DEFAULT, True: pb.HOLD, False: pb.PASS}


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """The arguments of `Client.subscribe` but for the topic. Raises InvalidArgument."""

    subscription_name: str
    consumer_type: ConsumerType = ConsumerType.Exclusive
    initial_position: InitialPosition = InitialPosition.Latest
    consumer_name: str = ""
    receiver_queue_size: int | None = None
    negative_ack_redelivery_delay_ms: int = 1000
    redelivery_backoff: RedeliveryBackoff | Sequence[Delay] | None = None
    unacked_messages_timeout_ms: int = 0
    hold_failed_keys: bool | None = None
    dead_letter_policy: DeadLetterPolicy | None = None
    batch_receive_policy: BatchReceivePolicy | None = None
    filter: str = ""
    tags: str = "*"
    on_active_changed: OnActiveChanged | None = None
    interceptors: tuple[ConsumerInterceptor, ...] = ()

    def __post_init__(self) -> None:
        if not self.subscription_name:
            raise InvalidArgument("a subscription has a name; to read without one use a reader")
        check_choice("consumer_type", self.consumer_type, ConsumerType)
        check_choice("initial_position", self.initial_position, InitialPosition)
        if self.consumer_type is ConsumerType.Broadcast and not self.consumer_name:
            raise InvalidArgument(
                "a broadcast consumer needs a consumer_name: its position is kept under it")
        check_size(self.receiver_queue_size)
        if self.unacked_messages_timeout_ms < 0:
            raise InvalidArgument("unacked_messages_timeout_ms is 0 (never) or more")
        if self.on_active_changed and self.consumer_type is not ConsumerType.Failover:
            raise InvalidArgument("on_active_changed is for failover subscriptions")
        _ = self.backoff

    @property
    def backoff(self) -> Backoffs:
        """How long a message waits that failed."""
        return backoff_of(self.redelivery_backoff, self.negative_ack_redelivery_delay_ms)

    @property
    def holds_keys(self) -> bool:
        """Whether later messages of a key wait for one that failed."""
        if self.hold_failed_keys is None:
            return self.consumer_type is ConsumerType.KeyShared
        return self.hold_failed_keys

    @property
    def shares_out(self) -> bool:
        """Whether the messages are divided among the consumers."""
        return self.consumer_type in (ConsumerType.Shared, ConsumerType.KeyShared)

    @property
    def window(self) -> int | None:
        """Messages fetched ahead; None: as their size allows."""
        if self.receiver_queue_size is None and self.shares_out:
            return SHARED_QUEUE_SIZE
        return self.receiver_queue_size

    def open_request(self) -> pb.OpenConsumer:
        """As the wire has it, without the topic."""
        earliest = self.initial_position is InitialPosition.Earliest
        opening = pb.OpenConsumer(
            subscription=self.subscription_name,
            type=_TYPES[self.consumer_type],
            initial_position=pb.EARLIEST if earliest else pb.LATEST,
            durable=True,
            consumer_name=self.consumer_name,
            filter=self.filter,
            tags=self.tags,
            hold_failed_keys=_HOLDS[self.hold_failed_keys],
        )
        if (policy := self.dead_letter_policy) is not None:
            opening.max_deliveries = policy.max_deliveries
            if policy.dead_letter_topic is not None:
                opening.dead_letter_topic = TopicName.parse(policy.dead_letter_topic).full
        return opening

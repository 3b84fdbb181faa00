"""The client: where producers, consumers and readers come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, TypeVar

from magnetar.batch_receive_policy import BatchReceivePolicy
from magnetar.closable import Closable
from magnetar.connection import Connections, ConnectionSettings
from magnetar.consumer import TopicConsumer
from magnetar.consumer_options import ConsumerOptions
from magnetar.consuming import Consumer, OnActiveChanged
from magnetar.dead_letter import REDRIVE
from magnetar.dead_letter_policy import DeadLetterPolicy
from magnetar.entry import Codec
from magnetar.enums import (
    CompressionType,
    ConsumerType,
    HashingScheme,
    InitialPosition,
    PartitionsRoutingMode,
    ProducerAccessMode,
    check_choice,
)
from magnetar.errors import AlreadyClosed, InvalidArgument, MagnetarError, NotSupported
from magnetar.handling import Handling
from magnetar.intercepted_consumer import topic_consumer
from magnetar.intercepted_producer import (
    InterceptedPartitionedProducer,
    InterceptedProducer,
    observed,
)
from magnetar.interceptors import (
    ConsumerInterceptor,
    Interceptor,
    ProducerInterceptor,
    checked,
    those_of,
)
from magnetar.message_id import MessageId
from magnetar.multi_topic_consumer import MultiTopicConsumer
from magnetar.multi_topic_reader import AnyReader, MultiTopicReader, Start, single_start
from magnetar.partitioned_producer import AnyProducer, PartitionedProducer, Routing
from magnetar.producer import Producer
from magnetar.producer_core import ProducerCore, ProducerLimits
from magnetar.pull import PullConsumer, check_lease
from magnetar.reader import Reader
from magnetar.receive_queue import ReceiveQueue, check_size
from magnetar.redelivery_backoff import Delay, RedeliveryBackoff
from magnetar.redrive import RedriveOptions, RedriveReport, redrive
from magnetar.routing import MessageRouter
from magnetar.runtime.clock import Clock, SystemClock
from magnetar.service_url import ServiceUrl
from magnetar.together import all_done
from magnetar.topic import TopicName
from magnetar.topic_choice import TopicPattern, Topics, chosen_topics
from magnetar.topic_watch import TopicWatches

if TYPE_CHECKING:
    from magnetar.admin.admin import Admin

Part = TypeVar(
    "Part", Producer, PartitionedProducer, TopicConsumer, MultiTopicConsumer, Reader,
    MultiTopicReader, PullConsumer)


class Client(Handling, Closable):
    """Speaks to a cluster. Make and use it inside one event loop.

    `service_url` names any brokers of the cluster; without it MAGNETAR_SERVICE_URL counts, then
    this machine. Nothing is connected before the first producer, consumer or reader.
    """

    def __init__(
        self,
        service_url: str | None = None,
        *,
        operation_timeout_seconds: float = 30,
        connection_timeout_ms: int = 5000,
        tls_trust_certs_file_path: str | None = None,
        interceptors: Sequence[Interceptor] = (),
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        url = ServiceUrl.parse(service_url) if service_url else ServiceUrl.default()
        if operation_timeout_seconds <= 0 or connection_timeout_ms <= 0:
            raise InvalidArgument("timeouts must be above 0")
        self._settings = ConnectionSettings(
            operation_timeout_seconds, connection_timeout_ms / 1000, tls_trust_certs_file_path)
        self._clock = clock or SystemClock()
        self._connections = Connections(url, self._settings, self._clock, random or Random())
        self._interceptors = checked(interceptors)
        self._watches = TopicWatches(self._connections)
        self._parts: list[AnyProducer | Consumer | AnyReader | PullConsumer] = []
        self._closing = self._closed = False
        self._admin: Admin | None = None

    async def create_producer(
        self,
        topic: str,
        producer_name: str = "",
        *,
        initial_sequence_id: int | None = None,
        send_timeout_millis: int = 30_000,
        compression_type: CompressionType = CompressionType.NONE,
        batching_enabled: bool = True,
        batching_max_allowed_size_in_bytes: int = 128 * 1024,
        max_pending_bytes: int = 16 << 20,
        properties: Mapping[str, str] | None = None,
        access_mode: ProducerAccessMode = ProducerAccessMode.Shared,
        message_routing_mode: PartitionsRoutingMode = PartitionsRoutingMode.RoundRobinDistribution,
        hashing_scheme: HashingScheme = HashingScheme.Murmur3_32Hash,
        message_router: MessageRouter | None = None,
        interceptors: Sequence[Interceptor] = (),
    ) -> AnyProducer:
        """A producer. The topic is created where the namespace's policy allows.

        With a `producer_name` sequence ids go on from the last one stored under it;
        `initial_sequence_id` begins after that number instead, so that what is stored already is
        recognised. A message not durable within `send_timeout_millis` (0: no limit) fails with
        OperationTimeout. Batches form by themselves while others are under way.

        `access_mode` says who else may publish to the topic; raises ProducerBusy where it cannot
        be had. With WaitForExclusive this waits for its turn, however long; cancel it to give up.

        On a partitioned topic a message's key, hashed by `hashing_scheme`, decides its partition,
        `message_routing_mode` that of one without a key; a `message_router` decides of all. With
        `initial_sequence_id` the same messages sent again go where they went.

        Interceptors, those of the client first, see and may change each message.
        """
        name = self._topic(topic)
        if batching_max_allowed_size_in_bytes < 1 or max_pending_bytes < 1:
            raise InvalidArgument("limits in bytes must be above 0")
        if initial_sequence_id is not None and initial_sequence_id < -1:
            raise InvalidArgument("initial_sequence_id is -1 or more")
        check_choice("compression_type", compression_type, CompressionType)
        check_choice("access_mode", access_mode, ProducerAccessMode)
        check_choice("message_routing_mode", message_routing_mode, PartitionsRoutingMode)
        check_choice("hashing_scheme", hashing_scheme, HashingScheme)
        limits = replace(
            ProducerLimits(), batch_bytes=batching_max_allowed_size_in_bytes,
            queue_bytes=max_pending_bytes, batching=batching_enabled)

        def make(topic: TopicName, kind: type[Producer] = Producer) -> Producer:
            core = ProducerCore(
                self._clock, limits, codec=Codec(compression_type.value),
                initial_sequence_id=initial_sequence_id, send_timeout_s=send_timeout_millis / 1000)
            core.producer_name = producer_name
            return kind(self._connections, topic, core, properties or {}, access_mode)

        chain = those_of(ProducerInterceptor, self._interceptors, interceptors)
        partitions = await self._partitions(name)
        if not partitions:
            return await self._opened(
                observed(make(name, InterceptedProducer if chain else Producer), chain))
        routing = Routing(
            message_routing_mode, hashing_scheme, message_router, batching=batching_enabled,
            repeatable=initial_sequence_id is not None,
            one_first=access_mode is not ProducerAccessMode.Shared)
        several: type[PartitionedProducer] = (
            InterceptedPartitionedProducer if chain else PartitionedProducer)
        return await self._opened(observed(several(
            self._connections, name, partitions, make, self._watches, routing,
            producer_name=producer_name, max_pending_bytes=max_pending_bytes), chain))

    async def subscribe(
        self,
        topic: Topics | None = None,
        subscription_name: str = "",
        *,
        pattern: str | re.Pattern[str] | None = None,
        consumer_type: ConsumerType = ConsumerType.Exclusive,
        initial_position: InitialPosition = InitialPosition.Latest,
        consumer_name: str = "",
        receiver_queue_size: int | None = None,
        negative_ack_redelivery_delay_ms: int = 1000,
        redelivery_backoff: RedeliveryBackoff | Sequence[Delay] | None = None,
        unacked_messages_timeout_ms: int = 0,
        hold_failed_keys: bool | None = None,
        dead_letter_policy: DeadLetterPolicy | None = None,
        batch_receive_policy: BatchReceivePolicy | None = None,
        on_active_changed: OnActiveChanged | None = None,
        filter: str = "",
        tags: str = "*",
        interceptors: Sequence[Interceptor] = (),
    ) -> Consumer:
        """A consumer of a durable subscription, which is made at `initial_position` if new.

        `topic` is one, plain or partitioned, or a list; a `pattern` (or a compiled one as the
        topic) takes all topics of a namespace whose names match, and those that come later:
        `persistent://tenant/namespace/orders-.*`, in RE2's syntax. Each topic and partition has
        a subscription of this name.

        `receiver_queue_size` bounds the messages fetched ahead; by itself it follows their size
        (1000 where they are shared out). Raises ConsumerBusy when an exclusive subscription has
        its consumer. A broadcast consumer has a `consumer_name` that is its own.

        A message that failed comes again after `redelivery_backoff`, a RedeliveryBackoff or
        delays (`[1, 5, 30]` seconds: the last again and again); without one, after
        `negative_ack_redelivery_delay_ms`. One that is not acknowledged within
        `unacked_messages_timeout_ms` (0: no limit) counts as failed. With `hold_failed_keys`
        later messages of its key wait for it; None: when key-shared. A `dead_letter_policy` says
        when it is given up.

        `on_active_changed(consumer, active)` is called when a failover consumer begins or ends
        to be served.

        `filter` (`"price > 100 AND region IN ('eu', 'us')"`) and `tags` (`"A || B"`) say which
        messages are wanted: the broker sends no others, and counts those as acknowledged. All
        consumers of a subscription give the same ones; else ConsumerBusy. InvalidArgument shows
        where a filter cannot be read.

        Interceptors, those of the client first, see each message and what becomes of it.
        """
        chain = those_of(ConsumerInterceptor, self._interceptors, interceptors)
        return await self._subscribe(chosen_topics(topic, pattern), ConsumerOptions(
            subscription_name, consumer_type, initial_position, consumer_name,
            receiver_queue_size, negative_ack_redelivery_delay_ms, redelivery_backoff,
            unacked_messages_timeout_ms, hold_failed_keys, dead_letter_policy,
            batch_receive_policy, filter, tags, on_active_changed, chain,
        ))

    async def _subscribe(
        self, choice: tuple[TopicName, ...] | TopicPattern, options: ConsumerOptions
    ) -> Consumer:
        self._refuse_if_closed()
        if not isinstance(choice, TopicPattern):
            if len(choice) > 1 and not all(name.persistent for name in choice):
                raise NotSupported(
                    "a consumer of several topics takes persistent ones only; subscribe to those"
                    " that are not one by one")
            if len(choice) == 1 and not await self._partitions(choice[0]):
                return await self._opened(topic_consumer(self._connections, choice[0], options))
        return await self._opened(
            MultiTopicConsumer(self._connections, self._watches, choice, options))

    async def create_reader(
        self,
        topic: str,
        start_message_id: Start = InitialPosition.Earliest,
        *,
        start_message_id_inclusive: bool = False,
        reader_name: str = "",
        receiver_queue_size: int | None = None,
        filter: str = "",
        tags: str = "*",
    ) -> AnyReader:
        """A reader that begins after (or at) a message, or at an end of the topic.

        Of a partitioned topic it reads all partitions; it begins at an end, or after (or at) the
        messages of a list, at most one a partition, and at the first message of the others.

        `filter` and `tags` as in `subscribe`.
        """
        name = self._topic(topic)

        def make(topic: TopicName, start: MessageId | InitialPosition) -> Reader:
            return Reader(
                self._connections, topic, self._queue(topic, receiver_queue_size), start,
                start_inclusive=start_message_id_inclusive, reader_name=reader_name,
                filter_text=filter, tags=tags)

        if not await self._partitions(name):
            return await self._opened(make(name, single_start(start_message_id)))
        return await self._opened(MultiTopicReader(
            self._connections, self._watches, name, make, start_message_id))

    async def create_puller(
        self,
        topic: str,
        subscription_name: str,
        *,
        consumer_type: ConsumerType = ConsumerType.Shared,
        initial_position: InitialPosition = InitialPosition.Latest,
        consumer_name: str = "",
        lease_millis: int = 30_000,
        negative_ack_redelivery_delay_ms: int = 1000,
        redelivery_backoff: RedeliveryBackoff | Sequence[Delay] | None = None,
        hold_failed_keys: bool | None = None,
        dead_letter_policy: DeadLetterPolicy | None = None,
        filter: str = "",
        tags: str = "*",
    ) -> PullConsumer:
        """A consumer that is sent nothing but what each of its calls asks for.

        What `pull` brings is leased: not settled within `lease_millis`, it is delivered again. A
        `consumer_name` tells whose leases they are; one is made up where none is given. The rest
        is as in `subscribe`.
        """
        name = self._topic(topic)
        check_lease(lease_millis)
        if not consumer_name and consumer_type is not ConsumerType.Broadcast:
            consumer_name = f"pull-{self._connections.random.getrandbits(64):016x}"
        options = ConsumerOptions(
            subscription_name, consumer_type, initial_position, consumer_name,
            negative_ack_redelivery_delay_ms=negative_ack_redelivery_delay_ms,
            redelivery_backoff=redelivery_backoff, hold_failed_keys=hold_failed_keys,
            dead_letter_policy=dead_letter_policy, filter=filter, tags=tags,
        )
        return await self._opened(PullConsumer(
            self._connections, name, lambda: self._partitions(name), options, lease_millis))

    @property
    def admin(self) -> Admin:
        """Tenants, policies, topics, subscriptions, ...: what `magnetar admin` does."""
        if self._admin is None:
            from magnetar.admin.admin import Admin
            from magnetar.admin.any_broker import AnyBroker

            self._admin = Admin(AnyBroker(self._connections))
        return self._admin

    async def redrive(
        self,
        dead_letter_topic: str,
        *,
        subscription: str = REDRIVE,
        to: str | None = None,
        max_messages: int | None = None,
        filter: str = "",
        tags: str = "*",
        patience_millis: int = 30_000,
        on_progress: Callable[[RedriveReport], None] = lambda _report: None,
    ) -> RedriveReport:
        """Move dead letters back to the topics they came from, or all to one: each is written
        once, and only then acknowledged in `subscription` of the dead-letter topic.

        Concerns what lies there now, at most `max_messages` of it; `filter` and `tags` choose, as
        in `subscribe` (`"dead_letter.reason LIKE '%timeout%'"`), and what they do not want stays.
        May be run again at any time, also after it was cut off. Raises ConsumerBusy while another
        redrive runs, TopicNotFound, ConnectionFailed when nothing moved for `patience_millis`.
        """
        name = self._topic(dead_letter_topic)
        partitions = await self._partitions(name, must_exist=True)
        logs = [name.with_partition(number).full for number in range(partitions)] or [name.full]
        options = RedriveOptions(
            subscription, to or "", max_messages or 0, filter, tags, patience_millis)
        return await redrive(self._connections, logs, options, on_progress)

    async def partitions_of(self, topic: str) -> int:
        """How many partitions the topic has; 0: it is not partitioned."""
        return await self._partitions(self._topic(topic))

    async def close(self) -> None:
        """Stop all handlers, close all producers, consumers and readers, then the links; twice is
        fine."""
        if self._closing:
            return
        self._closing = True
        try:
            await self._stop_handling()
        finally:
            self._closed = True
            await self._close_parts()

    async def _close_parts(self) -> None:
        try:
            await all_done(part.close() for part in self._parts)
        finally:
            await self._watches.close()
            await self._connections.close()

    def _topic(self, topic: str) -> TopicName:
        self._refuse_if_closed()
        return TopicName.parse(topic)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise AlreadyClosed("the client is closed; make a new one")

    async def _partitions(self, name: TopicName, *, must_exist: bool = False) -> int:
        """How many partitions the topic has; 0: it is a log itself. One that `must_exist` is not
        made: TopicNotFound."""
        if name.partition >= 0 or not name.persistent:
            return 0
        deadline_s = self._clock.monotonic_s() + self._settings.operation_timeout_s
        return await self._connections.partitions_of(
            name.full, deadline_s, must_exist=must_exist)

    def _queue(self, name: TopicName, size: int | None) -> ReceiveQueue:
        check_size(size)
        return ReceiveQueue(name.full, name.partition, fixed_window=size, holds=False)

    async def _opened(self, part: Part) -> Part:
        try:
            await part.open(self._clock.monotonic_s() + self._settings.operation_timeout_s)
        except BaseException:
            with suppress(MagnetarError):
                await part.close()
            raise
        self._parts = [*(known for known in self._parts if not known.closed), part]
        return part

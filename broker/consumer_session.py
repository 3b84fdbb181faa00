"""One consumer or reader, as its stream sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from broker.conversation import (
    ConsumerEvent,
    Delivery,
    InitialPosition,
    MessagePosition,
    OnDeliveries,
    OnEnded,
    OnEvent,
)
from magnetar.errors import AlreadyClosed, MagnetarError

if TYPE_CHECKING:
    from broker.subscription import Subscription

OnDone = Callable[[MagnetarError | None], None]
"""Called once, with None when the request is done for good."""


class ConsumerSession:
    """Takes permits, acknowledgements and seeks; hands out deliveries.

    `backlog_bytes` tells how much the stream has not yet sent; above the limit dispatch waits
    until `resume()` is called.
    """

    __slots__ = (
        "_deliver", "_ended", "_frame_bytes", "_on_event", "_outgoing", "_outgoing_bytes",
        "_subscription", "backlog_bytes", "closed", "consumer_id", "delivered_messages", "exact",
        "held", "name", "parked", "permits", "told_end", "unacknowledged",
    )

    def __init__(
        self, subscription: Subscription, consumer_id: int, name: str, deliver: OnDeliveries,
        ended: OnEnded, backlog_bytes: Callable[[], int], on_event: OnEvent, frame_bytes: int,
    ) -> None:
        self._subscription = subscription
        self.consumer_id = consumer_id
        self.name = name
        self._deliver = deliver
        self._ended = ended
        self._on_event = on_event
        self.backlog_bytes = backlog_bytes
        self._frame_bytes = frame_bytes
        self._outgoing: list[Delivery] = []
        self._outgoing_bytes = 0
        self.permits = 0
        self.exact = False
        """Gets no message beyond its permits: batches are cut for it."""
        self.delivered_messages = 0
        self.unacknowledged = 0
        """Messages it has and nobody has acknowledged. Kept by `broker.dispatch.flights`, as is
        `held`: the entries they are of."""
        self.held: dict[tuple[int, int], None] = {}
        self.parked = False
        """It lost its turn for having no room; kept by `broker.dispatch.choice`."""
        self.told_end = False
        self.closed = False

    @property
    def topic(self) -> str:
        """The full name."""
        return self._subscription.topic_name

    @property
    def subscription_name(self) -> str:
        return self._subscription.name

    @property
    def backlog_messages(self) -> int:
        """Of its subscription: not acknowledged."""
        return self._subscription.backlog_messages

    @property
    def outgoing_bytes(self) -> int:
        return self._outgoing_bytes

    def add_permits(self, messages: int) -> None:
        """So many messages more may be sent."""
        if not self.closed:
            self.permits += messages
            self._subscription.dispatcher.offer(self)

    def resume(self) -> None:
        """The stream has sent what it was given."""
        if not self.closed:
            self._subscription.dispatcher.offer(self)

    def acknowledge(
        self, individual: Sequence[MessagePosition], cumulative: MessagePosition | None,
        on_done: OnDone,
    ) -> None:
        """Acknowledge messages; done when the state ledger has it on Qa bookies."""
        if self.closed:
            on_done(AlreadyClosed("the consumer's session ended; it will get the messages again"))
            return
        self._subscription.acknowledge(individual, cumulative, on_done)

    def negative(
        self, positions: Sequence[MessagePosition], delay_ms: int = 0, reason: str = "", *,
        counted: bool = True,
    ) -> None:
        """Deliver these again, here or elsewhere, so much later. `counted`: as a failure, for
        this reason; else they were not used, and come again in their old place."""
        if positions and not self.closed:
            self._subscription.negative(
                self, positions, delay_ms=delay_ms, reason=reason, counted=counted)

    def redeliver(self, positions: Sequence[MessagePosition]) -> None:
        """Deliver these again, here or elsewhere, counting it."""
        self.negative(positions)

    def give_back(self, positions: Sequence[MessagePosition]) -> None:
        """These were not used: they go to whoever is next, no delivery more, in their old place."""
        self.negative(positions, counted=False)

    async def seek(
        self, position: MessagePosition | None = None,
        initial_position: InitialPosition = InitialPosition.LATEST, publish_time_ms: int = 0,
    ) -> int:
        """Begin again at a message, at a time or at an end; answers the new delivery epoch."""
        return await self._subscription.seek(position, initial_position, publish_time_ms)

    async def last_message(self) -> MessagePosition | None:
        """The newest message of the topic; None when it has none."""
        return await self._subscription.last_message()

    async def unsubscribe(self) -> None:
        """Delete the subscription with its cursor; raises ConsumerBusy if others use it."""
        await self._subscription.unsubscribe(self)

    def offer(self, delivery: Delivery) -> None:
        """Collect for the next frame."""
        self._outgoing.append(delivery)
        self._outgoing_bytes += len(delivery.entry)
        if self._outgoing_bytes >= self._frame_bytes:
            self.flush()

    def flush(self) -> None:
        """Hand the collected deliveries to the stream."""
        if self._outgoing:
            outgoing, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
            self._deliver(outgoing)

    def tell(self, event: ConsumerEvent) -> None:
        """Something other than messages, behind those that were handed out before."""
        if not self.closed:
            self.flush()
            self._on_event(event)

    def close(self) -> None:
        """The client left: what it has not acknowledged goes to others, or to its next session."""
        if not self.closed:
            self.closed = True
            self._outgoing.clear()
            self._subscription.detach(self)

    def end(self, error: MagnetarError) -> None:
        """The broker ends the session."""
        if not self.closed:
            self.closed = True
            self._outgoing.clear()
            self._subscription.detach(self)
            self._ended(error)

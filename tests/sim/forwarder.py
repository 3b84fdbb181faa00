"""How a simulated broker publishes to topics that another one may own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.conversation import InitialPosition, OpenConsumer
from magnetar.entry import parse_header
from magnetar.errors import ConnectionFailed
from magnetar.runtime.network import Address
from tests.sim import messages
from tests.sim.client_process import KEEPALIVE_S, OPEN_TIMEOUT_S, Stream
from tests.sim.network import SimNetwork
from tests.sim.rare_states import DEAD_LETTER, DEAD_LETTER_UNKNOWN, RareStates

if TYPE_CHECKING:
    from collections.abc import Callable


class SimForwarder:
    """Asks its own broker who owns the topic, as the real one does. One attempt at a time: a lost
    stream is an unknown outcome, which the lane has to find out about."""

    def __init__(self, network: SimNetwork, broker: Address, rare: RareStates) -> None:
        self.network = network
        self._broker = broker
        self._rare = rare

    async def partitions(self, topic: str) -> int:
        return 0

    async def keep(self, topic: str, subscription: str) -> None:
        request = OpenConsumer(
            topic, subscription, initial_position=InitialPosition.EARLIEST, consumer_name="keeper")
        stream = await self._opened(topic, lambda relay: messages.Subscribe(request, relay))
        stream.send(messages.Close())
        stream.close()

    async def open(self, topic: str, producer_name: str, *, fresh: bool) -> SimOutlet:
        stream = await self._opened(
            topic, lambda relay: messages.OpenProducer(topic, producer_name, 0, relay))
        opened = stream.first
        assert isinstance(opened, messages.ProducerOpened)
        return SimOutlet(stream, opened, self._rare)

    async def _opened(self, topic: str, first: Callable[[bool], object]) -> _Opened:
        lookup = Stream(self)  # type: ignore[arg-type]
        try:
            await lookup.open(self._broker)
            lookup.send(messages.Lookup(topic))
            answer = await lookup.receive(OPEN_TIMEOUT_S)
        finally:
            lookup.close()
        if answer.error is not None:
            raise answer.error
        relay = answer.result.relay
        stream = _Opened(self)  # type: ignore[arg-type]
        try:
            await stream.open(
                self._broker if relay else Address.parse(answer.result.owner_address))
            stream.send(first(relay))
            stream.first = await stream.receive(OPEN_TIMEOUT_S)
        except BaseException:
            stream.close()
            raise
        return stream


class _Opened(Stream):
    first: object = None


class SimOutlet:
    """A producer's stream."""

    def __init__(
        self, stream: Stream, opened: messages.ProducerOpened, rare: RareStates
    ) -> None:
        self._stream = stream
        self._rare = rare
        self.last_sequence_id = opened.last_sequence_id
        self.max_batch_bytes = opened.max_message_bytes

    async def publish(self, batch: bytes) -> None:
        self._stream.send(messages.Publish([batch]))
        try:
            answer = await self._stream.receive(KEEPALIVE_S)
        except BaseException:
            self._rare.counts[DEAD_LETTER_UNKNOWN] += 1
            raise
        self._rare.counts[DEAD_LETTER] += 1
        if not isinstance(answer, messages.Receipts) or len(answer.receipts) != 1:
            raise ConnectionFailed(f"no receipt for one batch: {answer!r}")
        [receipt] = answer.receipts
        if receipt.error is not None:
            raise receipt.error
        self.last_sequence_id = parse_header(batch).last_sequence_id

    def release(self) -> None:
        self._stream.send(messages.Close())
        self._stream.close()

    def discard(self) -> None:
        self._stream.close()

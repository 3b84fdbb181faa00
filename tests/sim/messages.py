"""What a client and a broker of the simulator send each other: objects in place of protobuf.

The conversation is that of `proto/broker.proto`; only its coding is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.conversation import Delivery, LookupResult, MessagePosition, OpenConsumer, Receipt
from broker.schedule.interface import ScheduleAnswer
from magnetar.entry import SchedulePlace
from magnetar.errors import MagnetarError


@dataclass(frozen=True, slots=True)
class Hello:
    """Is there a broker?"""


@dataclass(frozen=True, slots=True)
class Lookup:
    topic: str
    unreachable_address: str = ""


@dataclass(frozen=True, slots=True)
class LookedUp:
    result: LookupResult | None
    error: MagnetarError | None = None


@dataclass(frozen=True, slots=True)
class OpenProducer:
    topic: str
    name: str
    epoch: int
    relay: bool = False


@dataclass(frozen=True, slots=True)
class ProducerOpened:
    name: str
    epoch: int
    last_sequence_id: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class Publish:
    batches: list[bytes]


@dataclass(frozen=True, slots=True)
class Receipts:
    receipts: list[Receipt]


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream ends with an error."""

    error: MagnetarError


@dataclass(frozen=True, slots=True)
class Subscribe:
    request: OpenConsumer
    relay: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed:
    consumer_id: int


@dataclass(frozen=True, slots=True)
class Permits:
    messages: int


@dataclass(frozen=True, slots=True)
class Deliveries:
    deliveries: list[Delivery]


@dataclass(frozen=True, slots=True)
class Acknowledge:
    request_id: int
    individual: list[MessagePosition]
    cumulative: MessagePosition | None


@dataclass(frozen=True, slots=True)
class Redeliver:
    positions: list[MessagePosition]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A negative acknowledgement; `counted`: as a failure."""

    positions: list[MessagePosition]
    delay_ms: int
    counted: bool


@dataclass(frozen=True, slots=True)
class Done:
    request_id: int
    error: MagnetarError | None


@dataclass(frozen=True, slots=True)
class ChangeSchedule:
    """Cancel these, or, with a time, move the only one; with none, list what waits."""

    request_id: int
    topic: str
    places: list[SchedulePlace]
    deliver_at_ms: int | None


@dataclass(frozen=True, slots=True)
class ScheduleAnswers:
    """`by_owner`: not by a broker that was replaced and has not heard of it."""

    request_id: int
    answers: list[ScheduleAnswer]
    by_owner: bool
    error: MagnetarError | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """The client leaves in good order."""

"""What a dead letter says of itself: properties beside those its producer gave.

They are set by whoever gave the message up, the broker or a consumer of the SDK, and taken away
again when the message is redriven to where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from magnetar.topic import MAX_NAME_BYTES, TopicName

PREFIX: Final = "dead_letter."
TOPIC: Final = "dead_letter.topic"
SUBSCRIPTION: Final = "dead_letter.subscription"
MESSAGE_ID: Final = "dead_letter.message_id"
ATTEMPTS: Final = "dead_letter.attempts"
REASON: Final = "dead_letter.reason"
FAILED_AT_MS: Final = "dead_letter.failed_at_ms"
PUBLISHED_AT_MS: Final = "dead_letter.published_at_ms"
PRODUCER: Final = "dead_letter.producer"
SEQUENCE_ID: Final = "dead_letter.sequence_id"
REDRIVEN_COUNT: Final = "redriven.count"
REDRIVEN_FROM: Final = "redriven.from"

REDRIVE: Final = "redrive"
"""The subscription that keeps dead letters until they are redriven. It is made with the first
dead letter, and not again when somebody deletes it."""

MAX_REASON_BYTES: Final = 1024
"""Of why a message failed, so much is sent and kept."""
DEAD_SUFFIX: Final = "-dead"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Where a dead letter comes from and why. Texts that are not there are empty, numbers 0."""

    topic: str
    subscription: str
    message_id: str
    """As `str(MessageId)`, in `topic`."""
    attempts: int
    """How often it was delivered."""
    reason: str
    failed_at_ms: int
    published_at_ms: int
    """When its producer first sent it."""
    producer_name: str
    sequence_id: int

    def properties(self) -> dict[str, str]:
        """As they are put on the message."""
        return {
            TOPIC: self.topic, SUBSCRIPTION: self.subscription, MESSAGE_ID: self.message_id,
            ATTEMPTS: str(self.attempts), REASON: short_reason(self.reason),
            FAILED_AT_MS: str(self.failed_at_ms), PUBLISHED_AT_MS: str(self.published_at_ms),
            PRODUCER: self.producer_name, SEQUENCE_ID: str(self.sequence_id),
        }

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> DeadLetter | None:
        """From a message's properties; None when it is no dead letter."""
        topic = properties.get(TOPIC)
        if not topic:
            return None
        return cls(
            topic, properties.get(SUBSCRIPTION, ""), properties.get(MESSAGE_ID, ""),
            _number(properties, ATTEMPTS), properties.get(REASON, ""),
            _number(properties, FAILED_AT_MS), _number(properties, PUBLISHED_AT_MS),
            properties.get(PRODUCER, ""), _number(properties, SEQUENCE_ID),
        )


def without_dead_letter(properties: Mapping[str, str]) -> dict[str, str]:
    """What the message's producer gave it."""
    return {key: value for key, value in properties.items() if not key.startswith(PREFIX)}


def short_reason(reason: str) -> str:
    """All of it up to MAX_REASON_BYTES, else its beginning with an ellipsis."""
    encoded = reason.encode(errors="replace")
    if len(encoded) <= MAX_REASON_BYTES:
        return encoded.decode()
    return encoded[:MAX_REASON_BYTES - 3].decode(errors="ignore") + "…"


def default_dead_letter_topic(topic: str, subscription: str) -> str:
    """TOPIC-SUBSCRIPTION-dead in the topic's namespace; one for all partitions of a topic.

    Characters that no topic may have become `_`, and a name that would be too long is cut, both
    with a digest behind them that keeps names apart. Non-persistent topics' dead letters are
    kept as well.
    """
    base = TopicName.parse(topic).base
    wanted = f"{base.local}-{subscription}"
    local = "".join(
        "_" if one == "/" or one.isspace() or not one.isprintable() else one for one in wanted)
    room = MAX_NAME_BYTES - len(DEAD_SUFFIX)
    if local != wanted or len(local.encode()) > room:
        digest = blake2b(wanted.encode(errors="replace"), digest_size=6).hexdigest()
        cut = local.encode(errors="replace")[:room - len(digest) - 1].decode(errors="ignore")
        local = f"{cut}-{digest}"
    return TopicName(True, base.tenant, base.namespace, f"{local}{DEAD_SUFFIX}").full


def _number(properties: Mapping[str, str], key: str) -> int:
    text = properties.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0

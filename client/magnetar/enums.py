"""The choices a user makes when opening producers and consumers."""

from __future__ import annotations

from enum import Enum

from magnetar.errors import InvalidArgument


class ConsumerType(Enum):
    """Who else may consume from the subscription."""

    Exclusive = "exclusive"
    """One consumer, which gets everything in order."""
    Shared = "shared"
    """Any number of consumers, each message goes to one of them, without order."""
    Failover = "failover"
    """One consumer at a time, which gets everything in order; the others stand by."""
    KeyShared = "key_shared"
    """Any number of consumers; a key goes to one of them at a time, in order."""
    Broadcast = "broadcast"
    """Every member gets everything, and keeps a position of its own under its name."""


class ProducerAccessMode(Enum):
    """Who else may publish to the topic."""

    Shared = "shared"
    """Any number of producers."""
    Exclusive = "exclusive"
    """Nobody: refused with ProducerBusy while others are connected."""
    WaitForExclusive = "wait_for_exclusive"
    """Nobody: the opening waits until the others have left, in the order of coming."""
    ExclusiveWithFencing = "exclusive_with_fencing"
    """Nobody: the others are ended with ProducerFenced."""


class InitialPosition(Enum):
    """Where a new subscription begins."""

    Latest = "latest"
    Earliest = "earliest"


class CompressionType(Enum):
    """How a batch's payloads are compressed."""

    NONE = 0
    LZ4 = 1
    ZSTD = 2


class PartitionsRoutingMode(Enum):
    """Where the messages of a partitioned topic go that have no key."""

    RoundRobinDistribution = "round_robin"
    """To all partitions in turn, a run of messages each."""
    UseSinglePartition = "single_partition"
    """All of one producer's to one partition, drawn when it opens."""


class HashingScheme(Enum):
    """How a key is hashed to choose its partition; all producers of a topic use one."""

    Murmur3_32Hash = "murmur3"
    JavaStringHash = "java_string"


def check_choice(name: str, given: object, kind: type[Enum]) -> None:
    """Raises InvalidArgument for what is no member, such as a member's text."""
    if not isinstance(given, kind):
        raise InvalidArgument(f"{name} is a {kind.__name__}, not {given!r}")

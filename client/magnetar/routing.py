"""Which partition a message goes to.

A key decides, where there is one: the same key goes to the same partition while their number
stays the same, from every client that hashes alike. Messages without a key go to one partition
for a run of them, then to the next, so that partitions fill evenly and batches form all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final, NamedTuple

from magnetar.enums import HashingScheme
from magnetar.errors import InvalidArgument
from magnetar.murmur3 import java_string_hash, murmur3_32
from magnetar.ticket import Ticket

RUN_MESSAGES: Final = 128
"""Messages without a key that go to one partition before the next one's turn."""
RUN_BYTES: Final = 128 * 1024


class OutgoingMessage(NamedTuple):
    """What `send` was given, as far as a router is told, and all of it for interceptors."""

    content: bytes
    properties: Mapping[str, str] | None = None
    partition_key: str | None = None
    ordering_key: str | None = None
    sequence_id: int | None = None
    tag: str | None = None
    event_timestamp: int | None = None
    deliver_at: int | None = None
    deliver_after: timedelta | float | None = None
    time_to_live: timedelta | float | None = None


MessageRouter = Callable[[OutgoingMessage, int], int]
"""Chooses a partition from 0 to the number of partitions, which it is told, less one."""

Hash = Callable[[str], int]


def hash_of(scheme: HashingScheme) -> Hash:
    """The function of a scheme."""
    match scheme:
        case HashingScheme.Murmur3_32Hash:
            return murmur3_32
        case HashingScheme.JavaStringHash:
            return java_string_hash


def chosen(router: MessageRouter, message: OutgoingMessage, partitions: int) -> int:
    """What the user's router says; raises InvalidArgument when there is no such partition."""
    number = router(message, partitions)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < partitions:
        raise InvalidArgument(
            f"the message router chose {number!r}; there are partitions 0 to {partitions - 1}"
        )
    return number


class RoundRobin:
    """The turns of messages without a key.

    A run ends early when the batch it filled has left, so that a slow producer's messages go
    round one by one. When `even` it does not, and nothing but their count decides where messages
    go: a run of the same messages repeated goes where it went before.
    """

    __slots__ = ("_even", "_left", "_left_bytes", "_number", "_ticket", "run_messages")

    def __init__(
        self, first: int = 0, *, even: bool = False, run_messages: int = RUN_MESSAGES
    ) -> None:
        self._even = even
        self._number = first
        self.run_messages = run_messages
        self._left = run_messages
        self._left_bytes = RUN_BYTES
        self._ticket: Ticket | None = None

    def partition(self, partitions: int) -> int:
        """Where the next message goes; asking again changes nothing."""
        ticket = self._ticket
        if self._left <= 0 or (not self._even and (
            self._left_bytes <= 0 or (ticket is not None and not ticket.collecting)
        )):
            self._begin(self.run_messages)
        return self._number % partitions

    def sent(self, size_bytes: int, ticket: Ticket) -> None:
        """The message went there."""
        self._left -= 1
        self._left_bytes -= size_bytes
        self._ticket = ticket

    def begin_many(self, count: int, partitions: int) -> int:
        """So many messages come at once; answers with how long their runs are, so that each
        partition gets its share in one piece."""
        share = -(-count // partitions)
        if self._even or share <= self.run_messages:
            return self.run_messages
        self._begin(share)
        return share

    def run(self, run_messages: int, partitions: int) -> tuple[int, int]:
        """Where the next messages go, and how many at most."""
        if self._left <= 0:
            self._begin(run_messages)
        return self._number % partitions, self._left

    def sent_many(self, count: int) -> None:
        """So many messages went there."""
        self._left -= count
        self._ticket = None

    def _begin(self, messages: int) -> None:
        self._number += 1
        self._left = messages
        self._left_bytes = RUN_BYTES
        self._ticket = None

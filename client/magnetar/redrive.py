"""Dead letters back to where they came from.

The owner of the dead-letter topic does the work, so that each message is written once and only
then acknowledged there, whatever crashes in between; this asks for it and tells how far it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from magnetar.connection import Connections
from magnetar.dead_letter import REDRIVE
from magnetar.errors import ConnectionFailed, InvalidArgument
from magnetar.owner_calls import OwnerCalls
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import RETRYABLE, to_exception


@dataclass(frozen=True, slots=True)
class RedriveReport:
    """What a redrive did. Numbers are of messages."""

    moved: int = 0
    """Durable at their targets, and acknowledged in the dead-letter topic."""
    unwanted: int = 0
    """Not wanted by `filter` and `tags`; they stay."""
    without_target: int = 0
    """No dead letters, and no `to` was given; they stay."""
    refused: int = 0
    """Could not go where they were to go, as `problem` says; they stay."""
    problem: str = ""
    targets: dict[str, int] = field(default_factory=dict)
    """Messages moved, by topic."""

    def __add__(self, other: RedriveReport) -> RedriveReport:
        targets = dict(self.targets)
        for topic, count in other.targets.items():
            targets[topic] = targets.get(topic, 0) + count
        return RedriveReport(
            self.moved + other.moved, self.unwanted + other.unwanted,
            self.without_target + other.without_target, self.refused + other.refused,
            other.problem or self.problem, targets,
        )


OnProgress = Callable[[RedriveReport], None]


@dataclass(frozen=True, slots=True)
class RedriveOptions:
    """As `Client.redrive` takes them."""

    subscription: str = REDRIVE
    to: str = ""
    max_messages: int = 0
    filter: str = ""
    tags: str = "*"
    patience_ms: int = 30_000

    def request(self, topic: str, max_messages: int, relay: bool) -> bytes:
        """As the wire has it."""
        return pb.RedriveRequest(
            topic=topic, subscription=self.subscription, to=self.to, filter=self.filter,
            tags=self.tags, max_messages=max_messages, patience_ms=self.patience_ms, relay=relay,
        ).SerializeToString()


async def redrive(
    connections: Connections, topics: list[str], options: RedriveOptions, told: OnProgress
) -> RedriveReport:
    """One topic, or the partitions of one, after the other; see `Client.redrive`."""
    if options.to and TopicName.parse(options.to).base == TopicName.parse(topics[0]).base:
        raise InvalidArgument(f"{options.to} is where the dead letters are; name another topic")
    if options.max_messages < 0 or options.patience_ms < 1:
        raise InvalidArgument("max_messages is 0 or more, patience_ms above 0")
    total = RedriveReport()
    for topic in topics:
        left = max(options.max_messages - total.moved, 0)
        if options.max_messages and not left:
            break
        total = await _one(connections, topic, options, left, total, told)
    return total


async def _one(
    connections: Connections, topic: str, options: RedriveOptions, max_messages: int,
    before: RedriveReport, told: OnProgress,
) -> RedriveReport:
    """Tries again as long as no broker has begun."""
    calls = OwnerCalls(connections, topic)
    attempts = connections.attempts_for()
    while True:
        run = _Run(before)
        try:
            return await run.follow(calls, options, max_messages, told)
        except RETRYABLE as error:
            if run.so_far is not before:
                raise ConnectionFailed(
                    f"{error}; at least {run.so_far.moved} messages were moved, redrive again to"
                    " go on"
                ) from error
            await attempts.failed(error)


class _Run:
    """One attempt at one topic; `so_far` is its report together with those before."""

    def __init__(self, before: RedriveReport) -> None:
        self._before = before
        self.so_far = before

    async def follow(
        self, calls: OwnerCalls, options: RedriveOptions, max_messages: int, told: OnProgress
    ) -> RedriveReport:
        """Until it is done; raises what the broker says, ConnectionFailed when it says nothing."""

        def request(relay: bool) -> bytes:
            return options.request(calls.topic, max_messages, relay)

        async with aclosing(calls.stream("Redrive", request)) as frames:
            async for frame in frames:
                reply = pb.RedriveReply.FromString(frame)
                if reply.HasField("error"):
                    raise to_exception(reply.error)
                self.so_far = self._before + RedriveReport(
                    reply.moved, reply.unwanted, reply.without_target, reply.refused,
                    reply.problem, dict(reply.targets))
                told(self.so_far)
                if reply.done:
                    return self.so_far
        raise ConnectionFailed(f"{calls.topic}: the broker ended the redrive")

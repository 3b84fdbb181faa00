"""Finds who serves a topic and has the work done there: here, or at another broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from broker.administration.limits import (
    EVERY_BROKER_S,
    OWNER_ATTEMPTS,
    OWNER_PAUSE_MAX_S,
    OWNER_PAUSE_S,
    PARTITIONS_AT_ONCE,
)
from broker.broker import Broker
from broker.conversation import NotServing
from magnetar.admin.topic_values import SpaceReport, TopicPage, TopicStats
from magnetar.errors import (
    ConnectionFailed,
    MagnetarError,
    NotOwner,
    OperationTimeout,
    ResourceExists,
    SubscriptionNotFound,
    TopicNotFound,
)
from magnetar.message_id import MessageId
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName
from metadata.brokers import BrokerRegistration
from tenants.topic_administration import (
    MessageOperations,
    ScheduleOperations,
    SubscriptionOperations,
)

Result = TypeVar("Result")


class OwnerTopicOperations(Protocol):
    """The part of `TopicOperations` that a topic's owner does."""

    async def stats(self, topic: str) -> TopicStats: ...

    async def terminate(self, topic: str) -> tuple[MessageId, ...]: ...

    async def truncate(self, topic: str) -> int: ...

    async def delete(self, topic: str, force: bool = False) -> None: ...

    async def why_space(self, topic: str) -> SpaceReport: ...

    async def list(
        self, namespace: str, pattern: str = "", *, page_size: int = 0, page: str = ""
    ) -> TopicPage:
        """Those that this broker has in memory only."""


class OwnerAdministration(Protocol):
    """The part of `TopicAdministration` that a topic's owner does, for one topic or partition by
    its full name. Raises NotOwner, having done nothing, when it is not the owner."""

    @property
    def topics(self) -> OwnerTopicOperations: ...

    @property
    def subscriptions(self) -> SubscriptionOperations: ...

    @property
    def messages(self) -> MessageOperations: ...

    @property
    def schedule(self) -> ScheduleOperations: ...


class OwnerUnreachable(ConnectionFailed):
    """No link to the owner came up, so it has certainly done nothing."""


UNDONE = (NotOwner, NotServing)
"""Of one topic or partition: nobody did anything, so that the client asks again by itself."""

Work = Callable[[OwnerAdministration, str], Awaitable[Result]]
"""Is given the owner and the topic's full name."""


class Routing:
    """`peer` is another broker's administration, by its address."""

    def __init__(
        self, broker: Broker, here: OwnerAdministration,
        peer: Callable[[str], OwnerAdministration], clock: Clock,
        partitions_of: Callable[[TopicName], Awaitable[int]],
    ) -> None:
        self._broker = broker
        self._here = here
        self._peer = peer
        self._clock = clock
        self._partitions_of = partitions_of

    async def names(self, topic: str) -> list[TopicName]:
        """The topic's partitions in order; itself alone when it has none, or is one. Raises
        TopicNotFound."""
        name = TopicName.parse(topic)
        if not name.persistent:
            return [name]
        partitions = await self._partitions_of(name.base)
        if name.partition >= 0:
            if name.partition >= partitions:
                raise TopicNotFound(
                    f"{name.base.full} has {partitions} partitions, so there is no {name.local}"
                )
            return [name]
        return [name.with_partition(number) for number in range(partitions)] or [name]

    async def at_owner(
        self, name: TopicName, work: Work[Result], *, make: bool = False
    ) -> Result:
        """Have the owner do it, whoever that turns out to be.

        Does it again only while it is certain that nobody has. Raises what the work raises,
        TopicNotFound (with `make` a partition comes into being instead), and ConnectionFailed
        when no owner is found."""
        failure: MagnetarError | None = None
        unreachable = ""
        pause_s = OWNER_PAUSE_S
        for _ in range(OWNER_ATTEMPTS):
            if failure is not None:
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, OWNER_PAUSE_MAX_S)
            found = await self._broker.lookup(name.full, unreachable, create=make)
            here = found.owner_address == str(self._broker.address)
            owner = self._here if here else self._peer(found.owner_address)
            try:
                return await work(owner, name.full)
            except OwnerUnreachable as error:
                failure, unreachable = error, found.owner_address
            except NotOwner as error:
                failure, unreachable = error, ""
        raise ConnectionFailed(f"no owner of {name.full} was found in time: {failure}")

    async def everywhere(self, topic: str, work: Work[Result]) -> list[Result]:
        """As `at_owner` for every partition, in their order; those never used come into being.
        All are tried; then the first error is raised."""
        names = await self.names(topic)
        results = await self._at_owners(
            names, lambda name: self.at_owner(name, work, make=name.partition >= 0)
        )
        return _all_done(results)

    async def where_missing(self, topic: str, work: Work[None]) -> None:
        """As `everywhere`, for what makes something: partitions that have it are passed over, so
        that a call that failed on its way can be made again. Raises ResourceExists when all have
        it."""
        results = await self._at_owners(
            await self.names(topic),
            lambda name: self.at_owner(name, work, make=name.partition >= 0),
        )
        made = [one for one in results if not isinstance(one, ResourceExists)]
        _all_done(made or results)

    async def where_used(
        self, topic: str, work: Work[Result], absent: Callable[[str], Result]
    ) -> list[Result]:
        """As `everywhere`, with `absent` in the place of partitions that were never used."""
        async def at(name: TopicName) -> Result:
            try:
                return await self.at_owner(name, work)
            except TopicNotFound:
                if name.partition < 0:
                    raise
                return absent(name.full)

        return _all_done(await self._at_owners(await self.names(topic), at))

    async def where_subscribed(self, topic: str, work: Work[Result]) -> list[Result]:
        """As `everywhere`, passing over partitions that do not have the subscription (yet).
        Raises SubscriptionNotFound when none has it."""
        results = await self._at_owners(
            await self.names(topic), lambda name: self.at_owner(name, work)
        )
        absent = (SubscriptionNotFound, TopicNotFound)
        there = [one for one in results if not isinstance(one, absent)]
        if not there:
            said = next((one for one in results if isinstance(one, SubscriptionNotFound)), None)
            raise said or SubscriptionNotFound(f"{topic} has no such subscription")
        return _all_done(there)

    async def at_every_broker(
        self, work: Callable[[OwnerAdministration], Awaitable[Result]]
    ) -> tuple[list[Result], tuple[str, ...]]:
        """What the brokers answer, and the ids of those that do not."""

        async def at(broker: BrokerRegistration) -> Result | None:
            mine = broker.broker_id == self._broker.settings.broker_id
            try:
                async with asyncio.timeout(EVERY_BROKER_S):
                    return await work(
                        self._here if mine else self._peer(str(broker.address)))
            except (ConnectionFailed, OperationTimeout, NotOwner, TimeoutError):
                return None

        brokers = self._broker.directory.all()
        answers = await asyncio.gather(*map(at, brokers))
        return [one for one in answers if one is not None], tuple(
            broker.broker_id for broker, answer in zip(brokers, answers, strict=True)
            if answer is None
        )

    async def _at_owners(
        self, names: Sequence[TopicName], at: Callable[[TopicName], Awaitable[Result]]
    ) -> list[Result | BaseException]:
        slots = asyncio.Semaphore(PARTITIONS_AT_ONCE)

        async def one(name: TopicName) -> Result:
            async with slots:
                return await at(name)

        return await asyncio.gather(*map(one, names), return_exceptions=True)


def _all_done(results: Sequence[Result | BaseException]) -> list[Result]:
    """The results, or the first error with how far it came, one that leaves open whether it was
    done before others. With something done none says that nothing was: clients would do it again.
    """
    failures = [one for one in results if isinstance(one, BaseException)]
    done = [one for one in results if not isinstance(one, BaseException)]
    if not failures:
        return done
    first = next((one for one in failures if not isinstance(one, UNDONE)), failures[0])
    if done and isinstance(first, MagnetarError) and len(first.args) == 1:
        told = _told(first, f" ({len(done)} of {len(results)} partitions were done)")
        raise ConnectionFailed(str(told)) if isinstance(told, UNDONE) else told
    raise first


def _told(error: MagnetarError, more: str) -> MagnetarError:
    """The same error with more to say; one that takes other arguments is left as it is."""
    try:
        return type(error)(f"{error}{more}")
    except TypeError:
        return error

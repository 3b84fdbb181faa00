"""Keeps a topic's backlog within its policy: producers wait, are refused, or the oldest goes.

The backlog is what lies between the slowest durable subscription and the end of the topic; of a
topic without any, and without a retention, everything. Its size is computed now and then; between
two times it is taken to have grown by all that was appended, which is a number kept anyway, so a
publish costs a comparison. Its age is looked at from time to time only, because it takes a read.

    within ──▶ over ── the policy ──▶ hold   streams of producers are not read
      ▲          │                    reject BacklogQuotaExceeded, nothing is stored
      └──────────┘ consumed, moved    evict  positions of subscriptions go forward
                   or raised
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from broker.subscription import Subscription
from broker.topic_log import TopicLog
from magnetar.errors import BacklogQuotaExceeded, MagnetarError
from magnetar.runtime.clock import Clock
from tenants.policies import UNLIMITED, BacklogQuotaPolicy, TopicPolicies

LOOK_SHARE = 20
"""A look at the backlog that took so long is not repeated within so many times its duration."""
LOOK_AGAIN_S = 0.05
"""Within this time after an acknowledgement it is seen that a backlog is within its quota."""
AGE_AGAIN_S = 0.5
"""Least time between two looks at the age of a backlog that is too old, since each takes a read."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BacklogStatus:
    """A topic's backlog and its quota; -1 as a limit: none. `oldest_ms` is the time of append of
    the oldest message not consumed by all, 0 while there is none or it is not known."""

    size_bytes: int
    limit_bytes: int
    oldest_ms: int
    limit_age_ms: int
    policy: BacklogQuotaPolicy
    slowest_subscription: str
    problem: str | None
    """What is too large, and what that does, in words; None while all is well."""
    evicted_messages: int
    """Dropped without having been consumed, since this broker has the topic."""


class QuotaHost(Protocol):
    """What the quota needs of its topic."""

    policies: TopicPolicies

    @property
    def name(self) -> str: ...

    def durable_subscriptions(self) -> Iterable[Subscription]: ...

    def release_producers(self) -> None:
        """Those held back may go on."""


class BacklogQuota:
    """Of one topic."""

    def __init__(self, host: QuotaHost, log: TopicLog, clock: Clock) -> None:
        self._host = host
        self._log = log
        self._clock = clock
        self._size_bytes = 0
        self._at_bytes = log.appended_bytes
        self._slowest: Subscription | None = None
        self._look_from_s = 0.0
        self._looking: asyncio.TimerHandle | None = None
        self._evicting: asyncio.Task[None] | None = None
        self._aging: asyncio.Task[None] | None = None
        self._oldest: tuple[int, int] | None = None
        self._over_age = False
        self._over_bytes = False
        self._closed = False
        self._told_over = False
        self._told_evicted = 0
        self._held = False
        self.evicted: dict[str, int] = {}
        """Messages dropped without having been consumed, by subscription."""
        self.evicted_below = 0
        """The first ordinal kept of a topic without subscriptions."""

    # --- what a publish asks

    def refusal(self) -> MagnetarError | None:
        """What the producer of a new batch is told; None: it is stored."""
        self._look_if_due()
        policy = self._host.policies.backlog_quota_policy
        if not self._over or policy is not BacklogQuotaPolicy.PRODUCER_REJECT:
            return None
        return BacklogQuotaExceeded(self._problem_text())

    @property
    def holds(self) -> bool:
        """Producers wait."""
        self._look_if_due()
        return self._held

    def _look_if_due(self) -> None:
        limit_bytes = self._host.policies.backlog_quota_bytes
        if limit_bytes != UNLIMITED and (self._estimate() > limit_bytes) != self._over_bytes:
            self._look()

    def _estimate(self) -> int:
        """Never less than the backlog, unless a subscription went back since the last look."""
        return self._size_bytes + self._log.appended_bytes - self._at_bytes

    @property
    def _over(self) -> bool:
        return self._over_bytes or self._over_age

    # --- what changes it

    def loaded(self) -> None:
        """The topic's state is there."""
        self._look()

    def moved(self, subscription: Subscription) -> None:
        """Something was acknowledged."""
        if self._over and (subscription is self._slowest or self._slowest is None):
            self.look_soon()

    def look_soon(self) -> None:
        """Policies or subscriptions changed."""
        if self._looking is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(LOOK_AGAIN_S, self._look_now)

    def _look_now(self) -> None:
        self._looking = None
        self._look_from_s = 0.0
        self._look()

    def close(self) -> None:
        """The topic ends here."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        for task in (self._evicting, self._aging):
            if task is not None:
                task.cancel()

    def _look(self) -> None:
        """Compute the backlog, unless that was done a moment ago and is costly."""
        started_s = self._clock.monotonic_s()
        if started_s < self._look_from_s or self._closed:
            return
        floor = self._floor()
        self._size_bytes = self._log.index.bytes_from(floor) + self._log.pending_bytes
        self._at_bytes = self._log.appended_bytes
        if self._oldest is not None and self._oldest[0] != floor:
            self._oldest = None  # another message is the oldest
        if self._host.policies.backlog_quota_age_ms == UNLIMITED or not self._size_bytes:
            self._over_age = False
        elif self._over_age and self._oldest is None and self._aging is None:
            # It may be too old as well: a consumer that is slow must not let producers go on.
            self._aging = asyncio.get_running_loop().create_task(self._look_at_age_again())
            self._aging.add_done_callback(self._aged)
        limit_bytes = self._host.policies.backlog_quota_bytes
        self._over_bytes = limit_bytes != UNLIMITED and self._size_bytes > limit_bytes
        self._apply()
        now_s = self._clock.monotonic_s()
        self._look_from_s = now_s + LOOK_SHARE * (now_s - started_s)

    def _floor(self) -> int:
        """The first ordinal of the backlog; the end, if nobody is to get anything."""
        slowest: Subscription | None = None
        for subscription in self._host.durable_subscriptions():
            if slowest is None or subscription.cursor.floor < slowest.cursor.floor:
                slowest = subscription
        self._slowest = slowest
        if slowest is not None:
            return slowest.cursor.floor
        if self._host.policies.retention_minutes:
            return self._log.end_ordinal  # what is kept is up to the retention
        return self.evicted_below

    def _apply(self) -> None:
        policy = self._host.policies.backlog_quota_policy
        held, self._held = self._held, self._over and policy is BacklogQuotaPolicy.PRODUCER_HOLD
        if self._over != self._told_over and policy is not BacklogQuotaPolicy.EVICT_OLDEST:
            self._told_over = self._over
            if self._over:
                _log.warning("%s", self._problem_text())
            else:
                _log.info("%s: the backlog is within its quota again", self._host.name)
        if held and not self._held:
            self._host.release_producers()
        if self._over and policy is BacklogQuotaPolicy.EVICT_OLDEST and self._evicting is None:
            self._evicting = asyncio.get_running_loop().create_task(self._evict())
            self._evicting.add_done_callback(self._evicted)

    # --- what takes time

    async def maintain(self) -> None:
        """Look at the age as well, and say what was dropped. Raises what reading raises."""
        self._tell_evicted()
        policies = self._host.policies
        if policies.backlog_quota_bytes != UNLIMITED:
            await self._know_ledgers()
        self._look_from_s = 0.0
        self._look()
        await self._look_at_age()

    async def _look_at_age(self) -> None:
        limit_ms = self._host.policies.backlog_quota_age_ms
        over_age = False
        if limit_ms != UNLIMITED and self._size_bytes:
            oldest_ms = await self._oldest_ms()
            over_age = bool(oldest_ms) and self._clock.wall_ms() - oldest_ms > limit_ms
        if over_age != self._over_age:
            self._over_age = over_age
            self._apply()

    async def _look_at_age_again(self) -> None:
        await self._look_at_age()
        await self._clock.sleep(AGE_AGAIN_S)

    def _aged(self, task: asyncio.Task[None]) -> None:
        self._aging = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.warning("%s: how old the backlog is, is not known: %s", self._host.name, error)
        elif self._over_age:
            self.look_soon()  # what was looked at may be consumed by now

    async def _know_ledgers(self) -> None:
        """Where each ledger begins; those of earlier owners may have to be looked at once."""
        while (unknown := self._log.index.unknown_first()) is not None:
            if await self._log.first_ordinal_of(unknown) is None:
                return

    def _tell_evicted(self) -> None:
        evicted = sum(self.evicted.values())
        if evicted > self._told_evicted:
            _log.warning(
                "%s: dropped the %d oldest messages, which were not consumed, because the backlog"
                " was above its quota", self._host.name, evicted - self._told_evicted,
            )
            self._told_evicted = evicted

    async def _oldest_ms(self) -> int:
        floor = self._floor()
        if self._oldest is None or self._oldest[0] != floor:
            found = await self._log.read(await self._log.before_ordinal(floor), 1, 1)
            if not found:
                return 0
            self._oldest = (floor, found[0].append_time_ms)
        return self._oldest[1]

    async def _evict(self) -> None:
        policies = self._host.policies
        if self._over_bytes:
            # Of a new owner: a ledger of which too little is known counts whole, and would go so.
            await self._know_ledgers()
            self._look_from_s = 0.0
            self._look()
        keep_from = 0
        if self._over_bytes and policies.backlog_quota_bytes != UNLIMITED:
            keep_from = self._log.index.ordinal_with_bytes(
                max(policies.backlog_quota_bytes - self._log.pending_bytes, 0)
            )
        if self._over_age and policies.backlog_quota_age_ms != UNLIMITED:
            oldest_ms = self._clock.wall_ms() - policies.backlog_quota_age_ms
            after = await self._log.before_time(oldest_ms)
            keep_from = max(keep_from, await self._log.ordinal_after(after))
        if self._host.policies is not policies:
            return  # they changed meanwhile: looked at anew
        subscriptions = list(self._host.durable_subscriptions())
        if not subscriptions:
            self.evicted_below = max(self.evicted_below, keep_from)
        for subscription in subscriptions:
            before = subscription.backlog_messages
            subscription.pass_trimmed(keep_from)
            evicted = before - subscription.backlog_messages
            if evicted:
                name = subscription.name
                self.evicted[name] = self.evicted.get(name, 0) + evicted
        self._over_age = False
        self._oldest = None

    def _evicted(self, task: asyncio.Task[None]) -> None:
        self._evicting = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.warning("%s: dropping the oldest messages is put off: %s", self._host.name, error)
        else:
            self.look_soon()

    # --- what is told

    def status(self) -> BacklogStatus:
        """As it is now."""
        policies = self._host.policies
        return BacklogStatus(
            self._log.index.bytes_from(self._floor()) + self._log.pending_bytes,
            policies.backlog_quota_bytes, 0 if self._oldest is None else self._oldest[1],
            policies.backlog_quota_age_ms, policies.backlog_quota_policy,
            "" if self._slowest is None else self._slowest.name,
            self._problem_text() if self._over else None, sum(self.evicted.values()),
        )

    def _problem_text(self) -> str:
        policies = self._host.policies
        parts = []
        if self._over_bytes:
            parts.append(
                f"{self._estimate()} bytes of backlog, {policies.backlog_quota_bytes} are allowed"
            )
        if self._over_age:
            parts.append(
                f"the oldest message waits for more than {policies.backlog_quota_age_ms} ms"
            )
        who = "no subscription takes them"
        if self._slowest is not None:
            who = f"subscription {self._slowest.name!r} is the slowest"
        advice = _ADVICE[policies.backlog_quota_policy]
        return f"{self._host.name}: {' and '.join(parts)}; {who}. {advice}"


_ADVICE = {
    BacklogQuotaPolicy.PRODUCER_HOLD:
        "Producers wait until messages are consumed or the quota is raised",
    BacklogQuotaPolicy.PRODUCER_REJECT:
        "Publish again once messages are consumed, or raise the quota",
    BacklogQuotaPolicy.EVICT_OLDEST: "The oldest messages are dropped",
}

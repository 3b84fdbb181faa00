"""Which of its limits a subscription has reached, and a word in the log when it reaches one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.subscription_stats import Block
from magnetar.runtime.clock import Clock

if TYPE_CHECKING:
    from broker.subscription import Subscription

BOUNDS = (
    Block.CONSUMER_BOUND, Block.SUBSCRIPTION_BOUND, Block.FLIGHT_BOUND, Block.LOOK_AHEAD_BOUND,
    Block.DEAD_LETTER_BOUND, Block.STATE_NOT_DURABLE, Block.TRACKING_BOUND,
    Block.REASONS_BOUND,
)
"""All that `bounds_met` may answer."""
NOTICE_PAUSE_S = 60.0
"""A bound that a subscription reaches again and again is logged at most so often."""

_log = logging.getLogger(__name__)


def bounds_met(subscription: Subscription) -> list[Block]:
    """Those reached now. The cost does not grow with the number of consumers or messages."""
    desk = subscription.dispatcher.desk
    met = desk.bounds_met()
    if desk.consumer_bound_met():
        met.append(Block.CONSUMER_BOUND)
    waits_for = subscription.limit_waited_for()
    if waits_for is not None:
        met.append(waits_for)
    if desk.lost_track:
        met.append(Block.TRACKING_BOUND)
    if subscription.counts.reasons_full:
        met.append(Block.REASONS_BOUND)
    return met


def text_of(subscription: Subscription, block: Block) -> str:
    """In words."""
    problem = subscription.state_problem if block is Block.STATE_NOT_DURABLE else None
    return block.value if problem is None else f"{block.value}: {problem}"


class BoundNotice:
    """Logs when a bound begins to hold a subscription back."""

    def __init__(self, subscription: Subscription, clock: Clock) -> None:
        self._subscription = subscription
        self._clock = clock
        self._met: list[Block] = []
        self._logged_s: dict[Block, float] = {}

    def look(self) -> None:
        """After a turn of dispatch."""
        was, self._met = self._met, bounds_met(self._subscription)
        for block in self._met:
            if block not in was:
                self._tell(block)

    def _tell(self, block: Block) -> None:
        now_s = self._clock.monotonic_s()
        logged_s = self._logged_s.get(block)
        if logged_s is None or now_s - logged_s >= NOTICE_PAUSE_S:
            self._logged_s[block] = now_s
            _log.warning(
                "%s, subscription %s: %s", self._subscription.topic_name,
                self._subscription.name, text_of(self._subscription, block),
            )

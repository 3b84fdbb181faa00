"""Where the messages of one key may go: its phases, and what leads from one to the next."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, auto


class Phase(IntEnum):
    """Of a key."""

    IDLE = auto()
    """No consumer has messages of it: the next goes to whoever owns its slot."""
    FLOWING = auto()
    """The owner has some, unacknowledged, and gets the next ones too, behind them."""
    DRAINING = auto()
    """One that is not the owner has some: the next ones wait until all of them are settled."""


class Step(IntEnum):
    """What happens to a key."""

    SENT_TO_OWNER = auto()
    SENT_TO_ANOTHER = auto()
    """To one that does not own it, because the owner takes nothing and nothing else moves."""
    LAST_SETTLED = auto()
    """No consumer has messages of it any more: acknowledged, or taken back."""
    MOVED_AWAY = auto()
    """The consumer that has messages of it no longer owns it."""
    MOVED_BACK = auto()
    """The consumer that has messages of it owns it again."""


TRANSITIONS: Mapping[tuple[Phase, Step], Phase] = {
    (Phase.IDLE, Step.SENT_TO_OWNER): Phase.FLOWING,
    (Phase.IDLE, Step.SENT_TO_ANOTHER): Phase.DRAINING,
    (Phase.FLOWING, Step.SENT_TO_OWNER): Phase.FLOWING,
    (Phase.FLOWING, Step.LAST_SETTLED): Phase.IDLE,
    (Phase.FLOWING, Step.MOVED_AWAY): Phase.DRAINING,
    (Phase.DRAINING, Step.LAST_SETTLED): Phase.IDLE,
    (Phase.DRAINING, Step.MOVED_BACK): Phase.FLOWING,
}
"""What is not here cannot happen, and raises KeyError if it does."""

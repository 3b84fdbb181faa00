"""What is given back, on its way to the broker: at once, for it is the broker that waits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from magnetar.acknowledgements import POSITIONS_A_REQUEST, position_of
from magnetar.receive_queue import Position
from magnetar.wire import broker_pb2 as pb

REASONS_A_REQUEST = 1000
KEPT_ENTRIES = 10_000
"""Entries given back while there was no link; beyond it the oldest come again without delay."""

_log = logging.getLogger(__name__)


class Terms(NamedTuple):
    """How messages are given back."""

    delay_ms: int = 0
    reason: str = ""
    uncounted: bool = False


UNTRIED = Terms(uncounted=True)


class NegativeAcknowledger:
    """Collects for one consumer of a topic.

    What could not be sent when the link was lost is kept: the next link brings those messages
    again, and then they are given back on the same terms instead of being handed out.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._groups: dict[Terms, dict[Position, int | None]] = {}
        self._kept: dict[Position, list[tuple[Terms, int | None]]] = {}

    def add(self, position: Position, bits: int | None, terms: Terms) -> None:
        """Give back messages of one entry; None: all of it."""
        group = self._groups.setdefault(terms, {})
        before = group.get(position, 0)
        group[position] = None if bits is None or before is None else before | bits

    def fill(self, request: pb.ConsumeRequest, request_id: int) -> None:
        """Put as much into a frame as one may hold; there is something. The answer to
        `request_id` tells that the broker knows all of it."""
        room = POSITIONS_A_REQUEST
        for terms in list(islice(self._groups, REASONS_A_REQUEST)):
            group = self._groups[terms]
            negative = request.negative.add(
                delay_ms=terms.delay_ms, reason=terms.reason, uncounted=terms.uncounted)
            for position in list(islice(group, room)):
                negative.positions.append(position_of(position, group.pop(position)))
            room -= len(negative.positions)
            if not group:
                del self._groups[terms]
            if not room:
                break
        request.negative[-1].request_id = request_id

    @property
    def sendable(self) -> bool:
        return bool(self._groups)

    def link_lost(self) -> None:
        """Keep what was not sent; what was, the next link brings again without more ado."""
        groups, self._groups = self._groups, {}
        dropped = 0
        for terms, group in groups.items():
            if terms.uncounted:
                continue
            for position, bits in group.items():
                if len(self._kept) >= KEPT_ENTRIES and position not in self._kept:
                    del self._kept[next(iter(self._kept))]
                    dropped += 1
                self._kept.setdefault(position, []).append((terms, bits))
        if dropped:
            _log.warning(
                "a consumer of %s gave back messages of more than %d entries while it had no link:"
                " those of the first %d come again at once, without their delay and reason",
                self._topic, KEPT_ENTRIES, dropped,
            )

    @property
    def keeps(self) -> bool:
        """Whether `take_kept` may find something."""
        return bool(self._kept)

    def take_kept(self, position: Position, bits: int) -> Iterator[tuple[Terms, int]]:
        """Of these messages, which come on a new link, those that had been given back."""
        for terms, kept in self._kept.pop(position, ()):
            found = bits if kept is None else bits & kept
            if found:
                yield terms, found

    def forget(self) -> None:
        """A seek happened, or the end: nothing is given back any more."""
        self._groups.clear()
        self._kept.clear()

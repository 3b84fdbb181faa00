"""I16 to I18 where they can be judged exactly: at the broker that serves the subscription.

Every delivery, acknowledgement and return passes here in the order in which the broker sees it.
A message is with a consumer from its delivery until it is acknowledged, given back, or the
session ends. In a failover subscription one consumer has messages at a time, of whatever key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from broker.consumer_session import ConsumerSession, OnDone
from broker.conversation import Delivery, MessagePosition
from broker.state_records import SubscriptionKind
from magnetar.entry import EntryView, indexes_of, parse_prefix
from magnetar.errors import MagnetarError

ONE_KEY = "all messages"
MOST_VIOLATIONS = 20

Spot = tuple[int, int, int]
"""Ledger, entry and index of a message."""


class Delivered(NamedTuple):
    """One message of a delivery."""

    spot: Spot
    key: str | None
    name: tuple[str, int]
    """Its producer and number."""


def messages_in(delivery: Delivery) -> Iterator[Delivered]:
    """What of an entry is meant."""
    _, batch = parse_prefix(delivery.entry)
    view = EntryView(batch)
    keys = view.keys()
    picked = int.from_bytes(delivery.picked, "little")
    indexes: Sequence[int] = indexes_of(picked) if picked else range(view.count)
    skip = int.from_bytes(delivery.skip, "little")
    for at, index in enumerate(indexes):
        if skip >> index & 1:
            continue
        producer, number, _ = bytes(view.payload(at)).decode().split("/", 2)
        yield Delivered(
            (delivery.ledger_id, delivery.entry_id, index), None if keys is None else keys[at],
            (producer, int(number)),
        )


class OwnerView:
    """What one owner did with the subscription, from its load to its end."""

    def __init__(self, owner: str, epoch: int, kind: SubscriptionKind) -> None:
        self.owner = owner
        self.epoch = epoch
        self.kind = kind
        self.holders: dict[Spot, ConsumerSession] = {}
        self.keys: dict[str, dict[Spot, None]] = {}
        self.seen: dict[Spot, str] = {}
        self.highest: dict[str, Spot] = {}
        self.asked: set[Spot] = set()
        self.durable: set[Spot] = set()


class KeyedWatch:
    """Over all owners of one topic's subscription."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.passed_on = 0
        """Times that a key came to another consumer than the one before."""
        self.handovers: dict[str, str] = {}
        self._serving_epoch = 0
        """The newest owner that has delivered anything: by then all before it are fenced."""
        self._views: dict[object, OwnerView] = {}
        self._delayed: set[Spot] = set()
        """Later ones of their keys may pass them, also at the next owner, unless keys hold."""

    def _view(self, session: ConsumerSession) -> OwnerView:
        subscription = session._subscription
        view = self._views.get(subscription)
        if view is None:
            view = self._views[subscription] = OwnerView(
                f"owner of epoch {subscription._log._epoch}", subscription._log._epoch,
                subscription.kind)
        view.kind = subscription.kind
        return view

    # --- what the broker sees, in its order

    def delivered(self, session: ConsumerSession, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.delivered_messages(session, messages_in(delivery))

    def delivered_messages(
        self, session: ConsumerSession, found: Iterable[Delivered]
    ) -> None:
        """As `delivered`."""
        view = self._view(session)
        self._serving_epoch = max(self._serving_epoch, view.epoch)
        for message in found:
            self._delivered(view, session, message)

    def acknowledged(
        self, session: ConsumerSession, positions: Sequence[MessagePosition], on_done: OnDone
    ) -> OnDone:
        """To be called before the broker is; answers what it is to call when done."""
        view = self._view(session)
        spots = [(p.ledger_id, p.entry_id, p.batch_index) for p in positions]
        for spot in spots:
            self._free(view, spot)
        fenced = view.epoch < self._serving_epoch and not view.asked.issuperset(spots)
        view.asked.update(spots)

        def done(error: MagnetarError | None) -> None:
            if error is None:
                if fenced:
                    self._tell(f"I17 {spots} were acknowledged durably at {view.owner} after"
                               f" owner {self._serving_epoch} had begun to deliver")
                view.durable.update(spots)
            on_done(error)

        return done

    def returned(
        self, session: ConsumerSession, positions: Sequence[MessagePosition], delay_ms: int = 0
    ) -> None:
        """To be called before the broker is."""
        view = self._view(session)
        for position in positions:
            spot = (position.ledger_id, position.entry_id, position.batch_index)
            if delay_ms:
                self._delayed.add(spot)
            if view.holders.get(spot) is session:
                self._free(view, spot)

    # --- inside

    def _delivered(
        self, view: OwnerView, session: ConsumerSession, message: Delivered
    ) -> None:
        spot, number = message.spot, "I17" if view.kind is SubscriptionKind.FAILOVER else "I18"
        key = message.key
        if spot in view.durable:
            self._tell(f"I16 {message.name} at {spot} was acknowledged durably at {view.owner}"
                       " and delivered again there")
        if view.kind is SubscriptionKind.SHARED or key is None:
            return
        together = ONE_KEY if view.kind is SubscriptionKind.FAILOVER else key
        holder = self._other_holder(view, together, session)
        if holder is not None:
            self._tell(f"{number} {message.name} of {together} at {spot} goes to {session.name}"
                       f" while {holder.name} has messages of it ({view.owner})")
        if spot not in view.seen:
            passed = spot in self._delayed and not session._subscription.dispatcher.mode.hold
            if spot < view.highest.get(key, spot) and not passed:
                self._tell(f"{number} {message.name} of {key} at {spot} comes for the first time"
                           f" after {view.highest[key]} ({view.owner})")
            view.seen[spot] = together
            view.highest[key] = max(spot, view.highest.get(key, spot))
        if self.handovers.get(key, session.name) != session.name:
            self.passed_on += 1
        self.handovers[key] = session.name
        view.holders[spot] = session
        view.keys.setdefault(together, {})[spot] = None

    def _other_holder(
        self, view: OwnerView, key: str, session: ConsumerSession
    ) -> ConsumerSession | None:
        """Who else has messages of the key; those of sessions that ended are nobody's."""
        for spot in list(view.keys.get(key, ())):
            holder = view.holders[spot]
            if holder.closed:
                self._free(view, spot)
            elif holder is not session:
                return holder
        return None

    def _free(self, view: OwnerView, spot: Spot) -> None:
        view.holders.pop(spot, None)
        view.keys.get(view.seen.get(spot, ""), {}).pop(spot, None)

    def _tell(self, violation: str) -> None:
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(violation)

"""A turn of dispatch where keys have an order: message by message, handed out by the entry."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker.consumer_session import ConsumerSession
from broker.cursor import full_mask, lowest_bits
from broker.dispatch.desk import Desk, Piece
from broker.dispatch.returns import Order, Returns, keyed_of
from broker.dispatch.waiting import Wait, WaitingEntry
from broker.redelivery import NEVER_FAILED, History
from broker.stored_entry import StoredEntry
from magnetar.errors import InvalidFrame

Keys = Sequence[str | None]


class Unsorted(NamedTuple):
    """What is left of an entry of which only so much might be delivered."""

    entry: StoredEntry
    mask: int


class OrderedTurn:
    """First what waits and may go, then what has no key, then the log: messages that cannot go
    are set aside, up to `look_ahead_messages`, and those of other keys pass them.

    `later` wakes the dispatcher in so many seconds: an owner that takes nothing, while nothing
    is out at all, keeps its keys for `idle_owner_s`; then others get their messages.
    """

    def __init__(
        self, desk: Desk, returns: Returns, order: Order, later: Callable[[float], None]
    ) -> None:
        self._desk = desk
        self._returns = returns
        self._order = order
        self._later = later
        self._unsorted: Unsorted | None = None
        self._look_again = False
        self._stalled_since_s: float | None = None

    def clear(self) -> None:
        """Begin anew."""
        self._unsorted = None
        self._stalled_since_s = None

    @property
    def at_rest(self) -> bool:
        """Nothing was read and not sorted."""
        return self._unsorted is None

    def run(self, now_s: float) -> None:
        """Until the budget is spent, nobody takes more, or there is nothing more."""
        desk = self._desk
        if desk.spare:
            self._sort_spare()
        self._serve_waiting()
        while desk.budget > 0:
            pieces = desk.source()
            if pieces is not None:
                if not desk.serve(pieces):
                    break
            elif desk.reading or not self._read():
                break
            elif self._look_again:
                self._look_again = False
                self._serve_waiting()
        if self._order.sticky:
            self._look_for_idle_owners(now_s)

    # --- what waits

    def _serve_waiting(self) -> None:
        desk, order = self._desk, self._order
        for owner in order.owners_waited_for():
            if owner is not None:
                self._serve_owner(owner)
                continue
            while desk.budget > 0 and order.first(None) is not None:
                consumer = desk.choice.first(desk.able)
                if consumer is None or not self._serve_entry(None, consumer):
                    return
                desk.choice.served(consumer)

    def _serve_owner(self, owner: ConsumerSession) -> None:
        """Hand a consumer what waits for it, as far as it takes it."""
        while self._desk.budget > 0 and self._serve_entry(owner, owner):
            pass

    def _serve_entry(self, owner: ConsumerSession | None, consumer: ConsumerSession) -> bool:
        """Hand out a run of messages of one entry that have one history; False when nothing goes
        now."""
        desk, order = self._desk, self._order
        state = order.first(owner)
        room = desk.room(consumer) if state is not None else 0
        if state is None or room <= 0:
            return False
        entry = state.waiting[0][2]
        body = desk.bodies.get(entry.key)
        if body is None:
            return False
        run, withdrawn, history = 0, False, (-1, "", False)
        while state is not None and run.bit_count() < room:
            ordinal, fresh, holder = state.waiting[0]
            bit = 1 << (ordinal - holder.first_ordinal)
            if holder is not entry:
                break
            part = desk.waiting.part_of(entry, bit)
            assert part is not None, "what waits in the order of keys waits here as well"
            if run and (part.redelivered, part.reason, fresh) != history:
                break
            if fresh and desk.fresh_room() <= run.bit_count():
                break
            if desk.deliverable(body, bit):
                history = (part.redelivered, part.reason, fresh)
                order.send(state, consumer)
                desk.waiting.take(entry, part, bit)
                run |= bit
            else:
                self._returns.withdraw(entry.key, bit)
                withdrawn = True
            state = order.first(owner)
        if run:
            desk.hand_out(consumer, body, run, history[0], history[1], entry.keys)
        if entry.key not in desk.waiting:
            desk.bodies.drop(entry.key)
        return run > 0 or withdrawn

    def _look_for_idle_owners(self, now_s: float) -> None:
        """Nothing is out, somebody takes messages, and they wait for those who take none."""
        desk, order = self._desk, self._order
        if desk.flights.messages or order.first_of_all() is None:
            self._stalled_since_s = None
            return
        consumer = desk.choice.first(desk.able)
        if consumer is None:
            return
        if self._stalled_since_s is None:
            self._stalled_since_s = now_s
        left_s = self._stalled_since_s + desk.limits.idle_owner_s - now_s
        if left_s > 0:
            self._later(left_s)
            return
        while (
            desk.budget > 0 and desk.room(consumer) > 0
            and (state := order.first_of_all()) is not None
        ):
            ordinal, fresh, entry = state.waiting[0]
            body = desk.bodies.get(entry.key)
            if body is None or (fresh and desk.fresh_room() <= 0):
                break
            bit = 1 << (ordinal - entry.first_ordinal)
            part = desk.waiting.part_of(entry, bit)
            assert part is not None, "what waits in the order of keys waits here as well"
            if not desk.deliverable(body, bit):
                self._returns.withdraw(entry.key, bit)
                continue
            order.send(state, consumer)
            desk.waiting.take(entry, part, bit)
            desk.hand_out(consumer, body, bit, part.redelivered, part.reason, entry.keys)

    # --- the log

    def _read(self) -> bool:
        """Sort the log's next messages; False when there are none, or not for anybody."""
        desk = self._desk
        if desk.choice.first(desk.able) is None:
            return False
        if desk.at_look_ahead_bound():
            return False
        room = desk.fresh_room()
        if room <= 0:
            return False
        unsorted, self._unsorted = self._unsorted, None
        if unsorted is not None:
            entry, mask = unsorted
        else:
            read = desk.reader.next()
            if read is None:
                return False
            entry, mask = read, full_mask(read.count)
        mask = desk.deliverable(entry, mask)
        if mask.bit_count() > room:
            now = lowest_bits(mask, room)
            self._unsorted = Unsorted(entry, mask ^ now)
            mask = now
        if mask:
            self._sort(entry, mask)
        return True

    def _sort(self, entry: StoredEntry, mask: int) -> None:
        desk, order = self._desk, self._order
        first, keys = entry.first_ordinal, self._keys_of(entry)
        parts = desk.host.counts.split(first, mask)
        if len(parts) > 1 or parts[0][1] is not NEVER_FAILED:
            pieces = [self._sort_redelivered(entry, keys, *part) for part in parts]
            desk.spare.extend(desk.in_turn([piece for piece in pieces if piece is not None]))
            return
        if keys is None:
            desk.spare.append(Piece(entry, mask, 0, "", None, True))
            return
        found = order.sort(keys, mask, desk.room)
        for consumer, part in found.sent.items():
            desk.hand_out(consumer, entry, part, 0, "", keys)
        if found.anybody:
            desk.spare.append(Piece(entry, found.anybody, 0, "", keys, True))
        if found.aside:
            self._set_aside(entry, keys, found.aside, NEVER_FAILED)

    def _keys_of(self, entry: StoredEntry) -> Keys | None:
        """The key of each message; None when none has one, or when they cannot be read: then
        whoever receives the entry is told."""
        try:
            return self._desk.opened.view(entry).keys()
        except InvalidFrame:
            return None

    def _sort_redelivered(
        self, entry: StoredEntry, keys: Keys | None, mask: int, history: History
    ) -> Piece | None:
        """Messages that failed before, at an earlier owner of the topic or in another mode;
        answers those that may go to anybody."""
        if self._returns.kept_back(entry, mask, keys, history):
            return None
        keyed = keyed_of(keys, mask) if keys is not None else 0
        if keyed and keys is not None:
            self._set_aside(entry, keys, keyed, history)
            self._look_again = True
        if mask == keyed:
            return None
        return Piece(entry, mask & ~keyed, history.count, history.reason, keys, True)

    def _set_aside(self, entry: StoredEntry, keys: Keys, mask: int, history: History) -> None:
        desk, key = self._desk, (entry.ledger_id, entry.entry_id)
        holder: WaitingEntry = desk.waiting.entry(key, entry.first_ordinal, entry.count, keys)
        again = history.count > 0 or history.holds
        desk.waiting.add(
            holder, mask, history.count, history.reason, Wait.TURN if again else Wait.PATH,
            ordered=True)
        if history.holds:
            self._order.kept(entry.first_ordinal, keys, mask, holder, failed=True, now=True)
        else:
            self._order.set_aside(entry.first_ordinal, keys, mask, holder, fresh=not again)
        desk.bodies.keep(entry)

    def _sort_spare(self) -> None:
        """What was for anybody may be of a key that has failed since."""
        if self._order.sticky or not len(self._order):
            return
        desk = self._desk
        pieces, desk.spare = desk.spare, deque()
        for piece in pieces:
            if piece.keys is None:
                desk.spare.append(piece)
                continue
            entry = piece.entry
            found = self._order.sort(piece.keys, piece.mask, desk.room)
            if found.anybody:
                desk.spare.append(piece._replace(mask=found.anybody))
            if found.aside:
                self._set_aside(
                    entry, piece.keys, found.aside, History(piece.redelivered, reason=piece.reason))

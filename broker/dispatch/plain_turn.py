"""A turn of dispatch where keys have no order: whole entries, to whoever's turn it is."""

from __future__ import annotations

from broker.cursor import full_mask, lowest_bits
from broker.dispatch.desk import Desk, Piece
from broker.dispatch.returns import Returns
from broker.stored_entry import StoredEntry


class PlainTurn:
    """Redelivered messages first, in the order of the log; then the log itself."""

    def __init__(self, desk: Desk, returns: Returns) -> None:
        self._desk = desk
        self._returns = returns

    def run(self) -> None:
        """Until the budget is spent, nobody takes more, or there is nothing more."""
        desk = self._desk
        while desk.budget > 0:
            pieces = desk.source()
            if pieces is not None:
                if not desk.serve(pieces):
                    return
            elif desk.reading or not self._serve_fresh():
                return

    def _serve_fresh(self) -> bool:
        """Hand out the log's next messages; False when there are none, or not for anybody."""
        desk = self._desk
        consumer = desk.choice.first(desk.able)
        room = desk.fresh_room() if consumer is not None else 0
        if consumer is None or room <= 0:
            return False
        entry = desk.reader.next()
        if entry is None:
            return False
        mask = desk.deliverable(entry, full_mask(entry.count))
        if entry.first_ordinal in desk.host.counts:
            self._sort_redelivered(entry, mask)
        elif mask:
            room = min(room, desk.room_found)
            if mask.bit_count() > room:
                now = lowest_bits(mask, room)
                desk.spare.append(Piece(entry, mask ^ now, 0, "", None, True))
                mask = now
            desk.hand_out(consumer, entry, mask, 0, "", None)
            desk.choice.served(consumer)
        return True

    def _sort_redelivered(self, entry: StoredEntry, mask: int) -> None:
        """Messages some of which failed before, at an earlier owner of the topic."""
        desk, found = self._desk, []
        for part, history in desk.host.counts.split(entry.first_ordinal, mask) if mask else ():
            if not self._returns.kept_back(entry, part, None, history):
                found.append(Piece(entry, part, history.count, history.reason, None, True))
        desk.spare.extend(desk.in_turn(found))

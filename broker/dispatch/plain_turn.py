"""A turn of dispatch where keys have no order: whole entries, to whoever's turn it is."""

from __future__ import annotations

from broker.cursor import full_mask
from broker.dispatch.desk import Desk, Piece
from broker.dispatch.returns import Returns


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
            if pieces is None:
                if desk.waiting.first_in_turn() is not None or not self._read():
                    return
                pieces = desk.spare
            if pieces and not desk.serve(pieces):
                return

    def _read(self) -> bool:
        """Put the log's next messages into the spare; False when there are none, or not for
        anybody."""
        desk = self._desk
        if desk.choice.first(desk.able) is None or desk.fresh_room() <= 0:
            return False
        counts, most = desk.host.counts, desk.host.max_deliveries
        while desk.budget > 0 and (entry := desk.reader.next()) is not None:
            mask = desk.deliverable(entry, full_mask(entry.count))
            if not mask:
                continue
            for part, redelivered in counts.split(entry.first_ordinal, mask):
                if 0 < most <= redelivered:
                    self._returns.given_up(entry, part, None, redelivered)
                else:
                    desk.spare.append(Piece(entry, part, redelivered, "", None, True))
            return True
        return False

"""An entry that the broker cut for a filter, read by the batch indexes of the one it cut."""

from __future__ import annotations

from magnetar.entry import EntryView, Flag, indexes_of
from magnetar.entry.header import Buffer
from magnetar.errors import InvalidFrame


class PickedView(EntryView):
    """Messages keep the index that is in their ids, so nothing outside knows of the cut."""

    __slots__ = ("_places", "indexes")
    picked = True

    def __init__(self, buffer: Buffer, picked: bytes) -> None:
        super().__init__(buffer)
        self.indexes = indexes_of(int.from_bytes(picked, "little"))
        """Those there are, growing."""
        if len(self.indexes) != self.header.count:
            raise InvalidFrame(
                f"{self.header.count} messages under {len(self.indexes)} batch indexes")
        self._places = {index: place for place, index in enumerate(self.indexes)}

    def payload(self, index: int) -> bytes:
        """The message's bytes as its producer gave them."""
        return super().payload(self._places[index])

    def sequence_id(self, index: int) -> int:
        return super().sequence_id(self._places[index])

    def checksum(self, index: int) -> int | None:
        """CRC32C of the message's bytes; None when the producer gave none."""
        return super().checksum(self._places[index])

    def properties(self, index: int) -> dict[str, str]:
        """The message's properties, a new dict."""
        return super().properties(self._places[index])

    def _place(self, index: int) -> int:
        return self._places[index]

    def _number_or_zero(self, flag: Flag, index: int) -> int:
        return super()._number_or_zero(flag, self._places[index])

    def _text(self, flag: Flag, index: int) -> str | None:
        return super()._text(flag, self._places[index])

"""How many bytes of which ledger lie in which file of the log: what still lives, in memory."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping

from bookie.record import FileId
from magnetar.ids import LedgerId

_NOTHING: Mapping[LedgerId, int] = {}


class Usage:
    """Sums by file and altogether are kept, so that asking costs nothing."""

    def __init__(self) -> None:
        self._files: dict[FileId, dict[LedgerId, int]] = {}
        self._file_bytes: dict[FileId, int] = {}
        self._ledgers: dict[LedgerId, list[FileId]] = {}
        self.total_bytes = 0
        """Of all ledgers that are not deleted."""

    def set(self, file_id: FileId, ledger_id: LedgerId, size_bytes: int) -> None:
        """So many bytes of the ledger lie in the file."""
        ledgers = self._files.setdefault(file_id, {})
        before = ledgers.get(ledger_id)
        if before is None:
            self._ledgers.setdefault(ledger_id, []).append(file_id)
            before = 0
        ledgers[ledger_id] = size_bytes
        self._grow(file_id, size_bytes - before)

    def get(self, file_id: FileId, ledger_id: LedgerId) -> int:
        """Bytes of the ledger in the file."""
        return self._files.get(file_id, _NOTHING).get(ledger_id, 0)

    def in_file(self, file_id: FileId) -> Mapping[LedgerId, int]:
        """Bytes in the file by ledger."""
        return self._files.get(file_id, _NOTHING)

    def file_bytes(self, file_id: FileId) -> int:
        """Bytes in the file, of all ledgers."""
        return self._file_bytes.get(file_id, 0)

    def ledgers(self) -> KeysView[LedgerId]:
        """Those with bytes anywhere."""
        return self._ledgers.keys()

    def files_of(self, ledger_id: LedgerId) -> Iterable[FileId]:
        """Where bytes of the ledger lie."""
        return tuple(self._ledgers.get(ledger_id, ()))

    def drop_ledger(self, ledger_id: LedgerId) -> None:
        """It is deleted."""
        for file_id in self._ledgers.pop(ledger_id, ()):
            self._grow(file_id, -self._files[file_id].pop(ledger_id))

    def drop_file(self, file_id: FileId) -> None:
        """It is gone, or about to be."""
        for ledger_id in self._files.pop(file_id, _NOTHING):
            files = self._ledgers[ledger_id]
            files.remove(file_id)
            if not files:
                del self._ledgers[ledger_id]
        self.total_bytes -= self._file_bytes.pop(file_id, 0)

    def _grow(self, file_id: FileId, size_bytes: int) -> None:
        self._file_bytes[file_id] = self._file_bytes.get(file_id, 0) + size_bytes
        self.total_bytes += size_bytes

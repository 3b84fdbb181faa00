"""One value a (ledger, entry), whoever stores or reads it, at any time (I3)."""

from __future__ import annotations

import zlib


class Values:
    """Remembers a checksum of the first body seen for each entry."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[int, str]] = {}
        self.violations: list[str] = []

    def check(self, who: str, ledger_id: int, entry_id: int, body: bytes) -> None:
        checksum = zlib.crc32(body)
        known = self._seen.setdefault((ledger_id, entry_id), (checksum, who))
        if known[0] != checksum:
            self.violations.append(
                f"I3 two values of {ledger_id}:{entry_id}: from {known[1]} and from {who}"
            )

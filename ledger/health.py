"""What this process found out about bookies by using them."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.limits import LedgerLimits
from ledger.placement import Candidate
from magnetar.ids import BookieId
from magnetar.runtime.clock import Clock
from metadata.bookies import BookieDirectory


@dataclass(slots=True)
class _Failure:
    incarnation: str
    until_s: float
    pause_s: float


class BookieHealth:
    """Keeps failed bookies out of new ensembles for a growing while, or until they restart."""

    def __init__(self, directory: BookieDirectory, clock: Clock, limits: LedgerLimits) -> None:
        self._directory = directory
        self._clock = clock
        self._limits = limits
        self._failures: dict[BookieId, _Failure] = {}
        self._suspects: dict[BookieId, float] = {}

    def failed(self, bookie: BookieId) -> None:
        """It failed an add; several at once count once."""
        now = self._clock.monotonic_s()
        known = self._failures.get(bookie)
        limits = self._limits
        pause_s = limits.quarantine_min_s
        incarnation = self._incarnation(bookie)
        if known is not None and known.incarnation == incarnation:
            if now < known.until_s:
                return
            if now < known.until_s + limits.quarantine_max_s:
                pause_s = min(known.pause_s * 2, limits.quarantine_max_s)
        self._failures[bookie] = _Failure(incarnation, now + pause_s, pause_s)

    def suspect(self, bookie: BookieId) -> None:
        """It gave no certain answer to a read; it is asked last for a while."""
        self._suspects[bookie] = self._clock.monotonic_s() + self._limits.quarantine_min_s

    def suspects(self) -> list[BookieId]:
        """Bookies to ask last."""
        if not self._suspects:
            return []
        now = self._clock.monotonic_s()
        self._suspects = {
            bookie: until_s for bookie, until_s in self._suspects.items() if now < until_s
        }
        return [*self._suspects]

    def writable(self) -> list[Candidate]:
        """All bookies announced as writable, those that failed lately last."""
        good, failed = self._split()
        return good + failed

    def usable(self) -> list[Candidate]:
        """Writable bookies that did not fail lately."""
        return self._split()[0]

    def _split(self) -> tuple[list[Candidate], list[Candidate]]:
        now = self._clock.monotonic_s()
        good: list[Candidate] = []
        failed: list[Candidate] = []
        for bookie in self._directory.writable():
            failure = self._failures.get(bookie.bookie_id)
            out = (
                failure is not None and now < failure.until_s
                and failure.incarnation == bookie.incarnation
            )
            (failed if out else good).append(Candidate(bookie.bookie_id, bookie.rack))
        return good, failed

    def next_release_s(self) -> float | None:
        """Seconds until the first quarantined bookie may be tried again; None without any."""
        now = self._clock.monotonic_s()
        waits = [one.until_s - now for one in self._failures.values() if one.until_s > now]
        return min(waits) if waits else None

    def _incarnation(self, bookie: BookieId) -> str:
        for registration in self._directory.all():
            if registration.bookie_id == bookie:
                return registration.incarnation
        return ""

"""The named limits of the ledger room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """How far things may go before the protocol acts."""

    slow_bookie_bytes: int = 64 << 20
    """A bookie that lacks more than this of what is confirmed counts as failed."""

    quarantine_min_s: float = 1.0
    """A bookie that failed is not chosen again for so long; doubles with each failure in a row."""

    quarantine_max_s: float = 60.0

    overload_pause_min_s: float = 0.02
    """Pause before what a bookie had no room for is sent again; doubles while it is refused."""

    overload_pause_max_s: float = 0.5

    overload_patience_s: float = 10.0
    """A bookie that has no room for one add for so long counts as failed."""

    metadata_retry_min_s: float = 0.05
    """Pause before metadata that did not answer is asked again; doubles."""

    metadata_retry_max_s: float = 2.0

    recovery_attempts: int = 4
    """Attempts of one `recover` call before RecoveryAborted."""

    recovery_retry_s: float = 0.2
    """Pause between them, times a random factor up to 2 and the number of the attempt."""

    bookies_retry_s: float = 1.0
    """Pause before a ledger that found too few bookies is tried again unasked."""

    max_fragments: int = 200
    """A ledger cut into more fragments is ended, so that its record stays small."""

    max_pending_bytes: int = 64 << 20
    """Bytes of one log that wait for their ack quorum before `has_room` says no."""

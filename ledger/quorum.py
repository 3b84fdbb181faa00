"""How many copies, and how many of them must answer."""

from __future__ import annotations

from dataclasses import dataclass

from magnetar.errors import InvalidArgument, NotEnoughBookies


@dataclass(frozen=True, slots=True)
class Quorums:
    """Bookies a ledger is striped over, copies of each entry, and acks that make it stored (R1)."""

    ensemble_size: int = 3
    write_quorum: int = 3
    ack_quorum: int = 2

    def __post_init__(self) -> None:
        if not self.ensemble_size >= self.write_quorum >= self.ack_quorum >= 1:
            raise InvalidArgument(
                "quorums must hold ensemble >= write >= ack >= 1, not "
                f"{self.ensemble_size}/{self.write_quorum}/{self.ack_quorum}"
            )

    @property
    def negatives_needed(self) -> int:
        """So many certain "no" of one write set prove that the ack quorum never was reached."""
        return self.write_quorum - self.ack_quorum + 1

    def fitted(self, writable: int) -> Quorums:
        """What a new ledger takes when only so many bookies are writable.

        The ack quorum is never lowered: raises NotEnoughBookies when `writable` is below it.
        """
        if writable < self.ack_quorum:
            raise NotEnoughBookies(
                f"{writable} writable bookies, and the ack quorum is {self.ack_quorum}"
            )
        ensemble_size = max(self.ack_quorum, min(self.ensemble_size, writable))
        return Quorums(ensemble_size, min(self.write_quorum, ensemble_size), self.ack_quorum)

    def __str__(self) -> str:
        return f"{self.ensemble_size}/{self.write_quorum}/{self.ack_quorum}"

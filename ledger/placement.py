"""Which bookies a new ensemble, or a replacement, is made of.

Round robin over the writable bookies, so that ledgers spread evenly; where racks are named, the
racks used least come first, so that copies do not share one. Choices depend only on the
candidates and the given random, never on the order of a set.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from magnetar.errors import NotEnoughBookies
from magnetar.ids import BookieId


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bookie that takes new entries; an empty rack means none is named."""

    bookie_id: BookieId
    rack: str = ""


class Placement:
    """Chooses bookies; one for a whole process, so that its ledgers share the round robin."""

    def __init__(self, chance: random.Random) -> None:
        self._turn = chance.randrange(1 << 16)

    def ensemble(self, candidates: Sequence[Candidate], size: int) -> tuple[BookieId, ...]:
        """`size` distinct bookies; raises NotEnoughBookies."""
        chosen = self.extend((), candidates, size)
        if len(chosen) < size:
            raise NotEnoughBookies(f"{len(chosen)} writable bookies where {size} are needed")
        return tuple(candidate.bookie_id for candidate in chosen)

    def extend(
        self,
        kept: Collection[Candidate],
        candidates: Sequence[Candidate],
        count: int,
    ) -> list[Candidate]:
        """Up to `count` bookies to stand beside `kept`, of which none is chosen again."""
        taken = {candidate.bookie_id for candidate in kept}
        load: dict[str, int] = {}
        for candidate in kept:
            load[candidate.rack] = load.get(candidate.rack, 0) + 1
        rest = sorted(
            (candidate for candidate in candidates if candidate.bookie_id not in taken),
            key=lambda candidate: candidate.bookie_id,
        )
        if rest:
            start = self._turn % len(rest)
            rest = rest[start:] + rest[:start]
        self._turn += 1
        chosen: list[Candidate] = []
        while rest and len(chosen) < count:
            best = min(rest, key=lambda candidate: load.get(candidate.rack, 0))
            rest.remove(best)
            chosen.append(best)
            if best.rack:
                load[best.rack] = load.get(best.rack, 0) + 1
        return chosen

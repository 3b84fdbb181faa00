"""The judgement after heal and drain, over what clients saw and what is stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from metadata.ledgers import LedgerMetadata, LedgerState
from tests.sim.history import History, Place


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of the final log, in log order."""

    place: Place
    producer: str
    sequence_id: int
    delayed: bool = False


def check_log(
    history: History, stored: list[StoredMessage], read_values: Iterable[Place], first: Place | None
) -> list[str]:
    """I1, I3-I7: the final log against every receipt and every read.

    `first`: places before it were trimmed and are not judged. Whether and in which order delayed
    messages come is for `ScheduleWatch` to judge.
    """
    violations: list[str] = []
    places: dict[tuple[str, int], Place] = {}
    highest: dict[str, int] = {}
    for message in stored:
        key = (message.producer, message.sequence_id)
        if key in places:
            violations.append(f"I6 {key} stored at {places[key]} and {message.place}")
        places[key] = message.place
        if not message.delayed:
            if message.sequence_id <= highest.get(message.producer, -1):
                violations.append(
                    f"I4 {key} at {message.place} follows {highest[message.producer]}"
                )
            highest[message.producer] = max(
                message.sequence_id, highest.get(message.producer, -1)
            )
        sent = history.messages.get(key)
        if sent is None:
            violations.append(f"I2 {key} at {message.place} was never sent")
        elif sent.failed:
            violations.append(f"I2 {key} at {message.place} was answered as failed")
    for acked in history.acks:
        key = (acked.producer, acked.sequence_id)
        if acked.delayed:
            continue
        if first is not None and acked.place is not None and acked.place < first:
            continue
        if key not in places:
            violations.append(f"I1 {key}, acknowledged at {acked.place}, is lost")
        elif acked.place is not None and places[key] != acked.place:
            violations.append(f"I1 {key}, acknowledged at {acked.place}, is at {places[key]}")
    existing = {message.place for message in stored}
    for place in read_values:
        if place not in existing and (first is None or place >= first):
            violations.append(f"I7 {place} was read and is not in the log")
    return violations


def check_ack_order(history: History) -> list[str]:
    """I5: ids strictly increase in the order of each producer's receipts."""
    violations = []
    last: dict[str, tuple[Place, int]] = {}
    for acked in history.acks:
        if acked.place is None:
            continue
        before = last.get(acked.producer)
        if before is not None and (acked.place, acked.sequence_id) <= before:
            violations.append(
                f"I5 {acked.producer}/{acked.sequence_id} at {acked.place} after {before}"
            )
        last[acked.producer] = (acked.place, acked.sequence_id)
    return violations


def check_dead_letters(history: History, dead: list[StoredMessage]) -> list[str]:
    """I29: what was given up is a dead letter once."""
    violations = []
    places: dict[tuple[str, int], Place] = {}
    for message in dead:
        key = (message.producer, message.sequence_id)
        if key in places:
            violations.append(f"I29 {key} is a dead letter at {places[key]} and {message.place}")
        elif key not in history.messages:
            violations.append(f"I29 {key} at {message.place} was never sent")
        places[key] = message.place
    return violations


def check_copies(
    ledger: LedgerMetadata, copies: dict[tuple[str, int], set[int]]
) -> list[str]:
    """I8 on a closed ledger: every entry has Qa copies in its fragment's write set.

    `copies`: (bookie, ledger) -> entries it can read. Bookies with rot are asked for less by the
    caller, who adds what rot took away.
    """
    if ledger.state is not LedgerState.CLOSED:
        return []
    violations = []
    for entry_id in range(ledger.last_entry + 1):
        ensemble = ledger.fragment_for(entry_id).ensemble  # type: ignore[arg-type]
        size = len(ensemble)
        members = [ensemble[(entry_id + n) % size] for n in range(ledger.write_quorum)]
        holders = [
            bookie for bookie in members
            if entry_id in copies.get((bookie, ledger.ledger_id), ())
        ]
        if len(holders) < ledger.ack_quorum:
            violations.append(
                f"I8 {ledger.ledger_id}:{entry_id} only on {holders} of {members}"
            )
    return violations

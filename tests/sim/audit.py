"""Checks every metadata write as it is applied: what may follow what, and who may do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from broker.broker import RELEASED
from metadata.ledgers import Fragment, LedgerMetadata, LedgerState, decode_ledger
from metadata.paths import LEDGERS, NEXT_LEDGER
from metadata.topics import TopicRecord, decode_topic
from tests.sim.store import MetadataTree

_ORDER = {LedgerState.OPEN: 0, LedgerState.IN_RECOVERY: 1, LedgerState.CLOSED: 2}


def _bare(fragments: tuple[Fragment, ...]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    return tuple((fragment.first_entry, fragment.ensemble) for fragment in fragments)


class MetadataAudit:
    """Observer of a `MetadataTree`; `violations` must stay empty."""

    def __init__(self, tree: MetadataTree, ack_quorum: int) -> None:
        self.ack_quorum = ack_quorum
        self.violations: list[str] = []
        self.ledgers: dict[int, LedgerMetadata] = {}
        self.topics: dict[str, TopicRecord] = {}
        self.deleted: set[int] = set()
        self.rolls = 0
        self.ensemble_changes = 0
        self.under_replicated = 0
        self.recoveries = 0
        self.owner_changes = 0
        self.trims = 0
        self.run_flushes = 0
        self.run_merges = 0
        self.run_drops = 0
        self.schedule_trims = 0
        self.on_closed: Callable[[], None] | None = None
        self.on_ensemble: Callable[[set[str]], None] | None = None
        tree.observers.append(self.observe)

    def observe(self, path: str, before: bytes | None, after: bytes | None) -> None:
        if path.startswith(LEDGERS) and path != NEXT_LEDGER and (before or after):
            self._ledger(decode_ledger(before) if before else None,
                         decode_ledger(after) if after else None)
        elif path.startswith("/topics/") and (before or after):
            self._topic(decode_topic(before) if before else None,
                        decode_topic(after) if after else None)

    def _fail(self, text: str) -> None:
        self.violations.append(text)

    # --- ledgers ----------------------------------------------------------------------------
    def _ledger(self, before: LedgerMetadata | None, after: LedgerMetadata | None) -> None:
        if after is None:
            assert before is not None
            self._ledger_deleted(before)
            return
        if before is None:
            if after.ledger_id in self.ledgers or after.ledger_id in self.deleted:
                self._fail(f"R1 ledger id {after.ledger_id} used twice")
            if after.ack_quorum < self.ack_quorum:
                self._fail(f"ledger {after.ledger_id} has ack quorum {after.ack_quorum}, which is "
                           f"never below {self.ack_quorum}")
            if after.ensemble_size < after.wanted_ensemble_size:
                self.under_replicated += 1
            self.ledgers[after.ledger_id] = after
            return
        self._ledger_changed(before, after)
        self.ledgers[after.ledger_id] = after

    def _ledger_changed(self, before: LedgerMetadata, after: LedgerMetadata) -> None:
        name = f"ledger {before.ledger_id}"
        sizes = ("ensemble_size", "write_quorum", "ack_quorum")
        if any(getattr(before, size) != getattr(after, size) for size in sizes):
            self._fail(f"R1 {name} changed its quorums")
        if _ORDER[after.state] < _ORDER[before.state]:
            self._fail(f"I9 {name} went from {before.state} to {after.state}")
        if before.state is LedgerState.CLOSED:
            ends = (before.last_entry, before.length_bytes)
            if ends != (after.last_entry, after.length_bytes):
                self._fail(f"I9 {name} closed at {ends}, rewritten to {after.last_entry}")
            if [f.first_entry for f in before.fragments] != [
                f.first_entry for f in after.fragments
            ]:
                self._fail(f"I9 {name} is closed and its fragments changed")
            return
        if after.state is LedgerState.CLOSED and self.on_closed is not None:
            self.on_closed()
        old, new = _bare(before.fragments), _bare(after.fragments)
        if old[:-1] != new[:len(old) - 1]:
            self._fail(f"R6 {name} changed a finished fragment: {old} to {new}")
        if after.state is LedgerState.IN_RECOVERY:
            if before.state is LedgerState.OPEN:
                self.recoveries += 1
            elif old != new:
                self._fail(f"R13 {name} changed fragments in mid-recovery: {old} to {new}")
        if after.state is LedgerState.OPEN and old != new:
            self.ensemble_changes += 1
            if self.on_ensemble is not None:
                self.on_ensemble(set(after.fragments[-1].ensemble))
        if any(f.under_replicated for f in after.fragments) and not any(
            f.under_replicated for f in before.fragments
        ):
            self.under_replicated += 1

    def _ledger_deleted(self, ledger: LedgerMetadata) -> None:
        self.deleted.add(ledger.ledger_id)
        self.ledgers.pop(ledger.ledger_id, None)
        for topic in self.topics.values():
            listed = {
                *(info.ledger_id for info in topic.ledgers), *topic.state_ledgers,
                *topic.schedule_ledgers, *(run.ledger_id for run in topic.schedule_runs),
            }
            if ledger.ledger_id in listed:
                self._fail(f"M6 ledger {ledger.ledger_id} deleted while {topic.name} lists it")

    # --- topics -----------------------------------------------------------------------------
    def _topic(self, before: TopicRecord | None, after: TopicRecord | None) -> None:
        if after is None:
            return
        if before is not None:
            self._topic_changed(before, after)
        self.topics[after.name] = after

    def _topic_changed(self, before: TopicRecord, after: TopicRecord) -> None:
        name = after.name
        if before.owner != after.owner and after.owner is not None:
            self.owner_changes += 1
            epoch = before.owner.epoch if before.owner else 0
            given_up = before.owner is not None and after.owner == replace(
                before.owner, incarnation=RELEASED)
            if after.owner.epoch <= epoch and not given_up:
                self._fail(f"I15 {name}: owner changed without a new epoch: {after.owner}")
        if after.last_ledger_id < before.last_ledger_id:
            self._fail(f"I15 {name}: last ledger fell to {after.last_ledger_id}")
        old = [info.ledger_id for info in before.ledgers]
        new = [info.ledger_id for info in after.ledgers]
        if new != sorted(set(new)):
            self._fail(f"I15 {name}: ledgers out of order {new}")
        added = [ledger for ledger in new if ledger not in old]
        if any(ledger <= before.last_ledger_id for ledger in added):
            self._fail(f"I15 {name}: took ledgers {added}, not above {before.last_ledger_id}")
        if added and old and before.owner == after.owner:
            self.rolls += 1
        removed = [ledger for ledger in old if ledger not in new]
        self.trims += len(removed)
        self._schedule_changed(before, after)
        kept = {info.ledger_id: info for info in after.ledgers}
        for info in before.ledgers:
            now = kept.get(info.ledger_id)
            if now is not None and info.entries >= 0 and now.entries != info.entries:
                self._fail(f"I15 {name}: ledger {info.ledger_id} had {info.entries} entries, "
                           f"now {now.entries}")

    def _schedule_changed(self, before: TopicRecord, after: TopicRecord) -> None:
        if before.schedule_ledgers and after.schedule_ledgers[:1] != before.schedule_ledgers[:1]:
            self.schedule_trims += 1
        if after.schedule_covered < before.schedule_covered:
            self._fail(f"I15 {after.name}: what runs cover fell to {after.schedule_covered}")
        old, new = _finished_runs(before), _finished_runs(after)
        if new - old:
            self.run_merges += bool(old - new)
            self.run_flushes += not old - new
        else:
            self.run_drops += len(old - new)


def _finished_runs(record: TopicRecord) -> set[int]:
    return {run.ledger_id for run in record.schedule_runs if run.entries >= 0}

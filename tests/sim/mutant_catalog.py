"""The defects that the simulator must find: each as text replaced in a scratch copy.

R numbers are the rules of docs/protocol.md. The first ones are defects that BookKeeper had or
its model checker found; the others break one rule each whose breach loses or doubles data.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """`old` must occur exactly once in `file`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One defect."""

    name: str
    defect: str
    changes: tuple[Change, ...]
    workload: str = ""


def _mutant(name: str, defect: str, *changes: tuple[str, str, str], workload: str = "") -> Mutant:
    return Mutant(name, defect, tuple(Change(*change) for change in changes), workload)


CATALOG: tuple[Mutant, ...] = (
    _mutant(
        "recovery_reads_without_fence",
        "recovery reads do not fence: a half-written entry reaches its quorum after the close",
        ("ledger/recovery.py",
         "self._ledger_id, entry_id, READ_AHEAD_ENTRIES, READ_AHEAD_BYTES, fence=True",
         "self._ledger_id, entry_id, READ_AHEAD_ENTRIES, READ_AHEAD_BYTES, fence=False"),
        ("ledger/recovery.py",
         "request = ReadLacRequest(self._ledger_id, fence=True)",
         "request = ReadLacRequest(self._ledger_id, fence=False)"),
    ),
    _mutant(
        "lac_of_fresh_fragment",
        "R10: a fresh last fragment without a LAC makes recovery start before it",
        ("ledger/recovery.py",
         "start = max(self._max_lac, last.first_entry - 1)",
         "start = self._max_lac"),
    ),
    _mutant(
        "fence_answered_before_durable",
        "R9: a fence is answered before its record is on the disk",
        ("bookie/storage.py",
         "        if await self._settled(record) is not Status.OK:\n            return False\n"
         "        ledger.state = ledger.state.merged(state)",
         "        ledger.state = ledger.state.merged(state)"),
    ),
    _mutant(
        "fence_not_persisted",
        "R9: a fence lives in memory only and is forgotten by a restart",
        ("bookie/storage.py",
         "        if ledger.state.fenced:\n            return True\n",
         "        return True\n"),
    ),
    _mutant(
        "ack_before_sync",
        "R4: an add is acknowledged before its commit is on the disk",
        ("bookie/storage.py",
         "        self._append(log, ledger, record)\n        return None\n",
         "        record.on_done = None\n        self._append(log, ledger, record)\n"
         "        return Status.OK\n"),
    ),
    _mutant(
        "acks_count_during_ensemble_change",
        "R6: adds complete while the ensemble's compare-and-set is in flight",
        ("ledger/writer.py",
         "        self._move(WriterEvent.CHANGE_BEGUN)\n        self._acks.frozen = True\n",
         "        self._move(WriterEvent.CHANGE_BEGUN)\n"),
        ("ledger/ack_tracker.py",
         "        invariant(self.frozen, \"R6\", "
         "\"an ensemble changes only while completions are frozen\")\n",
         ""),
    ),
    _mutant(
        "ensemble_change_deferred",
        "R6: the writer uses the new ensemble while its compare-and-set is still in flight",
        ("ledger/writer.py",
         "        self._change = _Change(changed, replaced)\n"
         "        return (WriteMetadata(changed, self.version),)\n",
         "        self._change = _Change(changed, replaced)\n        version = self.version\n"
         "        effects = self.metadata_written(changed, version)\n"
         "        return (*effects, WriteMetadata(changed, version))\n"),
    ),
    _mutant(
        "garbage_on_doubt",
        "R19: a ledger's data go when the metadata did not answer",
        ("bookie/garbage.py",
         "                listed = await self._listed_beside(ledgers[0])\n",
         "                try:\n"
         "                    listed = await self._listed_beside(ledgers[0])\n"
         "                except MetadataError:\n                    listed = frozenset()\n"),
        ("bookie/garbage.py",
         "                    absent = await self._absent(some)\n",
         "                    try:\n                        absent = await self._absent(some)\n"
         "                    except MetadataError:\n                        absent = some\n"),
    ),
    _mutant(
        "replaced_acks_kept",
        "R6: acks of a replaced bookie above LAC count for its replacement",
        ("ledger/ack_tracker.py",
         "            self._acked[entry_id] = acked & keep\n",
         "            self._acked[entry_id] = acked\n"),
    ),
    _mutant(
        "pending_not_resent",
        "R6: pending entries are not sent to the replacement, which counts as having them",
        ("ledger/writer.py",
         "            if again:\n                effects.append(SendAdd(request, again))\n",
         "            for target in again:\n"
         "                self._acks.acknowledge(target.slot, entry_id)\n"),
    ),
    _mutant(
        "recovery_commits_ensemble_early",
        "R13: an ensemble changed in recovery is written at once, not with the end",
        ("ledger/recovery.py",
         "        target = Target(slot, self._generations[slot], chosen[0].bookie_id)\n"
         "        return tuple(\n",
         "        target = Target(slot, self._generations[slot], chosen[0].bookie_id)\n"
         "        return (WriteMetadata(self.metadata, self.version),) + tuple(\n"),
        ("ledger/recovery.py",
         "        self._move(RecoveryEvent.MARKED)\n",
         "        if self.state is RecoveryState.READING:\n            return NOTHING\n"
         "        self._move(RecoveryEvent.MARKED)\n"),
    ),
    _mutant(
        "one_negative_ends_ledger",
        "R11: recovery stops at the first bookie without the entry",
        ("ledger/quorum.py",
         "return self.write_quorum - self.ack_quorum + 1",
         "return 1"),
    ),
    _mutant(
        "unknown_taken_for_no_entry",
        "R16: an error or a timeout counts as proof that the entry does not exist",
        ("ledger/recovery.py",
         "if reply.status in NEGATIVES and not reply.entries:",
         "if not reply.entries:"),
    ),
    _mutant(
        "close_overwrites_end",
        "R14: a conflicting close is written again over another's end",
        ("ledger/writer.py",
         "        if metadata.state is LedgerState.OPEN and _same_ensemble(metadata, "
         "self.metadata):\n            self.metadata, self.version = metadata, version\n"
         "            return self._write_end()\n",
         "        if version:\n            self.version = version\n"
         "            return self._write_end()\n"),
    ),
    _mutant(
        "recovered_entries_not_stored_again",
        "R12: recovery closes without adding what it found to the ack quorum",
        ("ledger/recovery.py",
         "        if self._acks.last_add_confirmed < end:\n            return NOTHING\n",
         "        self._acks.last_add_confirmed = end\n"),
        ("ledger/recovery.py",
         "        return (SendAdd(request, self._targets(entry_id)),)\n",
         "        return ()\n"),
    ),
    _mutant(
        "ack_quorum_lowered",
        "with few bookies the ack quorum is lowered to what is there",
        ("ledger/quorum.py",
         "        if writable < self.ack_quorum:\n",
         "        if writable < 1:\n"),
        ("ledger/quorum.py",
         "        ensemble_size = max(self.ack_quorum, min(self.ensemble_size, writable))\n"
         "        return Quorums(ensemble_size, min(self.write_quorum, ensemble_size), "
         "self.ack_quorum)",
         "        ensemble_size = min(self.ensemble_size, writable)\n"
         "        return Quorums(ensemble_size, min(self.write_quorum, ensemble_size), "
         "min(self.ack_quorum, ensemble_size))"),
    ),
    _mutant(
        "torn_tail_is_corruption",
        "replay takes a torn tail for corruption, so bookies end in limbo",
        ("bookie/replay.py",
         "(outcome.corrupt if damage.start < outcome.mark else outcome.torn).append(damage)",
         "outcome.corrupt.append(damage)"),
    ),
    _mutant(
        "tail_beyond_mark_dropped",
        "replay drops what lies behind the last durable mark, though it may be acknowledged",
        ("bookie/replay.py",
         "        for commit in self._tail:\n            self._carry(commit)\n",
         ""),
    ),
    _mutant(
        "corruption_is_torn_tail",
        "damage before the durable mark is passed over as if never acknowledged",
        ("bookie/replay.py",
         "(outcome.corrupt if damage.start < outcome.mark else outcome.torn).append(damage)",
         "outcome.torn.append(damage)"),
        ("bookie/replay.py",
         "self._outcome.corrupt_entries.append((ledger_id, header.entry_id))",
         "return"),
    ),
    _mutant(
        "logged_not_indexed_unseen",
        "reads look in the index only and miss what is logged and not indexed yet",
        ("bookie/storage.py",
         "            record = recent.get(entry_id)\n            if record is None:\n",
         "            record = recent.get(entry_id)\n"
         "            if record is None or record.stage == LOGGED:\n"),
    ),
    _mutant(
        "replay_position_ahead_of_index",
        "the position stored with the index runs ahead of its contents",
        ("bookie/indexer.py",
         "        pairs = self._count(batch)\n",
         "        for item in reversed(waiting):\n"
         "            if isinstance(item, LogPosition):\n"
         "                batch.position = item\n"
         "                break\n"
         "        pairs = self._count(batch)\n"),
    ),
    _mutant(
        "owner_ignores_version",
        "the owner's record is written without compare-and-set: two owners",
        ("ledger/topic_record.py",
         "                return await self._topics.update(wanted, self._version)\n",
         "                _, at = await self._topics.get(wanted.name)\n"
         "                return await self._topics.update(wanted, at)\n"),
    ),
    _mutant(
        "trim_beyond_cursor",
        "M6: ledgers are trimmed by the end of the log instead of the cursors",
        ("broker/retention.py",
         "            return min(floors)\n",
         "            return self._log.end_ordinal\n"),
    ),
    _mutant(
        "trim_deletes_before_record",
        "M6: ledgers are deleted before the record stops naming them",
        ("ledger/managed_log.py",
         "        await self.update_record(without_consumed)\n        for ledger_id in gone:\n",
         "        without_consumed(self.record)\n        for ledger_id in [*gone]:\n"
         "            await self._ledgers.delete(ledger_id)\n"
         "        await self.update_record(without_consumed)\n        for ledger_id in gone:\n"),
    ),
    _mutant(
        "deduplication_not_replayed",
        "dedup is not rebuilt from the log's tail at a takeover",
        ("broker/topic_state.py",
         "                self.sources.replay(\n",
         "                (lambda *_: None)(\n"),
    ),
    _mutant(
        "ordinal_starts_over",
        "ordinals go on from the checkpoint, not from the last entry",
        ("broker/topic_state.py",
         "self._log.resume(end, prefix.append_time_ms, prefix.mark)",
         "self._log.resume(0, prefix.append_time_ms, prefix.mark)"),
    ),
    _mutant(
        "pending_added_out_of_order",
        "M3: after a ledger failed its pending entries are added again in another order",
        ("ledger/chain.py",
         "        for pending in self._pending:\n            self._send(",
         "        self._pending.reverse()\n"
         "        for pending in self._pending:\n            self._send("),
    ),
    _mutant(
        "acknowledgement_answered_before_durable",
        "an acknowledgement is answered before its delta is on the ack quorum",
        ("broker/acknowledging.py",
         "            self._waiting.append(answer)\n            self.schedule_flush()\n",
         "            self.schedule_flush()\n            answer(None)\n"),
    ),
    _mutant(
        "key_moves_undrained",
        "a key goes to its new owner while the old one has messages of it",
        ("broker/dispatch/key_order.py",
         "            state.phase = TRANSITIONS[state.phase, Step.MOVED_AWAY]\n",
         "            state.consumer = self._slots.owner(state.slot)\n"),
        workload="cluster",
    ),
    _mutant(
        "delayed_failure_forgotten",
        "a message whose delay is over does not get its turn",
        ("broker/dispatch/returns.py",
         "        for entry, mask, ordered in self._waiting.due(now_s):\n",
         "        for entry, mask, ordered in self._waiting.due(now_s)[1:]:\n"),
        workload="cluster",
    ),
    _mutant(
        "left_consumer_keeps_an_entry",
        "of what a consumer had when it left, an entry is not taken back",
        ("broker/dispatch/returns.py",
         "        for key in list(consumer.held):\n",
         "        for key in list(consumer.held)[1:]:\n"),
        workload="cluster",
    ),
    _mutant(
        "failed_message_overtaken",
        "what came back goes behind what its key has waiting",
        ("broker/dispatch/key_order.py",
         "        heappush(state.waiting, (ordinal, fresh, token))\n",
         "        heappush(state.waiting, (-ordinal, fresh, token))\n"),
        workload="cluster",
    ),
    _mutant(
        "acknowledged_holes_ignored",
        "an entry is delivered whole though some of its messages are acknowledged",
        ("broker/dispatch/desk.py",
         "        mask &= ~self.host.cursor.mask(entry.first_ordinal, entry.count)\n",
         ""),
        workload="cluster",
    ),
    _mutant(
        "failover_switches_at_once",
        "a member that joins becomes active while the active one has messages",
        ("broker/dispatch/failover.py",
         "return self.active if self.active is not None else next(iter(self._members))\n",
         "return next(reversed(self._members))\n"),
        ("broker/dispatch/failover.py",
         "        if self.active is None:\n            self.active, self.successor = wanted",
         "        if wanted is not None:\n            self.active, self.successor = wanted"),
        workload="cluster",
    ),
    _mutant(
        "read_above_lac",
        "R15: readers of an open ledger go by the last entry seen, not by the LAC",
        ("ledger/driver.py",
         "confirmed = max(confirmed, reply.last_add_confirmed)",
         "confirmed = max(confirmed, reply.last_entry_id)"),
    ),
    _mutant(
        "lost_answer_taken_for_success",
        "a compare-and-set that failed after a lost answer is taken for applied",
        ("metadata/cas.py",
         "            return record.version == version and record.value == value\n",
         "            return True\n"),
    ),
    _mutant(
        "fenced_bookie_takes_adds",
        "R9: a fenced ledger still takes normal adds",
        ("bookie/storage.py",
         "            if not request.recovery:\n                return Status.FENCED\n",
         ""),
    ),
    _mutant(
        "failed_sync_survived",
        "a failed fsync is passed over and the process goes on",
        ("bookie/log.py",
         "        await self._file.append_and_sync(parts)\n",
         "        try:\n            await self._file.append_and_sync(parts)\n"
         "        except DiskFailure:\n            pass\n"),
    ),
    _mutant(
        "dead_letter_fate_guessed",
        "a dead letter whose fate is unknown is taken for lost, and sent again",
        ("broker/forwarding/lane.py",
         "        if outlet.last_sequence_id >= plan.first_sequence_id + plan.count - 1:\n",
         "        if outlet.last_sequence_id < 0:\n"),
    ),
    _mutant(
        "dead_letter_acknowledged_before_stored",
        "what is given up is acknowledged before the dead-letter topic has it",
        ("broker/forwarding/lane.py",
         "            await outlet.publish(batch)\n",
         "            await self._acknowledge(plan)\n            await outlet.publish(batch)\n"),
    ),
    _mutant(
        "fired_mark_not_read_back",
        "a new owner does not learn from the log's tail how far the schedule is: fired twice",
        ("broker/topic_state.py",
         "self._log.resume(end, prefix.append_time_ms, prefix.mark)",
         "self._log.resume(end, prefix.append_time_ms)"),
        workload="cluster",
    ),
    _mutant(
        "fired_past_what_is_in_flight",
        "what is due fires past records whose write is in flight",
        ("broker/schedule/core.py",
         "        barrier = self._in_flight.barrier\n        messages: list[Due] = []\n",
         "        barrier = None\n        messages: list[Due] = []\n"),
        workload="cluster",
    ),
    _mutant(
        "run_covers_what_came_later",
        "a run is said to cover messages that came in while it was written",
        ("broker/schedule/schedule.py",
         "            return Covered(self._lane.position, self.core.stored_sequence)\n",
         "            before = Covered(self._lane.position, self.core.stored_sequence)\n"
         "        await self._clock.sleep(0.05)\n"
         "        return before._replace(record=self._lane.position)\n"),
        workload="cluster",
    ),
    _mutant(
        "run_counts_before_it_is_stored",
        "a run counts before its last blocks are durable",
        ("ledger/schedule_runs.py",
         "        while self._writer.last_add_confirmed + 1 < self.entries:\n"
         "            await self._wait()\n",
         ""),
        workload="cluster",
    ),
    _mutant(
        "tombs_lost_in_a_merge",
        "a merge drops tombs of messages that are in other runs",
        ("broker/schedule/upkeep.py",
         "            for mark in map(ScheduleMark, dues_ms, sequences):\n",
         "            for mark in map(ScheduleMark, dues_ms[:0], sequences):\n"),
        workload="cluster",
    ),
    _mutant(
        "tombs_not_replayed",
        "a new owner forgets which messages in runs were cancelled or moved since",
        ("broker/schedule/core.py",
         "            case Cancelled(_, targets):\n",
         "            case Cancelled(_, targets) if self.runs:\n"
         "                pass\n"
         "            case Cancelled(_, targets):\n"),
        workload="cluster",
    ),
    _mutant(
        "scheduled_batches_not_replayed",
        "dedup of the schedule is not rebuilt from its records at a takeover",
        ("broker/schedule/schedule.py",
         "            self._lane.sources.replay(\n",
         "            (lambda *_: None)(\n"),
        workload="cluster",
    ),
    _mutant(
        "schedule_trimmed_by_its_end",
        "ledgers of the schedule are deleted by what is stored, not by what waits",
        ("broker/schedule/schedule.py",
         "unneeded = min(self._lane.durable_position, self._before(self.core.oldest))",
         "unneeded = self._lane.durable_position"),
        ("broker/schedule/schedule.py",
         "            unneeded = min(unneeded, self._before(oldest))\n",
         ""),
        workload="cluster",
    ),
    _mutant(
        "moved_message_stays",
        "a message that is moved waits under its former time as well",
        ("broker/schedule/core.py",
         "        self._withdraw(target, record)\n        self.history.moved(",
         "        self.history.moved("),
        workload="cluster",
    ),
    _mutant(
        "floor_of_the_schedule_ignored",
        "a message may come to stand before what has fired, which a new owner takes for fired",
        ("broker/schedule/core.py",
         "        return max(self.handed.due_ms, self._held_back_ms, 0)\n",
         "        return 0\n"),
        workload="cluster",
    ),
    _mutant(
        "fired_by_the_next_tick",
        "what is due until the clock is looked at again fires now",
        ("broker/schedule/schedule.py",
         "            taken = self.core.take(\n                now_ms,",
         "            taken = self.core.take(\n                now_ms + LOOK_AHEAD_EVERY_MS,"),
        workload="cluster",
    ),
    _mutant(
        "what_goes_to_a_run_is_unknown",
        "a message that leaves memory for a run while others are looked for is called unknown",
        ("broker/schedule/requests.py",
         "                if known is None and place not in in_runs:\n",
         "                if known is None and place is None:\n"),
        workload="cluster",
    ),
    _mutant(
        "cancelled_message_listed",
        "a list of what waits does not see that a flush took tombs away while it read runs",
        ("broker/schedule/schedule.py",
         "            if runs != list(core.runs.values()):\n                bound = after",
         "            if len(runs) > len(core.runs):\n                bound = after"),
        workload="cluster",
    ),
    _mutant(
        "run_dropped_while_it_is_merged",
        "a run all of which fired is dropped while one is made of it, which is tried for ever",
        ("broker/schedule/upkeep.py",
         " or run.ledger_id in self._merged\n",
         "\n"),
        workload="cluster",
    ),
)

"""Writer and recoveries together, under any order of messages, losses and stalled writes.

Hypothesis picks what happens next; bookies are the fakes of `memory_bookies`. Whatever it picks:
an acknowledged entry is within the closed ledger and readable from its ensemble (I1), recovered
bodies are those that were sent (I3), and the end never moves (I9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.recovery import Aborted, Closed, LedgerRecovery, SendRead, SendReadLac
from ledger.wire import ReadLacReply, ReadReply, Status
from ledger.writer import (
    Complete,
    LedgerWriter,
    SendAdd,
    SlotFailed,
    WriteMetadata,
    WriterState,
)
from magnetar.errors import LedgerClosed
from magnetar.ids import EntryId
from metadata.ledgers import LedgerMetadata, LedgerState
from tests.ledger.cores import candidates, metadata, placement
from tests.ledger.memory_bookies import MemoryBookie

NAMES = ("a", "b", "c", "d")


class World:
    """Messages in flight, one record, one writer, and recoveries."""

    def __init__(self) -> None:
        self.bookies = {name: MemoryBookie() for name in NAMES}
        self.record: LedgerMetadata = metadata("a", "b", "c")
        self.version = 0
        self.ends: list[int] = []
        self.flight: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self.sent: list[bytes] = []
        self.acked = -1
        self.writer = LedgerWriter(self.record, 0, placement(), 1 << 20)
        self.repairing = False

    def write(self, wanted: WriteMetadata, won: Callable[[int], None],
              lost: Callable[[LedgerMetadata, int], None]) -> None:
        """Put a CAS in flight; it is decided when it is picked."""

        def decide() -> None:
            if wanted.version != self.version:
                lost(self.record, self.version)
                return
            assert self.record.state is not LedgerState.CLOSED, "I9"
            self.record, self.version = wanted.metadata, self.version + 1
            self.record.validate()
            if self.record.state is LedgerState.CLOSED:
                self.ends.append(self.record.last_entry)
            won(self.version)

        self.flight.append((decide, decide))

    def writer_effects(self, effects: object) -> None:
        for effect in effects:  # type: ignore[attr-defined]
            if isinstance(effect, SendAdd):
                self.send_adds(effect, self.writer_reply)
            elif isinstance(effect, Complete):
                assert not self.ends or effect.last_entry <= self.ends[0], "acked past the end"
                self.acked = effect.last_entry
            elif isinstance(effect, WriteMetadata):
                self.write(
                    effect,
                    lambda version, e=effect: self.writer_effects(  # type: ignore[misc]
                        self.writer.metadata_written(e.metadata, version)),
                    lambda found, version: self.writer_effects(
                        self.writer.metadata_conflict(found, version)),
                )
            elif isinstance(effect, SlotFailed):
                self.repairing = True

    def writer_reply(self, slot: int, generation: int, entry: int, status: Status) -> None:
        self.writer_effects(self.writer.add_reply(slot, generation, entry, status))

    def send_adds(self, send: SendAdd, reply: Callable[[int, int, int, Status], None]) -> None:
        for slot, generation, bookie in send.targets:
            def deliver(
                slot: int = slot, generation: int = generation, bookie: str = bookie
            ) -> None:
                status = self.bookies[bookie].add(send.request)
                self.flight.append((
                    lambda: reply(slot, generation, send.request.entry_id, status),
                    lambda: reply(slot, generation, send.request.entry_id, Status.UNKNOWN),
                ))

            def lose(slot: int = slot, generation: int = generation) -> None:
                reply(slot, generation, send.request.entry_id, Status.UNKNOWN)

            self.flight.append((deliver, lose))

    def add(self) -> None:
        body = b"entry %d" % len(self.sent)
        try:
            send = self.writer.add(body)
        except LedgerClosed:
            return
        self.sent.append(body)
        self.writer_effects([send])

    def repair(self) -> None:
        if self.writer.state is WriterState.OPEN and self.repairing:
            self.repairing = False
            self.writer_effects(
                self.writer.repair(self.record, self.version, candidates(*NAMES))
            )

    def recover(self) -> None:
        core = LedgerRecovery(self.record, self.version, placement(), candidates(*NAMES))
        self.recovery_effects(core, core.begin())

    def recovery_effects(self, core: LedgerRecovery, effects: object) -> None:
        def back(event: Callable[[], object]) -> None:
            self.recovery_effects(core, event())

        for effect in effects:  # type: ignore[attr-defined]
            if isinstance(effect, WriteMetadata):
                self.write(
                    effect,
                    lambda version, e=effect: back(  # type: ignore[misc]
                        lambda: core.metadata_written(e.metadata, version)),
                    lambda found, version: back(lambda: core.metadata_conflict(found, version)),
                )
            elif isinstance(effect, SendAdd):
                self.send_adds(effect, lambda slot, generation, entry, status: back(
                    lambda: core.add_reply(slot, generation, entry, status)))
            elif isinstance(effect, SendReadLac):
                self.ask_lac(core, effect, back)
            elif isinstance(effect, SendRead):
                self.ask(core, effect, back)
            else:
                assert isinstance(effect, Closed | Aborted)

    def ask_lac(
        self, core: LedgerRecovery, ask: SendReadLac, back: Callable[[Callable[[], object]], None]
    ) -> None:
        def deliver() -> None:
            reply = self.bookies[ask.bookie].read_lac(ask.request)
            self.flight.append((lambda: back(lambda: core.lac_reply(ask.slot, reply)), lose))

        def lose() -> None:
            back(lambda: core.lac_reply(ask.slot, ReadLacReply(Status.UNKNOWN)))

        self.flight.append((deliver, lose))

    def ask(
        self, core: LedgerRecovery, ask: SendRead, back: Callable[[Callable[[], object]], None]
    ) -> None:
        first = ask.request.first_entry_id

        def deliver() -> None:
            reply = self.bookies[ask.bookie].read(ask.request)
            self.flight.append(
                (lambda: back(lambda: core.read_reply(first, reply)), lose)
            )

        def lose() -> None:
            back(lambda: core.read_reply(first, ReadReply(Status.UNKNOWN)))

        self.flight.append((deliver, lose))

    def settle(self) -> None:
        """No more losses; everything in flight arrives, and recovery runs until it ends."""
        for _ in range(20):
            while self.flight:
                self.flight.pop(0)[0]()
            if self.record.state is LedgerState.CLOSED:
                return
            self.recover()
        raise AssertionError("the ledger never closes although nothing fails any more")

    def check(self) -> None:
        end = self.record.last_entry
        assert len(set(self.ends)) == 1, "a closed ledger was closed again elsewhere"
        assert self.acked <= end < len(self.sent), "an acknowledged entry was cut off"
        for entry_id in range(end + 1):
            fragment = self.record.fragment_for(EntryId(entry_id))
            copies = [
                self.bookies[bookie].ledgers[self.record.ledger_id].entries[entry_id].body
                for bookie in fragment.ensemble
                if self.record.ledger_id in self.bookies[bookie].ledgers
                and entry_id in self.bookies[bookie].ledgers[self.record.ledger_id].entries
            ]
            assert len(copies) >= self.record.ack_quorum, f"entry {entry_id} lacks copies"
            assert set(copies) == {self.sent[entry_id]}


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["deliver"] * 12 + ["lose"] * 2 + ["add"] * 5 + ["repair"] * 2 + ["recover", "close"]
        ),
        st.integers(0, 1 << 16),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS, st.booleans())
def test_no_schedule_loses_an_acknowledged_entry(
    actions: list[tuple[str, int]], late_recovery: bool
) -> None:
    world = World()
    for at, (action, pick) in enumerate(actions):
        if action in ("deliver", "lose"):
            if world.flight:
                arrive, lose = world.flight.pop(pick % len(world.flight))
                (arrive if action == "deliver" else lose)()
        elif action == "add":
            world.add()
        elif action == "repair":
            world.repair()
        elif action == "close":
            if pick % 8 == 0:
                world.writer_effects(world.writer.begin_close(world.record, world.version))
        elif not late_recovery or at > 60:
            world.recover()
    world.settle()
    world.check()


def test_the_model_itself_completes_a_plain_run() -> None:
    world = World()
    for _ in range(5):
        world.add()
    while world.flight:
        world.flight.pop(0)[0]()
    assert world.acked == 4
    world.settle()
    assert world.record == replace(world.record, last_entry=EntryId(4), state=LedgerState.CLOSED)
    world.check()

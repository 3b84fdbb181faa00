"""What the bookies hold at the end, read straight from their storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.wire import ReadRequest, Status
from metadata.ledgers import LedgerState
from tests.sim.checkers import check_copies

if TYPE_CHECKING:
    from tests.sim.processes import BookieProcess
    from tests.sim.world import World


async def check_all_copies(world: World) -> list[str]:
    """I3 and I8 over all bookies, sparing what injected rot took."""
    violations: list[str] = []
    copies: dict[tuple[str, int], set[int]] = {}
    for bookie in world.bookies:
        if bookie.storage is None or not bookie.running:
            violations.append(f"{bookie.name} does not run at the end")
            continue
        for ledger in list(world.audit.ledgers.values()):
            if ledger.state is not LedgerState.CLOSED or ledger.last_entry < 0:
                continue
            named = any(bookie.name in fragment.ensemble for fragment in ledger.fragments)
            if named:
                copies[bookie.name, ledger.ledger_id] = await _entries(
                    world, bookie, ledger.ledger_id, ledger.last_entry
                )
    for ledger in world.audit.ledgers.values():
        violations += check_copies(ledger, copies)
    for bookie in world.bookies:
        storage = bookie.storage
        if storage is not None and not bookie.machine.rotten and storage.node_state.limbo_epoch:
            violations.append(f"R17 {bookie.name} is in limbo though its disk lost nothing")
    return violations


async def _entries(
    world: World, bookie: BookieProcess, ledger_id: int, last_entry: int
) -> set[int]:
    storage = bookie.storage
    assert storage is not None and bookie.host is not None
    found: set[int] = set()
    rotten = bool(bookie.machine.rotten)
    at = 0
    while at <= last_entry:
        reply = await storage.read(
            ReadRequest(ledger_id, at, last_entry + 1 - at, 1 << 20)  # type: ignore[arg-type]
        )
        for entry in reply.entries:
            world.values.check(f"dump of {bookie.name}", ledger_id, entry.entry_id, entry.body)
            found.add(entry.entry_id)
        if reply.entries:
            at = reply.entries[-1].entry_id + 1
            continue
        if rotten and reply.status is Status.UNKNOWN:
            found.add(at)  # taken by the injected rot, and not denied
        at += 1
    return found

"""Puts the planned faults on a running world, and takes every one of them off again.

One rule keeps the promises of the product testable: only one bookie of a run ever rots, so the
copies lost stay below the ack quorum. Everything else may happen to everybody at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from metadata.ledgers import LedgerState
from tests.sim.config import PlannedFault
from tests.sim.store import STORE_HOST

if TYPE_CHECKING:
    from tests.sim.processes import BookieProcess, Process
    from tests.sim.world import World

P = TypeVar("P", bound="Process")
Undo = Callable[[], None]
FAULTS_MIN = 3


def _nothing() -> None:
    return None


class FaultInjector:
    """Runs a plan; `counts` says what was really done."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self.counts: Counter[str] = Counter()
        self._undo: dict[int, Undo] = {}
        self._next = 0
        self._rotting = chance.randrange(world.config.bookie_count)

    def schedule(self, plan: list[PlannedFault]) -> None:
        for fault in plan:
            self._world.loop.after(fault.at_s, self._begin, fault)

    async def complete(self) -> None:
        """Some planned faults found nothing to strike: break links until there were enough."""
        while sum(self.counts.values()) < FAULTS_MIN:
            self._begin(PlannedFault(0.0, self._chance.choice(("break_links", "isolate")), 0.3))
            await asyncio.sleep(0.3)

    def heal(self) -> None:
        """Undo what still lasts; everything is running and connected afterwards."""
        self._world.fabric.strikes.clear()
        self._world.rare.forget()
        undo, self._undo = list(self._undo.values()), {}
        for step in undo:
            step()

    def _begin(self, fault: PlannedFault) -> None:
        if self._world.healed:
            return
        act: Callable[[], Undo | None] = getattr(self, "_" + fault.kind)
        undo = act()
        if undo is None:
            return
        self.counts[fault.kind] += 1
        self._world.trace.note("fault", f"{fault.kind} for {fault.lasts_s:.3f}")
        self._next += 1
        number = self._next
        self._undo[number] = undo

        def end() -> None:
            if self._undo.pop(number, None) is not None:
                self._world.trace.note("fault ends", fault.kind)
                undo()

        self._world.loop.after(fault.lasts_s, end)

    # --- who --------------------------------------------------------------------------------
    def _one(self, processes: Sequence[P]) -> P | None:
        running = [process for process in processes if process.running]
        return self._chance.choice(running) if running else None

    def _owner_or_any(self) -> Process | None:
        """Mostly the broker at work: faults elsewhere teach little."""
        owner = self._world.owner_process()
        if owner is not None and owner.running and self._chance.random() < 0.7:
            return owner
        return self._one(self._world.brokers)

    # --- processes --------------------------------------------------------------------------
    def _stop(self, process: Process | None, power_cut: bool) -> Undo | None:
        if process is None:
            return None
        process.stop(power_cut)
        return process.start

    def _kill_bookie(self) -> Undo | None:
        return self._stop(self._one(self._world.bookies), power_cut=False)

    def _cut_bookie(self) -> Undo | None:
        """A power cut, mostly in the middle of the next write."""
        bookie = self._one(self._world.bookies)
        if bookie is None or self._chance.random() < 0.3:
            return self._stop(bookie, power_cut=True)
        return self._cut_at_write(bookie)

    def _cut_at_write(self, bookie: BookieProcess) -> Undo:
        machine = bookie.machine
        machine.on_append = lambda: bookie.stop(True)

        def undo() -> None:
            machine.on_append = None
            bookie.start()

        return undo

    def _two_bookies_down(self) -> Undo | None:
        first = self._cut_bookie()
        second = self._kill_bookie()
        return self._all_of(first, second)

    def _cut_all_bookies(self) -> Undo | None:
        """The room loses power: each bookie in the middle of its next write, if one comes."""
        steps = [self._cut_at_write(bookie) for bookie in self._world.bookies if bookie.running]
        return self._all_of(*steps)

    def _all_of(self, *steps: Undo | None) -> Undo | None:
        done = [step for step in steps if step is not None]

        def undo() -> None:
            for step in done:
                step()

        return undo if done else None

    def _kill_broker(self) -> Undo | None:
        return self._stop(self._owner_or_any(), power_cut=False)

    def _pause(self, process: Process | None) -> Undo | None:
        if process is None or process.host is None:
            return None
        lane = process.host.lane
        self._world.loop.pause(lane)
        return lambda: self._world.loop.resume(lane)

    def _pause_bookie(self) -> Undo | None:
        return self._pause(self._one(self._world.bookies))

    def _pause_broker(self) -> Undo | None:
        return self._pause(self._owner_or_any())

    def _move_owner(self) -> Undo | None:
        return _nothing if self._world.move_owner() else None

    # --- combinations that single faults reach too seldom ------------------------------------
    def _zombie_owner(self) -> Undo | None:
        """An owner that cannot hear the metadata goes on writing, slowly, beside its successor,
        while bookies restart."""
        owner = self._world.owner_process()
        if owner is None or not owner.running:
            return None
        chance, later = self._chance, self._world.loop.after
        steps: list[Undo | None] = [
            self._block([(owner.name, STORE_HOST), (STORE_HOST, owner.name)])
        ]
        for bookie in self._world.bookies:
            if chance.random() < 0.5:
                steps.append(self._delay(owner.name, bookie.name, chance.uniform(0.02, 0.8)))
        later(chance.uniform(0.0, 0.5), self._unless_healed(self._world.move_owner))
        if chance.random() < 0.6:
            for bookie in chance.sample(self._world.bookies, chance.randrange(1, 4)):
                if chance.random() < 0.5:
                    self._strike_at_fence(bookie)
                else:
                    at_s = chance.uniform(0.05, 0.7)
                    later(at_s, self._unless_healed(self._bounce(bookie)))
        return self._all_of(*steps)

    def _slow_beside_dead(self) -> Undo | None:
        """One bookie answers and dies, the others answer late, metadata is slow."""
        owner = self._world.owner_process()
        bookies = [bookie for bookie in self._world.bookies if bookie.running]
        if owner is None or len(bookies) < 3:
            return None
        dead = self._chance.choice(bookies)
        late_s = 0.7 * self._world.config.add_timeout_s
        steps: list[Undo | None] = [
            self._delay(bookie.name, owner.name, self._chance.uniform(0.3, 1.0) * late_s)
            for bookie in bookies if bookie is not dead
        ]
        if self._chance.random() < 0.5:
            steps.append(self._shared_store_delay())
        else:
            steps.append(self._slow_ensemble_write())

        def die() -> None:
            # A power cut is noticed by a timeout only, when the late answers are in.
            dead.stop(self._chance.random() < 0.2)

        if self._chance.random() < 0.5:
            steps.append(self._kill_replacement())
        if self._chance.random() < 0.5:
            self._world.rare.ack_strikes[dead.name] = self._unless_healed(die)
            steps.append(self._world.rare.ack_strikes.clear)
        else:
            at_s = self._chance.uniform(0.02, max(0.3, late_s))
            self._world.loop.after(at_s, self._unless_healed(die))
        return self._all_of(*steps, dead.start)

    def _forgotten_fence(self) -> Undo | None:
        """An owner that cannot hear the metadata is idle while a successor recovers its ledgers;
        when one is closed all bookies restart. Then producers wake, and the old owner writes."""
        owner, world = self._world.owner_process(), self._world
        if owner is None or not owner.running:
            return None
        chance, loop = self._chance, world.loop
        unblock = self._block([(owner.name, STORE_HOST), (STORE_HOST, owner.name)])
        world.quiet = True
        slow_s = chance.choice((0.0, 0.3, 0.3))
        left = chance.randrange(1, 3)

        def once_idle(patience: int) -> None:
            if world.rare.adds_in_flight[owner.name] and patience:
                loop.after(0.005, self._unless_healed(lambda: once_idle(patience - 1)))
                return
            for machine in world.machines:
                machine.slow_s = slow_s
            world.audit.on_closed = closed
            world.move_owner()

        def closed() -> None:
            nonlocal left
            left -= 1
            if left:
                return
            world.audit.on_closed = None
            for bookie in world.bookies:
                loop.after(0.0, self._unless_healed(self._bounce(bookie, chance.random() < 0.8)))
            loop.after(0.3, wake)

        def wake() -> None:
            world.quiet = False
            for machine in world.machines:
                machine.slow_s = 0.0

        def undo() -> None:
            world.audit.on_closed = None
            wake()
            unblock()

        once_idle(60)
        return undo

    def _replace_and_takeover(self) -> Undo | None:
        """Bookies of the newest ensemble die, and their writer just when it replaced them."""
        owner, audit = self._world.owner_process(), self._world.audit
        still_open = [
            ledger for ledger in audit.ledgers.values() if ledger.state is LedgerState.OPEN
        ]
        if owner is None or not owner.running or not still_open:
            return None
        ensemble = self._chance.choice(still_open).fragments[-1].ensemble
        dying = self._chance.sample(ensemble, min(2, len(ensemble)))
        victims = [bookie for bookie in self._world.bookies if bookie.name in dying]
        for victim in victims:
            victim.stop(self._chance.random() < 0.5)

        def changed(gone: set[str]) -> None:
            if gone & set(dying):
                return
            audit.on_ensemble = None
            if not self._world.healed:
                owner.stop(False)
                self._world.move_owner()

        audit.on_ensemble = changed

        def undo() -> None:
            audit.on_ensemble = None
            owner.start()
            for victim in victims:
                victim.start()

        return undo

    def _slow_ensemble_write(self) -> Undo:
        """The metadata become slow just when an ensemble is written."""
        rare = self._world.rare
        slow: list[Undo] = []
        rare.on_ensemble_write = lambda: slow.append(self._shared_store_delay())

        def undo() -> None:
            rare.on_ensemble_write = None
            for step in slow:
                step()

        return undo

    def _kill_replacement(self) -> Undo:
        """The bookie that comes into the next new ensemble dies before it stores anything."""
        world = self._world
        before = {
            name for ledger in world.audit.ledgers.values() if ledger.state is LedgerState.OPEN
            for name in ledger.fragments[-1].ensemble
        }
        victims: list[BookieProcess] = []

        def changed(ensemble: set[str]) -> None:
            world.audit.on_ensemble = None
            victims.extend(b for b in world.bookies if b.name in ensemble - before)
            for victim in victims:
                victim.stop(False)

        def undo() -> None:
            world.audit.on_ensemble = None
            for victim in victims:
                victim.start()

        world.audit.on_ensemble = changed
        return undo

    def _lost_ensemble_write(self) -> Undo | None:
        """The write of a new ensemble, or of a ledger's end, is lost while its writer cannot
        hear the metadata; a successor comes meanwhile."""
        owner, world = self._world.owner_process(), self._world
        bookie = self._one(world.bookies)
        if owner is None or bookie is None or not owner.running:
            return None
        target = self._chance.choice(("ensemble", "end", "record"))
        pairs = [(owner.name, STORE_HOST), (STORE_HOST, owner.name)]
        unblock: list[Undo] = []

        def strike() -> None:
            if not world.healed:
                unblock.append(self._block(pairs))
                late_s = self._chance.uniform(0.0, 0.2)
                world.loop.after(late_s, self._unless_healed(world.move_owner))
                if target == "record":
                    world.loop.after(self._chance.uniform(0.1, 0.6), release)

        def release() -> None:
            while unblock:
                unblock.pop()()

        if target == "end":
            world.rare.on_close_write = strike
        elif target == "record":
            world.rare.on_record_write = strike
        else:
            world.rare.on_ensemble_write = strike
            bookie.stop(self._chance.random() < 0.5)

        def undo() -> None:
            world.rare.forget()
            release()
            bookie.start()

        return undo

    def _failed_sync_then_cut(self) -> Undo | None:
        """Syncs fail on several bookies, and a little later the power does."""
        running = [bookie for bookie in self._world.bookies if bookie.running]
        if not running:
            return None
        for bookie in running:
            bookie.machine.fail_next_sync = True
        cuts: list[Undo] = []
        over: list[bool] = []

        def cut() -> None:
            if over:
                return
            for bookie in self._world.bookies:
                bookie.machine.fail_next_sync = False
                cuts.append(self._cut_at_write(bookie))

        self._world.loop.after(self._chance.uniform(0.1, 0.8), self._unless_healed(cut))

        def undo() -> None:
            over.append(True)
            for bookie in self._world.bookies:
                bookie.machine.fail_next_sync = False
                bookie.start()
            for step in cuts:
                step()

        return undo

    def _stall_and_takeover(self) -> Undo | None:
        """The indexes of most bookies take no writes when a successor must recover."""
        world, chance = self._world, self._chance
        stalled = chance.sample(world.bookies, len(world.bookies) - chance.choice((0, 0, 0, 1)))
        for bookie in stalled:
            bookie.index_stalled = True
        world.loop.after(chance.uniform(0.0, 0.4), self._unless_healed(world.move_owner))

        def undo() -> None:
            for bookie in stalled:
                bookie.index_stalled = False

        return undo

    def _rot_and_restart(self) -> Undo | None:
        """Damage that the rotting bookie meets in the replay of what its index lacks."""
        bookie = self._world.bookies[self._rotting]
        if self._world.config.quorums.ack_quorum < 2 or not bookie.running:
            return None
        if not bookie.machine.rot(recent=True):
            return None
        self._bounce(bookie)()
        if self._chance.random() < 0.5:
            at_s = self._chance.uniform(0.1, 0.5)
            self._world.loop.after(at_s, self._unless_healed(self._world.move_owner))
        return bookie.start

    def _takeover_and_strike(self) -> Undo | None:
        """A successor recovers while bookies fall over just when they answered its fence."""
        running = [bookie for bookie in self._world.bookies if bookie.running]
        if len(running) < 2 or not self._world.move_owner():
            return None
        for bookie in self._chance.sample(running, self._chance.randrange(1, 3)):
            self._strike_at_fence(bookie)
        return self._world.fabric.strikes.clear

    def _strike_at_fence(self, bookie: BookieProcess, power_cut: bool = False) -> None:
        strike = self._unless_healed(self._bounce(bookie, power_cut))
        self._world.fabric.strikes[bookie.name] = strike

    def _bounce(self, bookie: BookieProcess, power_cut: bool = False) -> Callable[[], None]:
        """Stop a bookie and start it again soon."""

        def bounce() -> None:
            bookie.stop(power_cut or self._chance.random() < 0.5)
            self._world.loop.after(self._chance.uniform(0.02, 0.2), bookie.start)

        return bounce

    def _unless_healed(self, act: Callable[[], object]) -> Callable[[], None]:
        def guarded() -> None:
            if not self._world.healed:
                act()

        return guarded

    def _delay(self, source: str, target: str, extra_s: float) -> Undo:
        fabric = self._world.fabric
        fabric.slow_down(source, target, extra_s)
        return lambda: fabric.slow_down(source, target, 0.0)

    def _stall_index(self) -> Undo | None:
        """The index of a bookie takes no writes for a while; its log does."""
        bookie = self._chance.choice(self._world.bookies)
        bookie.index_stalled = True

        def undo() -> None:
            bookie.index_stalled = False

        return undo

    # --- links ------------------------------------------------------------------------------
    def _block(self, pairs: list[tuple[str, str]]) -> Undo:
        fabric = self._world.fabric
        for source, target in pairs:
            fabric.block(source, target)

        def undo() -> None:
            for source, target in pairs:
                fabric.unblock(source, target)

        return undo

    def _between(self, first: str, second: str) -> list[tuple[str, str]]:
        """Both directions, or only one."""
        fate = self._chance.random()
        if fate < 0.5:
            return [(first, second), (second, first)]
        return [(first, second)] if fate < 0.75 else [(second, first)]

    def _part_broker_bookie(self) -> Undo | None:
        broker = self._owner_or_any()
        if broker is None:
            return None
        names = [bookie.name for bookie in self._world.bookies]
        chosen = self._chance.sample(names, self._chance.randrange(1, len(names) + 1))
        return self._block([p for name in chosen for p in self._between(broker.name, name)])

    def _part_broker_store(self) -> Undo | None:
        broker = self._owner_or_any()
        return self._block(self._between(broker.name, STORE_HOST)) if broker else None

    def _part_bookie_store(self) -> Undo | None:
        bookie = self._one(self._world.bookies)
        return self._block(self._between(bookie.name, STORE_HOST)) if bookie else None

    def _part_client_broker(self) -> Undo | None:
        broker = self._owner_or_any()
        if broker is None or not self._world.clients:
            return None
        client = self._chance.choice(self._world.clients)
        return self._block(self._between(client.name, broker.name))

    def _isolate(self) -> Undo | None:
        everybody = self._world.bookies + self._world.brokers
        victim = self._owner_or_any() if self._chance.random() < 0.5 else self._one(everybody)
        if victim is None:
            return None
        others = [p.name for p in everybody + self._world.clients if p is not victim]
        others.append(STORE_HOST)
        return self._block(
            [(victim.name, name) for name in others] + [(name, victim.name) for name in others]
        )

    def _break_links(self) -> Undo | None:
        links = self._world.fabric.live_links()
        if not links:
            return None
        for link in self._chance.sample(links, self._chance.randrange(1, len(links) + 1)):
            self._world.fabric.kill_link(link, 0.0)
        return _nothing

    def _slow_link(self) -> Undo | None:
        broker, bookie = self._owner_or_any(), self._one(self._world.bookies)
        if broker is None or bookie is None:
            return None
        pair = self._chance.choice(((broker.name, bookie.name), (bookie.name, broker.name)))
        fabric = self._world.fabric
        fabric.slow_down(*pair, self._chance.choice((0.02, 0.2, 1.0)))
        return lambda: fabric.slow_down(*pair, 0.0)

    # --- disks ------------------------------------------------------------------------------
    def _slow_disk(self) -> Undo | None:
        machine = self._world.machines[self._chance.randrange(len(self._world.machines))]
        machine.slow_s = self._chance.choice((0.01, 0.1, 0.5))

        def undo() -> None:
            machine.slow_s = 0.0

        return undo

    def _fail_sync(self) -> Undo | None:
        machine = self._chance.choice(self._world.machines)
        machine.fail_next_sync = True

        def undo() -> None:
            machine.fail_next_sync = False

        return undo

    def _fill_disk(self) -> Undo | None:
        machine = self._chance.choice(self._world.machines)
        machine.full = True

        def undo() -> None:
            machine.full = False

        return undo

    def _rot(self) -> Undo | None:
        """Damage old data of the one rotting bookie; half of the time it restarts at once."""
        if self._world.config.quorums.ack_quorum < 2:
            return None  # the only copy could be hit
        machine = self._world.machines[self._rotting]
        if not machine.rot():
            return None
        bookie = self._world.bookies[self._rotting]
        if bookie.running and self._chance.random() < 0.5:
            return self._stop(bookie, power_cut=self._chance.random() < 0.5)
        return _nothing

    # --- metadata ---------------------------------------------------------------------------
    def _store_outage(self) -> Undo | None:
        service = self._world.service
        service.up = False

        def undo() -> None:
            service.up = True

        return undo

    def _expire_broker(self) -> Undo | None:
        broker = self._owner_or_any()
        if broker is None or broker.store is None:
            return None
        self._world.service.expire(broker.store)
        return _nothing

    def _shared_store_delay(self) -> Undo:
        """Slow metadata: much happens while a compare-and-set is in flight."""
        times = self._world.service.times
        before = times.delay_max_s
        times.delay_max_s = 0.3

        def undo() -> None:
            times.delay_max_s = before

        return undo

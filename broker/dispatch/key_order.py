"""Keeps the messages of each key in order, and each key at one consumer at a time.

    sticky   a key goes to whoever owns its slot; when that changes, the key's later messages wait
             until what the former owner has of it is settled (`broker.dispatch.key_phase`)
    hold     later messages of a key wait while an earlier one has failed and is not settled

Everything is counted by the exact key: two keys of one slot never wait for each other. Only keys
of which something is out, waits or has failed are remembered. Nothing here does I/O: the caller
says what happened, and asks where messages may go.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum, auto
from heapq import heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

from broker.dispatch.key_phase import TRANSITIONS, Phase, Step
from broker.dispatch.masks import ones
from broker.dispatch.sticky_slots import StickySlots, slot_of

C = TypeVar("C", bound=Hashable)
T = TypeVar("T")
Keys = Sequence[str | None]


class _Nowhere(Enum):
    NOW = auto()


NOWHERE: Final = _Nowhere.NOW
FIRST_SENT: Final = TRANSITIONS[Phase.IDLE, Step.SENT_TO_OWNER]


class KeyState(Generic[C, T]):
    """One key."""

    __slots__ = (
        "consumer", "failed", "failed_order", "in_flight", "key", "phase", "slot", "version",
        "waiting",
    )

    def __init__(self, key: str, slot: int) -> None:
        self.key = key
        self.slot = slot
        self.phase = Phase.IDLE
        self.consumer: C | None = None
        """Who has messages of it, or had the last ones."""
        self.version = -1
        """Of the slots, when `phase` was last brought up to date."""
        self.in_flight = 0
        self.waiting: list[tuple[int, bool, T]] = []
        """A heap of (ordinal, never delivered, what the caller knows it by)."""
        self.failed: set[int] = set()
        self.failed_order: list[int] = []

    def first_failed(self) -> int | None:
        """The lowest ordinal that has failed and is not settled."""
        while self.failed_order and self.failed_order[0] not in self.failed:
            heappop(self.failed_order)
        return self.failed_order[0] if self.failed_order else None


class Sorted(NamedTuple, Generic[C]):
    """Where the fresh messages of an entry go, as masks."""

    sent: dict[C, int]
    """These count as sent to their consumer."""
    anybody: int
    """Without a key, or nobody's in particular."""
    aside: int
    """To be given to `set_aside`."""


class KeyOrder(Generic[C, T]):
    """The keys of one subscription. `C` are consumers, `T` what the caller knows messages by."""

    def __init__(self, *, sticky: bool, hold: bool) -> None:
        self.sticky = sticky
        self.hold = hold
        self._slots: StickySlots[C] = StickySlots()
        self._states: dict[str, KeyState[C, T]] = {}
        self._ready: dict[C | None, list[tuple[bool, int, KeyState[C, T]]]] = {}
        self._backed_up: dict[KeyState[C, T], None] = {}
        self._gone: set[int] = set()
        """Ordinals that wait no more, and are yet to be taken out of their keys' heaps."""
        self._moved = False
        self.held_keys = 0
        """Keys of which a message has failed and is not settled."""

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._states)

    # --- consumers

    def join(self, consumer: C) -> None:
        """It takes its share of the keys."""
        if self.sticky:
            self._slots.join(consumer)
            self._moved = True

    def leave(self, consumer: C) -> None:
        """It owns nothing any more; what it has is then to be returned or settled."""
        if self.sticky:
            self._slots.leave(consumer)
            self._moved = True

    # --- messages on their way out

    def sort(self, keys: Keys, mask: int, room: Callable[[C], int]) -> Sorted[C]:
        """Fresh messages `mask` of the next entry in order of the log.

        `room` says how many messages a consumer may be given now, and is asked once for each.
        """
        return self._sort_sticky(keys, mask, room) if self.sticky else self._sort_held(keys, mask)

    def _sort_held(self, keys: Keys, mask: int) -> Sorted[C]:
        aside, states = 0, self._states
        if states:
            for index in ones(mask):
                if keys[index] in states:
                    aside |= 1 << index
        return Sorted({}, mask & ~aside, aside)

    def _sort_sticky(self, keys: Keys, mask: int, room: Callable[[C], int]) -> Sorted[C]:
        sent: dict[C, int] = {}
        left: dict[C, int] = {}
        anybody = aside = 0
        states, slots, version, draining = (
            self._states, self._slots, self._slots.version, Phase.DRAINING
        )
        for index in ones(mask):
            key = keys[index]
            if key is None:
                anybody |= 1 << index
                continue
            owner: C | None
            state, slot = states.get(key), 0
            if state is None:
                slot = slot_of(key)
                owner = slots.owner(slot)
            else:
                if state.version != version:
                    self._notice(state)
                waits = state.waiting or state.failed or state.phase is draining
                owner = None if waits else state.consumer
            if owner is not None:
                available = left.get(owner)
                if available is None:
                    available = room(owner)
                left[owner] = available - 1
                if available > 0:
                    if state is None:
                        state = states[key] = KeyState(key, slot)
                        state.consumer, state.version = owner, version
                        state.phase = FIRST_SENT
                    state.in_flight += 1
                    sent[owner] = sent.get(owner, 0) | 1 << index
                    continue
            aside |= 1 << index
        return Sorted(sent, anybody, aside)

    def set_aside(self, first: int, keys: Keys, mask: int, token: T, *, fresh: bool) -> None:
        """Messages that wait for their turn: fresh ones, or those whose delay is over."""
        for index in ones(mask):
            key = keys[index]
            if key is not None:
                self._wait(self._state(key), first + index, token, fresh=fresh)

    def first(self, consumer: C | None) -> KeyState[C, T] | None:
        """The key whose first waiting message may go to this consumer now; of several, one that
        was delivered before, and the one that comes first in the log. None when not sticky: to
        anybody."""
        if self._moved:
            self._look_at_all()
        ready = self._ready.get(consumer)
        while ready:
            _, ordinal, state = ready[0]
            if self._may_go(state, ordinal, consumer):
                return state
            heappop(ready)
        self._ready.pop(consumer, None)
        return None

    def owners_waited_for(self) -> list[C | None]:
        """Whom `first` may have something for."""
        if self._moved:
            self._look_at_all()
        return list(self._ready)

    def first_of_all(self) -> KeyState[C, T] | None:
        """As `first`, whoever owns it: for when nothing is out and its owner takes nothing."""
        firsts = [
            state for consumer in self.owners_waited_for()
            if (state := self.first(consumer)) is not None
        ]
        return min(firsts, key=_rank) if firsts else None

    def send(self, state: KeyState[C, T], consumer: C) -> int:
        """The key's first waiting message, of the ordinal answered, goes to this consumer."""
        ordinal = heappop(state.waiting)[0]
        if self.sticky:
            owner = self._slots.owner(state.slot)
            step = Step.SENT_TO_OWNER if owner is consumer else Step.SENT_TO_ANOTHER
            state.phase = TRANSITIONS[state.phase, step]
            state.version = self._slots.version
            state.consumer = consumer
            state.in_flight += 1
        self._go_on(state)
        return ordinal

    # --- what becomes of messages

    def settled(self, first: int, keys: Keys, mask: int) -> None:
        """Messages that were with a consumer are acknowledged."""
        states = self._states
        for index in ones(mask):
            key = keys[index]
            state = states.get(key) if key is not None else None
            if state is None:
                continue
            freed = False
            if self.sticky:
                freed = self._one_less(state)
            if state.failed:
                self._forgive(state, first + index)
                freed = True
            if freed:
                self._go_on(state)

    def returned(
        self, first: int, keys: Keys, mask: int, token: T, *, failed: bool, now: bool
    ) -> None:
        """Messages that were with a consumer are to be delivered again: `now`, or when they are
        given to `set_aside`. `failed`: later ones of their keys wait for them, if keys hold."""
        for index in ones(mask):
            key = keys[index]
            if key is None:
                continue
            state = self._state(key)
            if self.sticky:
                self._one_less(state)
            self._put_back(state, first + index, token, failed=failed, now=now)

    def kept(
        self, first: int, keys: Keys, mask: int, token: T, *, failed: bool, now: bool
    ) -> None:
        """As `returned`, of messages that are with no consumer."""
        for index in ones(mask):
            key = keys[index]
            if key is not None:
                self._put_back(self._state(key), first + index, token, failed=failed, now=now)

    def withdrawn(self, first: int, keys: Keys, mask: int, *, waits: bool) -> None:
        """Messages that are with no consumer need not be delivered any more. `waits`: they were
        given to `set_aside`, or returned to go `now`."""
        for index in ones(mask):
            key = keys[index]
            state = self._states.get(key) if key is not None else None
            if state is None:
                continue
            self._forgive(state, first + index)
            if waits:
                self._gone.add(first + index)
            self._go_on(state)

    def clear(self) -> None:
        """Nothing is out and nothing waits any more; the consumers stay."""
        self._states.clear()
        self._ready.clear()
        self._backed_up.clear()
        self._gone.clear()
        self.held_keys = 0

    # --- for people

    def backed_up(self) -> Iterator[tuple[KeyState[C, T], bool]]:
        """Keys with messages that wait, and whether a failed one holds them."""
        if self._moved:
            self._look_at_all()
        for state in self._backed_up:
            failed = state.first_failed()
            yield state, failed is not None and failed < state.waiting[0][0]

    def owner(self, state: KeyState[C, T]) -> C | None:
        """Who owns the key's slot."""
        return self._slots.owner(state.slot)

    # --- inside

    def _state(self, key: str) -> KeyState[C, T]:
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = KeyState(key, slot_of(key) if self.sticky else 0)
        return state

    def _put_back(
        self, state: KeyState[C, T], ordinal: int, token: T, *, failed: bool, now: bool
    ) -> None:
        if failed and self.hold:
            if not state.failed:
                self.held_keys += 1
            if ordinal not in state.failed:
                state.failed.add(ordinal)
                heappush(state.failed_order, ordinal)
        if now:
            self._wait(state, ordinal, token, fresh=False)
        self._go_on(state)

    def _wait(self, state: KeyState[C, T], ordinal: int, token: T, *, fresh: bool) -> None:
        heappush(state.waiting, (ordinal, fresh, token))
        self._backed_up[state] = None
        if state.waiting[0][0] == ordinal:
            self._list(state)

    def _one_less(self, state: KeyState[C, T]) -> bool:
        """True when no consumer has anything of the key any more."""
        state.in_flight -= 1
        assert state.in_flight >= 0, f"more of {state.key!r} came back than went out"
        if state.in_flight:
            return False
        state.phase = TRANSITIONS[state.phase, Step.LAST_SETTLED]
        return True

    def _forgive(self, state: KeyState[C, T], ordinal: int) -> None:
        if ordinal in state.failed:
            state.failed.discard(ordinal)
            if not state.failed:
                state.failed_order.clear()
                self.held_keys -= 1

    def _go_on(self, state: KeyState[C, T]) -> None:
        """Something changed: what waits may be able to go, or there is nothing to remember."""
        while state.waiting and state.waiting[0][0] in self._gone:
            self._gone.discard(heappop(state.waiting)[0])
        if state.waiting:
            self._list(state)
            return
        self._backed_up.pop(state, None)
        if not state.in_flight and not state.failed:
            self._states.pop(state.key, None)

    def _list(self, state: KeyState[C, T]) -> None:
        """Note the key's first waiting message where it may go."""
        target = self._target(state)
        if target is not NOWHERE:
            entry = (*_rank(state), state)
            ready = self._ready.setdefault(target, [])
            if not ready or ready[0] != entry:
                heappush(ready, entry)

    def _target(self, state: KeyState[C, T]) -> C | _Nowhere | None:
        """Where the key's first waiting message may go; None: to anybody."""
        failed = state.first_failed() if state.failed else None
        if failed is not None and failed < state.waiting[0][0]:
            return NOWHERE
        if not self.sticky:
            return None
        self._notice(state)
        if state.phase is Phase.DRAINING:
            return NOWHERE
        owner = state.consumer if state.phase is Phase.FLOWING else self._slots.owner(state.slot)
        return NOWHERE if owner is None else owner

    def _may_go(self, state: KeyState[C, T], ordinal: int, consumer: C | None) -> bool:
        return (
            bool(state.waiting) and state.waiting[0][0] == ordinal
            and self._target(state) is consumer
        )

    def _notice(self, state: KeyState[C, T]) -> None:
        """Bring the phase up to date with who owns the slot."""
        if state.version == self._slots.version:
            return
        state.version = self._slots.version
        mine = self._slots.owner(state.slot) is state.consumer
        if state.phase is Phase.FLOWING and not mine:
            state.phase = TRANSITIONS[state.phase, Step.MOVED_AWAY]
        elif state.phase is Phase.DRAINING and mine:
            state.phase = TRANSITIONS[state.phase, Step.MOVED_BACK]

    def _look_at_all(self) -> None:
        """Slots moved: what waits may be for others now."""
        self._moved = False
        self._ready.clear()
        for state in self._backed_up:
            self._list(state)


def _rank(state: KeyState[C, T]) -> tuple[bool, int]:
    """Of keys whose first waiting message may go, the lowest is first."""
    ordinal, fresh, _ = state.waiting[0]
    return fresh, ordinal

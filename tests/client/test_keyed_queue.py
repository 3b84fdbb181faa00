"""A queue that lists what waits by key, whatever happens to it."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from magnetar.entry import Columns, Prefix, encode_batch, encode_prefix
from magnetar.keyed_queue import KeyedQueue
from magnetar.message import Message
from magnetar.wire.frames import Delivered

KEYS = ["a", "b", "c", None]


class KeyedQueueMachine(RuleBasedStateMachine):
    """Entries arrive in order; what is withdrawn or lost with a link may arrive again."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = KeyedQueue("t", -1, fixed_window=10_000)
        self.keys: list[list[str | None]] = []
        self.waiting: list[tuple[int, int]] = []
        self.in_hand: list[tuple[int, int]] = []
        self.returned: list[tuple[int, int]] = []

    def deliver(self, entry: int, indexes: list[int]) -> None:
        count = len(self.keys[entry])
        skip = sum(1 << index for index in range(count) if index not in indexes)
        body = encode_prefix(Prefix(1, 1, 0)) + encode_batch(
            "p", 0, [b"%d:%d" % (entry, index) for index in range(count)], publish_time_ms=1,
            columns=Columns(ordering_keys=self.keys[entry]))
        self.queue.add(Delivered(7, entry, body, skip.to_bytes((count + 7) // 8, "little")))
        self.waiting += [(entry, index) for index in indexes]

    def took(self, messages: list[Message]) -> None:
        places = [(message.entry.entry_id, message.index) for message in messages]
        assert places == self.waiting[:len(places)]
        del self.waiting[:len(places)]
        self.in_hand += places

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=9))
    def arrive(self, keys: list[str | None]) -> None:
        self.keys.append(keys)
        self.deliver(len(self.keys) - 1, list(range(len(keys))))

    @precondition(lambda self: self.returned)
    @rule(chance=st.randoms(use_true_random=False))
    def arrive_again(self, chance: object) -> None:
        entry = self.returned[0][0]
        indexes = sorted(index for one, index in self.returned if one == entry)
        self.returned = [place for place in self.returned if place[0] != entry]
        self.deliver(entry, indexes)

    @rule()
    def pop(self) -> None:
        message = self.queue.pop()
        assert (message is None) == (not self.waiting)
        self.took([] if message is None else [message])

    @rule(most=st.integers(1, 20))
    def pop_many(self, most: int) -> None:
        messages = self.queue.pop_many(most)
        assert len(messages) == min(most, len(self.waiting))
        self.took(messages)

    @precondition(lambda self: self.waiting)
    @rule()
    def fail_the_next(self) -> None:
        message = self.queue.pop()
        assert message is not None
        self.took([message])
        place = (message.entry.entry_id, message.index)
        key = message.ordering_key
        found = self.queue.withdraw_behind(message)
        behind = [
            (entry, index) for entry, index in self.waiting
            if key is not None and self.keys[entry][index] == key and (entry, index) > place
        ]
        assert Counter(places_of(found)) == Counter(behind)
        self.waiting = [one for one in self.waiting if one not in behind]
        self.returned += behind

    @rule()
    def withdraw_all(self) -> None:
        assert Counter(places_of(self.queue.withdraw_all())) == Counter(self.waiting)
        self.returned += self.waiting
        self.waiting = []

    @rule()
    def lose_the_link(self) -> None:
        self.queue.new_link()
        self.returned += self.waiting
        self.waiting = []

    @invariant()
    def the_lists_agree(self) -> None:
        assert self.queue.count == len(self.waiting)
        listed = [
            (entry.entry_id, index)
            for places in self.queue._of_key.values() for entry, index in places]
        assert sorted(listed) == sorted(
            (entry, index) for entry, index in self.waiting if self.keys[entry][index])
        for key, places in self.queue._of_key.items():
            assert [(entry.entry_id, index) for entry, index in places] == [
                (entry, index) for entry, index in self.waiting if self.keys[entry][index] == key]


def places_of(found: dict[tuple[int, int], int]) -> list[tuple[int, int]]:
    return [
        (entry, index) for (_, entry), bits in found.items()
        for index in range(bits.bit_length()) if bits >> index & 1
    ]


TestKeyedQueue = KeyedQueueMachine.TestCase

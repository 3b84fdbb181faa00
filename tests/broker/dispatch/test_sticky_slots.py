"""Slots are shared out evenly, and no more of them move than must."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.dispatch.sticky_slots import SLOTS, StickySlots, slot_of


def owners(slots: StickySlots[str]) -> list[str | None]:
    return [slots.owner(slot) for slot in range(SLOTS)]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), min_size=1, max_size=25))
def test_shares_are_even_and_only_what_must_move_moves(changes: list[tuple[bool, int]]) -> None:
    slots: StickySlots[str] = StickySlots()
    members: set[str] = set()
    before = owners(slots)
    for joins, number in changes:
        name = f"c{number}"
        if joins:
            slots.join(name)
        else:
            slots.leave(name)
        after = owners(slots)
        moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
        if joins and name not in members:
            assert {new for _, new in moved} == {name}
        elif not joins and name in members:
            assert {old for old, _ in moved} == {name}
        else:
            assert not moved
        members = members | {name} if joins else members - {name}
        sizes = [len(slots.owned_by(member)) for member in members]
        assert sum(sizes) == (SLOTS if members else 0)
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert all(after[slot] == member for member in members
                   for slot in slots.owned_by(member))
        before = after


def test_ten_thousand_consumers_have_a_share_each() -> None:
    slots: StickySlots[int] = StickySlots()
    for number in range(10_000):
        slots.join(number)

    assert {len(slots.owned_by(number)) for number in range(10_000)} == {6, 7}


def test_keys_that_look_alike_spread_over_the_slots() -> None:
    families = {
        "numbers": [str(number) for number in range(20_000)],
        "names": [f"customer-{number:08d}" for number in range(20_000)],
        "long": [f"urn:region:eu-west:{'x' * 40}:{number * 64}" for number in range(20_000)],
        "letters": [a + b + c for a in "abcdefghijklmnop" for b in "abcdefghijklmnop"
                    for c in "abcdefghijklmnop"],
    }
    for name, keys in families.items():
        shares = [0] * 16
        for key in keys:
            shares[slot_of(key) * 16 // SLOTS] += 1
        assert max(shares) < 1.25 * len(keys) / 16, name
        assert min(shares) > 0.75 * len(keys) / 16, name


def test_the_slot_of_a_key_never_changes() -> None:
    assert [slot_of(key) for key in ("", "a", "order-1", "größe")] == [0, 64093, 12780, 33512]

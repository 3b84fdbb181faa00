"""Bitmaps over the messages of an entry."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from broker.dispatch.masks import in_order, ones


@given(st.lists(st.integers(0, 3), max_size=40))
def test_messages_of_several_masks_come_in_their_order_each_once(owners: list[int]) -> None:
    masks = [
        sum(1 << index for index, owner in enumerate(owners) if owner == place)
        for place in range(4)
    ]

    runs = in_order(masks)

    indexes = [index for _, run in runs for index in ones(run)]
    assert indexes == list(range(len(owners)))
    assert all(run & ~masks[place] == 0 for place, run in runs)
    assert all(one[0] != other[0] for one, other in itertools.pairwise(runs))

"""Cuts what was collected for a pull to the bytes it asked for."""

from __future__ import annotations

from collections.abc import Sequence

from broker.conversation import Delivery, MessagePosition
from broker.cut_entry import bitmap
from magnetar.entry import EntryView, indexes_of, parse_header, parse_prefix, select
from magnetar.errors import InvalidFrame, NotSupported


def meant_mask(delivery: Delivery) -> int:
    """Which messages of its entry a delivery is about."""
    if delivery.picked:
        return int.from_bytes(delivery.picked, "little")
    count = parse_header(parse_prefix(delivery.entry)[1]).count
    return ((1 << count) - 1) & ~int.from_bytes(delivery.skip, "little")


def meant_position(delivery: Delivery) -> MessagePosition:
    """As `meant_mask`, as clients name them."""
    return MessagePosition(
        delivery.ledger_id, delivery.entry_id, batch_mask=meant_mask(delivery))


def keep_bytes(
    deliveries: Sequence[Delivery], max_bytes: int
) -> tuple[list[Delivery], list[MessagePosition]]:
    """What fits, in order, and what is to be given back. One message fits in any case."""
    left = max_bytes
    for number, delivery in enumerate(deliveries):
        if len(delivery.entry) > left:
            kept, rest = _split(delivery, left, at_least_one=number == 0)
            later = map(meant_position, deliveries[number + 1:])
            return [*deliveries[:number], *kept], [*rest, *later]
        left -= len(delivery.entry)
    return list(deliveries), []


def _split(
    delivery: Delivery, max_bytes: int, *, at_least_one: bool
) -> tuple[list[Delivery], list[MessagePosition]]:
    prefix_view = memoryview(delivery.entry)
    _, batch = parse_prefix(prefix_view)
    mask = meant_mask(delivery)
    indexes = indexes_of(mask)
    try:
        view = EntryView(batch, verify=False)
        # In a cut entry the messages meant are all there are, in their order.
        places = list(range(len(indexes))) if delivery.picked else indexes
        # As if it would not compress: how well a part of it does is not known before.
        size_bytes = len(delivery.entry) - view.header.stored_bytes
        fitting = 0
        for place in places:
            size_bytes += len(view.payload(place))
            if size_bytes > max_bytes:
                break
            fitting += 1
        fitting = max(fitting, 1) if at_least_one else fitting
        if not fitting:
            return [], [meant_position(delivery)]
        if fitting == view.count:
            return [delivery], []
        part = select(view, places[:fitting])
    except (InvalidFrame, NotSupported):
        # What does not read here goes out whole: its reader is told what is wrong with it.
        return ([delivery], []) if at_least_one else ([], [meant_position(delivery)])
    prefix = bytes(prefix_view[:len(delivery.entry) - len(batch)])
    kept_mask = mask & ((2 << indexes[fitting - 1]) - 1)
    kept = delivery._replace(
        entry=prefix + part, skip=b"", picked=bitmap(kept_mask, mask.bit_length()))
    rest_mask = mask & ~kept_mask
    if not rest_mask:
        return [kept], []
    return [kept], [MessagePosition(
        delivery.ledger_id, delivery.entry_id, batch_mask=rest_mask)]

"""Row 74: ids of 64 bits, without wrapping, wherever they are carried."""

from __future__ import annotations

import pytest

from broker.conversation import MessagePosition
from broker.stream_codec import position_of
from magnetar import MessageId
from magnetar.wire import broker_pb2 as pb

LAST = 2**63 - 1


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**32 - 1, 2**53 + 1, LAST - 1, LAST])
def test_ids_come_back_as_they_were(number: int) -> None:
    message_id = MessageId(2**31 - 1, number, LAST - number, 2**31 - 1)
    wire = pb.Position.FromString(
        pb.Position(ledger_id=number, entry_id=LAST - number, batch_index=7).SerializeToString())

    assert MessageId.deserialize(message_id.serialize()) == message_id
    assert position_of(wire) == MessagePosition(number, LAST - number, 7)


def test_the_last_id_is_above_all_others() -> None:
    ids = [MessageId(0, ledger, entry, index)
           for ledger in (0, LAST) for entry in (0, LAST) for index in (0, 2**31 - 1)]

    assert ids == sorted(ids)
    assert ids[-1].serialize() > ids[0].serialize()

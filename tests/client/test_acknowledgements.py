"""Groups of acknowledgements: their size, and how far a cumulative one goes."""

from __future__ import annotations

from magnetar.acknowledgements import POSITIONS_A_REQUEST, Acknowledger
from magnetar.message_id import MessageId
from magnetar.receive_queue import ReceiveQueue


def acknowledger() -> Acknowledger:
    return Acknowledger(ReceiveQueue("persistent://public/default/t", -1))


def test_many_acknowledgements_go_in_requests_a_broker_takes() -> None:
    made = acknowledger()
    groups = [made.add(MessageId(-1, 1, entry, 0)) for entry in range(2 * POSITIONS_A_REQUEST + 1)]

    sizes = []
    while (request := made.next_request(len(sizes))) is not None:
        sizes.append(len(request.individual))
        assert made.settled(len(sizes) - 1, None)

    assert sizes == [POSITIONS_A_REQUEST, POSITIONS_A_REQUEST, 1]
    assert all(group.done for group in groups)
    assert made.newest is None


def test_what_waits_fails_with_its_consumer() -> None:
    made = acknowledger()
    groups = [made.add(MessageId(-1, 1, entry, 0)) for entry in range(2 * POSITIONS_A_REQUEST)]
    error = RuntimeError("gone")

    made.fail(error)  # type: ignore[arg-type]

    assert {group.error for group in groups} == {error}


def test_a_whole_entry_reaches_beyond_its_messages() -> None:
    made = acknowledger()
    made.add_cumulative(MessageId(-1, 1, 7, -1))
    made.add_cumulative(MessageId(-1, 1, 7, 3))

    request = made.next_request(1)

    assert request is not None
    assert request.cumulative.batch_index == -1

"""The hand coding and the generated coding of the hot frames are the same bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetar import errors
from magnetar.errors import InvalidFrame
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import to_error, to_exception
from magnetar.wire.frames import (
    Delivered,
    decode_batches,
    decode_deliveries,
    encode_batches,
    encode_deliveries,
)

U64 = st.integers(0, 2**64 - 1)
DELIVERED = st.builds(
    Delivered, ledger_id=U64, entry_id=st.integers(-1, 2**63 - 1), entry=st.binary(max_size=300),
    skip=st.binary(max_size=20), redelivery_count=st.integers(0, 2**32 - 1), epoch=U64,
    picked=st.binary(max_size=20),
)


def generated(deliveries: list[Delivered]) -> pb.ConsumeReply:
    return pb.ConsumeReply(deliveries=[
        pb.Delivery(**delivered._asdict()) for delivered in deliveries
    ])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_batches(batches: list[bytes]) -> None:
    frame = encode_batches(batches)

    assert frame == pb.ProduceRequest(batches=batches).SerializeToString()
    found = decode_batches(frame)
    assert found is not None and [bytes(batch) for batch in found] == batches


@settings(max_examples=100, deadline=None)
@given(st.lists(DELIVERED, min_size=1, max_size=5))
def test_deliveries(deliveries: list[Delivered]) -> None:
    frame = encode_deliveries(deliveries)

    assert frame == generated(deliveries).SerializeToString()
    assert decode_deliveries(frame) == deliveries


def test_other_frames_are_left_to_the_generated_code() -> None:
    mixed = pb.ConsumeReply(deliveries=[pb.Delivery(entry_id=1)], epoch=2)

    assert decode_deliveries(mixed.SerializeToString()) is None
    assert decode_batches(pb.ProduceRequest(close=True).SerializeToString()) is None
    assert decode_deliveries(b"") is None


def test_fields_of_a_later_version_are_passed_over() -> None:
    body = pb.Delivery(ledger_id=3, entry=b"x").SerializeToString() + b"\xba\x01\x01z"
    frame = b"\x12" + bytes([len(body)]) + body

    assert decode_deliveries(frame) == [Delivered(3, 0, b"x")]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_junk_is_invalid_or_left(junk: bytes) -> None:
    for decode in (decode_batches, decode_deliveries):
        for frame in (junk, b"\x12" + junk):
            with contextlib.suppress(InvalidFrame):
                decode(frame)


@pytest.mark.parametrize("kind", [
    errors.InvalidTopicName, errors.MessageTooLarge, errors.InvalidFrame, errors.NotSupported,
    errors.NotOwner, errors.ProducerFenced, errors.ConsumerBusy, errors.TopicNotFound,
    errors.SubscriptionNotFound, errors.NotEnoughBookies, errors.Unauthorized,
    errors.ConnectionFailed, errors.InvalidArgument,
])
def test_errors_survive_the_wire(kind: type[errors.MagnetarError]) -> None:
    found = to_exception(to_error(kind("why")))

    assert (type(found), str(found)) == (kind, "why")


def test_errors_of_the_servers_are_told_as_what_a_client_can_do() -> None:
    overlap = to_exception(to_error(errors.SequenceOverlap(5)))

    assert isinstance(overlap, errors.SequenceOverlap) and overlap.last_sequence_id == 5
    assert to_error(errors.LedgerFenced("x")).code == pb.UNAVAILABLE
    assert to_error(RuntimeError("x")).code == pb.INTERNAL

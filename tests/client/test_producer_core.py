"""The producer's core without any I/O."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetar.batch import OVERHEAD_BYTES, Batch, Options
from magnetar.entry import EntryView, parse_header
from magnetar.errors import ConnectionFailed, InvalidFrame, ProducerFenced, SequenceOverlap
from magnetar.producer_core import ProducerCore, ProducerLimits


class StoppedClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return 1

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the core never sleeps")


def opened(limits: ProducerLimits | None = None, last: int = -1, **options: object) -> ProducerCore:
    core = ProducerCore(StoppedClock(), limits, **options)  # type: ignore[arg-type]
    core.opened("p", 1, last, 1000)
    return core


def test_below_the_eager_depth_everything_goes_at_once_then_it_collects() -> None:
    core = opened(ProducerLimits(eager_batches=2))
    for _ in range(5):
        core.add(b"x")
        core.next_batches()

    assert not core.sendable
    core.receipt(0, 1, 7, 0)
    (collected,) = core.next_batches()
    assert EntryView(collected).count == 3


def test_full_batches_go_out_up_to_the_depth_and_frames_have_a_bound() -> None:
    size = 100
    core = opened(ProducerLimits(
        batch_bytes=size + OVERHEAD_BYTES, frame_bytes=500, batches_in_flight=5))
    core.add_many([bytes(size)] * 9)

    assert [len(core.next_batches()) for _ in range(4)] == [3, 2, 0, 0]


@pytest.mark.parametrize("many", [False, True])
def test_batches_of_small_messages_keep_to_the_limit_of_the_topic(many: bool) -> None:
    core = ProducerCore(StoppedClock(), ProducerLimits(batches_in_flight=1_000))
    core.opened("p" * 200, 1, -1, 1_024)
    options = Options(
        {"k": "v"}, "partition", "ordering", 1, 2, "tag", 3,
        sum(map(len, ("k", "v", "partition", "ordering", "tag"))))
    if many:
        core.add_many([b"x"] * 200)
    else:
        for _ in range(200):
            core.add(b"x", options=options)

    sent: list[bytes] = []
    while frame := core.next_batches():
        sent += frame
        for batch in frame:
            header = parse_header(batch)
            core.receipt(header.first_sequence_id, header.count, 7, 0)

    assert max(map(len, sent)) <= 1_024
    assert sum(EntryView(batch).count for batch in sent) == 200
    assert len(sent) < 100


def test_resends_are_the_same_bytes_in_the_same_order() -> None:
    core = opened(ProducerLimits(batch_messages=2))
    core.add_many([b"%d" % number for number in range(7)])
    sent = [batch for _ in range(4) for batch in core.next_batches()]
    core.receipt(0, 2, 7, 0)
    core.disconnected()
    assert core.next_batches() == []

    core.opened("p", 1, 3, 1000)

    assert [batch for _ in range(4) for batch in core.next_batches()] == sent[1:]


def test_receipts_out_of_order_are_refused_and_doubled_ones_ignored() -> None:
    core = opened(ProducerLimits(batch_messages=1))
    core.add_many([b"a", b"b", b"c"])
    while core.next_batches():
        pass

    with pytest.raises(InvalidFrame):
        core.receipt(1, 1, 7, 1)
    assert core.receipt(0, 1, 7, 0) is not None
    assert core.receipt(0, 1, 7, 0) is None
    with pytest.raises(InvalidFrame):
        core.receipt(1, 5, 7, 1)


def test_an_unknown_outcome_keeps_the_batch() -> None:
    core = opened()
    batch = core.add(b"a")
    core.next_batches()

    with pytest.raises(ConnectionFailed):
        core.receipt(0, 1, 0, 0, ConnectionFailed("unknown"))
    assert batch.outcome is None


def test_an_overlap_cuts_what_is_stored() -> None:
    core = opened()
    core.add_many([b"a", b"b", b"c"])
    core.next_batches()
    batch = core.last_batch
    assert batch is not None

    with pytest.raises(SequenceOverlap):
        core.receipt(0, 3, 0, 0, SequenceOverlap(1))
    core.disconnected()
    core.opened("p", 1, 1, 1000)
    (again,) = core.next_batches()

    view = EntryView(again)
    assert (view.payloads(), view.header.first_sequence_id) == ([b"c"], 2)
    assert core.receipt(2, 1, 7, 9) is batch
    assert [batch.message_id(-1, index).entry_id for index in range(3)] == [-1, -1, 9]


def test_no_batch_straddles_what_was_stored_before() -> None:
    core = opened(last=4, initial_sequence_id=-1)
    core.add_many([b"%d" % number for number in range(10)])
    core.add(b"later", sequence_id=20)

    batches = [EntryView(batch) for _ in range(3) for batch in core.next_batches()]
    assert [(view.header.first_sequence_id, view.header.last_sequence_id)
            for view in batches] == [(0, 4), (5, 20)]


def test_failing_settles_everything_oldest_first() -> None:
    core = opened(ProducerLimits(batch_messages=1))
    core.add_many([b"a", b"b", b"c"])
    core.next_batches()

    failed = core.fail_all(ProducerFenced("gone"))

    assert [batch.first_sequence_id for batch in failed] == [0, 1, 2]
    assert core.pending_bytes == 0 and core.last_batch is None


class Broker:
    """Stores batches as a broker with deduplication does, and forgets to answer at times."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.places: dict[int, int] = {}
        self.last = -1

    def take(self, encoded: bytes) -> tuple[int, int, int, int]:
        view = EntryView(encoded)
        first, last = view.header.first_sequence_id, view.header.last_sequence_id
        if last > self.last:
            assert first > self.last
            self.places[first] = len(self.places)
            self.stored += view.payloads()
            self.last = last
        return first, view.count, 7, self.places[first]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nothing_is_lost_doubled_or_reordered(data: st.DataObject) -> None:
    limits = ProducerLimits(
        batch_bytes=200, frame_bytes=500, queue_bytes=2000, batches_in_flight=4, eager_batches=2)
    core, broker = opened(limits), Broker()
    sent: list[bytes] = []
    settled: list[Batch] = []
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["add", "add_many", "exchange", "break"]))
        if step == "add" and core.pending_bytes < 1500:
            sent.append(b"%d" % len(sent))
            core.add(sent[-1])
        elif step == "add_many":
            wanted = [b"%d" % (len(sent) + number) for number in range(12)]
            placed = core.add_many(wanted)
            sent += wanted[:sum(count for _, _, count in placed)]
        elif step == "break":
            for batch in core.next_batches()[:data.draw(st.integers(0, 3))]:
                broker.take(batch)
            core.disconnected()
            core.opened("p", 1, broker.last, 1000)
        else:
            exchange(core, broker, settled)
    while core.last_batch is not None:
        exchange(core, broker, settled)

    assert broker.stored == sent
    assert core.acknowledged_messages == len(sent)
    assert core.pending_bytes == 0
    assert sum(batch.count for batch in settled) == len(sent)


def exchange(core: ProducerCore, broker: Broker, settled: list[Batch]) -> None:
    for encoded in core.next_batches():
        batch = core.receipt(*broker.take(encoded))
        assert batch is not None
        settled.append(batch)

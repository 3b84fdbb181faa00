"""Who is active, and how that changes hands."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.dispatch.failover import Failover


def test_without_partitions_the_active_one_stays_until_it_leaves() -> None:
    group: Failover[str] = Failover()
    group.join("1", "z")
    group.join("2", "a")
    group.join("3", "b")
    assert group.served == "1"

    group.leave("1")

    assert group.served == "2"
    group.leave("3")
    group.leave("2")
    assert group.served is None


def test_partitions_are_shared_out_by_name() -> None:
    active = []
    for partition in range(5):
        group: Failover[str] = Failover(partition)
        for name in ("c", "a", "b"):
            group.join(name, name)
            group.switch()
        active.append(group.active)

    assert active == ["a", "b", "c", "a", "b"]


def test_a_join_that_moves_the_partition_waits_for_what_is_out() -> None:
    group: Failover[str] = Failover(0)
    group.join("1", "b")

    group.join("2", "a")

    assert (group.active, group.successor, group.served) == ("1", "2", None)
    group.switch()
    assert (group.active, group.served) == ("2", "2")


def test_a_joiner_that_leaves_at_once_leaves_all_as_it_was() -> None:
    group: Failover[str] = Failover(0)
    group.join("1", "b")
    group.join("2", "a")

    group.leave("2")

    assert group.served == "1"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-1, 5), st.lists(
    st.tuples(st.sampled_from(["join", "leave", "switch"]), st.integers(0, 6)), max_size=40))
def test_somebody_is_active_while_anybody_is_there(
    partition: int, changes: list[tuple[str, int]]
) -> None:
    group: Failover[int] = Failover(partition)
    members: list[int] = []
    for what, number in changes:
        was = group.active
        if what == "join" and number not in members:
            members.append(number)
            group.join(number, f"n{number}")
            assert was is None or group.active == was
        elif what == "leave" and number in members:
            members.remove(number)
            group.leave(number)
        elif what == "switch":
            group.switch()
        assert (group.active in members) if members else group.active is None
        assert group.successor is None or group.successor in members
        if members and partition >= 0:
            wanted = sorted(members)[partition % len(members)]
            assert wanted in (group.active, group.successor)

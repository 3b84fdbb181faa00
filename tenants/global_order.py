"""One order of all messages: a topic that promises it has one log."""

from __future__ import annotations

from magnetar.errors import InvalidArgument
from magnetar.topic import TopicName
from tenants.policies import TopicPolicies


def check_partitions_keep_order(
    topic: TopicName, policies: TopicPolicies, partitions: int
) -> None:
    """Raises InvalidArgument for several partitions of a topic with `global_order`."""
    if policies.global_order and partitions > 1:
        raise InvalidArgument(
            f"{topic.full} keeps one order of all its messages (policy global_order), so it cannot"
            f" have {partitions} partitions; take the policy back first, if order within a"
            " partition is enough"
        )

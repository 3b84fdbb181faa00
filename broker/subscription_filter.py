"""What all consumers of a subscription want: one filter, remembered with the cursor.

Consumers share what a subscription has left, so they must want the same: one of another mind
would get messages acknowledged that it wanted. Whoever comes when nobody is attached decides,
also by giving no filter; what was passed over before stays acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.selector import FilterSyntaxError, MessageFilter, parse_filter
from broker.state_records import FilterSet, StateRecord
from magnetar.errors import ConsumerBusy

if TYPE_CHECKING:
    from broker.subscription import Subscription


class SubscriptionFilter:
    """The filter as stored. It is compiled by the consumer that brings it."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.tags = ""
        self.expression = ""

    def agree(self, wanted: MessageFilter | None) -> FilterSet | None:
        """Let a consumer with this filter in, and answer the change to be stored, if it is one.

        Raises ConsumerBusy.
        """
        subscription = self._subscription
        if subscription.consumers:
            current = subscription.dispatcher.reader.filter
            if wanted != current:
                raise ConsumerBusy(
                    f"subscription {subscription.name!r} is in use with {_shown(current)}, not"
                    f" with {_shown(wanted)}; all its consumers take the same"
                )
            return None
        if self._means(wanted):
            return None
        record = FilterSet(
            subscription.name, wanted.tags_text if wanted else "",
            wanted.expression_text if wanted else "",
        )
        self.restore(record)
        return record

    def compiled(self) -> MessageFilter | None:
        """The stored filter; None when there is none. Raises FilterSyntaxError."""
        return parse_filter(self.tags, self.expression)

    def _means(self, wanted: MessageFilter | None) -> bool:
        try:
            return self.compiled() == wanted
        except FilterSyntaxError:  # of a version that read more
            return False

    def restore(self, record: FilterSet) -> None:
        """As a state record says."""
        self.tags, self.expression = record.tags, record.expression

    def snapshot(self) -> list[StateRecord]:
        """The record that makes the filter as it is; none for none."""
        if not self.tags and not self.expression:
            return []
        return [FilterSet(self._subscription.name, self.tags, self.expression)]


def _shown(wanted: MessageFilter | None) -> str:
    return "no filter" if wanted is None else str(wanted)

"""What all consumers of a subscription agree on about messages that fail.

As with the filter: whoever comes when nobody is attached decides, also by leaving everything
open; the others agree, or leave it open. It is remembered with the cursor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.conversation import HoldFailedKeys, OpenConsumer
from broker.state_records import OptionsSet, StateRecord, SubscriptionKind
from magnetar.errors import ConsumerBusy, InvalidArgument, InvalidTopicName
from magnetar.topic import TopicName

if TYPE_CHECKING:
    from broker.subscription import Subscription


class SubscriptionOptions:
    """As stored. `dead_letter_topic` empty: the default one."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.hold = HoldFailedKeys.DEFAULT
        self.max_deliveries = 0
        self.dead_letter_topic = ""

    def holds(self, kind: SubscriptionKind) -> bool:
        """Whether a failed message holds back the later ones of its key."""
        match self.hold:
            case HoldFailedKeys.DEFAULT:
                return kind is SubscriptionKind.KEY_SHARED
            case HoldFailedKeys.HOLD:
                return True
            case HoldFailedKeys.PASS:
                return False

    def agree(self, request: OpenConsumer) -> OptionsSet | None:
        """Let a consumer with these options in, and answer the change to be stored, if it is one.

        Raises ConsumerBusy, InvalidArgument.
        """
        subscription = self._subscription
        wanted = OptionsSet(
            subscription.name, request.hold_failed_keys, request.max_deliveries,
            self._full_name(request.dead_letter_topic),
        )
        if not subscription.consumers:
            if wanted == self._record():
                return None
            self.restore(wanted)
            return wanted
        self._refuse_unless_same(request, wanted)
        return None

    def _full_name(self, topic: str) -> str:
        if not topic:
            return ""
        try:
            full = TopicName.parse(topic).full
        except InvalidTopicName as error:
            raise InvalidArgument(f"the dead-letter topic: {error}") from error
        if full == self._subscription.topic_name:
            raise InvalidArgument("the dead-letter topic of a subscription is another topic")
        return full

    def _refuse_unless_same(self, request: OpenConsumer, wanted: OptionsSet) -> None:
        asked = request.hold_failed_keys
        if asked is not HoldFailedKeys.DEFAULT:
            now, then = self.holds(request.kind), asked is HoldFailedKeys.HOLD
            if now is not then:
                self._busy("hold_failed_keys", _word(now), _word(then))
        if wanted.max_deliveries and wanted.max_deliveries != self.max_deliveries:
            self._busy("max_deliveries", str(self.max_deliveries or "without bound"),
                       str(wanted.max_deliveries))
        target = self._subscription.dead_letter_target
        if wanted.dead_letter_topic and wanted.dead_letter_topic != target:
            self._busy("dead_letter_topic", target, wanted.dead_letter_topic)

    def _busy(self, option: str, now: str, wanted: str) -> None:
        raise ConsumerBusy(
            f"subscription {self._subscription.name!r} is in use with {option} {now}, not"
            f" {wanted}; all its consumers take the same, or leave it open"
        )

    def _record(self) -> OptionsSet:
        return OptionsSet(
            self._subscription.name, self.hold, self.max_deliveries, self.dead_letter_topic
        )

    def restore(self, record: OptionsSet) -> None:
        """As a state record says."""
        self.hold = HoldFailedKeys(record.hold_failed_keys)
        self.max_deliveries = record.max_deliveries
        self.dead_letter_topic = record.dead_letter_topic

    def snapshot(self) -> list[StateRecord]:
        """The record that makes the options as they are; none when all is open."""
        record = self._record()
        is_open = record == OptionsSet(self._subscription.name, HoldFailedKeys.DEFAULT, 0, "")
        return [] if is_open else [record]


def _word(hold: bool) -> str:
    return "hold" if hold else "pass"

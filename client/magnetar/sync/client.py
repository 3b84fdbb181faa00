"""A client for any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from magnetar import client as asynchronous
from magnetar.consuming import Consumer as AsyncConsumer
from magnetar.consuming import OnActiveChanged
from magnetar.enums import InitialPosition
from magnetar.multi_topic_reader import Start
from magnetar.redrive import RedriveReport
from magnetar.sync.consumer import Consumer
from magnetar.sync.loop_thread import THREAD
from magnetar.sync.producer import Producer
from magnetar.sync.pull import PullConsumer
from magnetar.sync.reader import Reader
from magnetar.topic_choice import Topics

if TYPE_CHECKING:
    from magnetar.admin.sync import Admin


class Client:
    """Speaks to a cluster; takes what the asynchronous `Client` takes."""

    def __init__(self, service_url: str | None = None, **settings: Any) -> None:
        async def work() -> asynchronous.Client:
            return asynchronous.Client(service_url, **settings)

        self._client = THREAD.run(work())
        self._admin: Admin | None = None

    @property
    def admin(self) -> Admin:
        """See the asynchronous `admin`."""
        if self._admin is None:
            from magnetar.admin.sync import Admin

            self._admin = Admin(self._client.admin, THREAD.run)
        return self._admin

    def create_producer(self, topic: str, producer_name: str = "", **settings: Any) -> Producer:
        """See the asynchronous `create_producer`."""
        return Producer(THREAD.run(
            self._client.create_producer(topic, producer_name, **settings)))

    def subscribe(
        self, topic: Topics | None = None, subscription_name: str = "", *,
        on_active_changed: Callable[[Consumer, bool], object] | None = None, **settings: Any,
    ) -> Consumer:
        """See the asynchronous `subscribe`; `on_active_changed` runs in the SDK's thread."""
        tell: OnActiveChanged | None = None
        if (told := on_active_changed) is not None:
            def tell(consumer: AsyncConsumer, active: bool) -> object:
                return told(Consumer(consumer), active)

        return Consumer(THREAD.run(self._client.subscribe(
            topic, subscription_name, on_active_changed=tell, **settings)))

    def create_reader(
        self, topic: str,
        start_message_id: Start = InitialPosition.Earliest,
        **settings: Any,
    ) -> Reader:
        """See the asynchronous `create_reader`."""
        return Reader(THREAD.run(
            self._client.create_reader(topic, start_message_id, **settings)))

    def create_puller(
        self, topic: str, subscription_name: str, **settings: Any
    ) -> PullConsumer:
        """See the asynchronous `create_puller`."""
        return PullConsumer(THREAD.run(
            self._client.create_puller(topic, subscription_name, **settings)))

    def redrive(self, dead_letter_topic: str, **settings: Any) -> RedriveReport:
        """See the asynchronous `redrive`; `on_progress` runs in the SDK's thread."""
        return THREAD.run(self._client.redrive(dead_letter_topic, **settings))

    def close(self) -> None:
        """Close everything made by this client."""
        THREAD.run(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

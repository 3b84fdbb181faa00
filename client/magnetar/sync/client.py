"""A client for any thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from magnetar import client as asynchronous
from magnetar.consuming import Consumer as AsyncConsumer
from magnetar.consuming import OnActiveChanged
from magnetar.enums import InitialPosition
from magnetar.handling import REQUEST_TIMEOUT_S
from magnetar.message import Message
from magnetar.multi_topic_reader import Start
from magnetar.redelivery_backoff import Delay
from magnetar.redrive import RedriveReport
from magnetar.sync.closable import Closable
from magnetar.sync.consumer import Consumer
from magnetar.sync.loop_thread import THREAD
from magnetar.sync.producer import Producer
from magnetar.sync.pull import PullConsumer
from magnetar.sync.reader import Reader
from magnetar.topic_choice import Topics

if TYPE_CHECKING:
    from magnetar.admin.sync import Admin

Function = TypeVar("Function", bound=Callable[[Message], object])


class Client(Closable):
    """Speaks to a cluster; takes what the asynchronous `Client` takes."""

    def __init__(self, service_url: str | None = None, **settings: Any) -> None:
        async def work() -> asynchronous.Client:
            return asynchronous.Client(service_url, **settings)

        self._client = THREAD.run(work())
        self._executors: list[ThreadPoolExecutor] = []
        self._admin: Admin | None = None

    @property
    def admin(self) -> Admin:
        """See the asynchronous `admin`."""
        if self._admin is None:
            from magnetar.admin.sync import Admin

            self._admin = Admin(self._client.admin, THREAD.run)
        return self._admin

    @property
    def late_replies(self) -> int:
        """Replies that came when nobody waited for them any more."""
        return self._client.late_replies

    def partitions_of(self, topic: str) -> int:
        """How many partitions the topic has; 0: it is not partitioned."""
        return THREAD.run(self._client.partitions_of(topic))

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

    def on(
        self, topics: Topics | None, subscription: str, *, concurrency: int = 1, **settings: Any,
    ) -> Callable[[Function], Function]:
        """See the asynchronous `on`; a plain function runs in one of `concurrency` threads.

        Such a function cannot be cancelled: one that goes on beyond `stop_timeout_s` ends by
        itself, while its message is given to others.
        """
        def bind(handler: Function) -> Function:
            self._client.on(topics, subscription, concurrency=concurrency, **settings)(
                self._awaitable(handler, concurrency))
            return handler

        return bind

    def request(
        self, topic: str, content: bytes, timeout: Delay = REQUEST_TIMEOUT_S, **options: Any
    ) -> Message:
        """See the asynchronous `request`."""
        return THREAD.run(self._client.request(topic, content, timeout, **options))

    def reply(
        self, topics: Topics | None, subscription: str = "repliers", *, concurrency: int = 1,
        **options: Any,
    ) -> Callable[[Function], Function]:
        """See the asynchronous `reply`; a plain function runs in one of `concurrency` threads."""
        def bind(handler: Function) -> Function:
            self._client.reply(topics, subscription, concurrency=concurrency, **options)(
                self._awaitable(handler, concurrency))
            return handler

        return bind

    def reply_to(
        self, request: Message, content: bytes, properties: Mapping[str, str] | None = None
    ) -> None:
        """See the asynchronous `reply_to`."""
        THREAD.run(self._client.reply_to(request, content, properties))

    def run(self) -> None:
        """Serve all handlers until `stop_listeners`, from another thread, or an interrupt."""
        THREAD.run(self._client.run())

    def start_listeners(self) -> None:
        """Serve the handlers bound so far in the background."""
        THREAD.run(self._client.start_listeners())

    def stop_listeners(self) -> None:
        """Let handlers finish, and give back what was not begun; `run` returns."""
        THREAD.run(self._client.stop_listeners())

    def _awaitable(
        self, handler: Callable[[Message], Any], concurrency: int
    ) -> Callable[[Message], Any]:
        """The handler itself if it is asynchronous, else one that runs it in a thread."""
        if inspect.iscoroutinefunction(handler):
            return handler
        executor = ThreadPoolExecutor(max(concurrency, 1), "magnetar handler")
        self._executors.append(executor)

        async def handle(message: Message) -> object:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(executor, handler, message)

        return handle

    def close(self) -> None:
        """Stop all handlers, and close everything made by this client."""
        try:
            THREAD.run(self._client.close())
        finally:
            for executor in self._executors:
                executor.shutdown(wait=False, cancel_futures=True)

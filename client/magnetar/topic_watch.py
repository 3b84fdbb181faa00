"""Learns from the brokers which topics come, go and get more partitions.

One stream a namespace serves everything of a client that watches topics by name; a pattern has
a stream of its own. Each answer tells all there is, so a lost one is made up for by the next
link's first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from magnetar.backoff import Backoff
from magnetar.connection import Connections, LinkLost, Stream
from magnetar.errors import ConnectionFailed, MagnetarError
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import RETRYABLE, to_exception

COLLECT_S: Final = 0.05
"""More names may come before a stream is opened anew for them."""
MOST_S: Final = 1.0
"""Longest wait between attempts."""

_log = logging.getLogger(__name__)

Request = Callable[[], pb.WatchTopicsRequest]
Topics = dict[str, int]
"""Partitions by full name; 0: not partitioned."""


class WatchStream:
    """Keeps a stream of answers, from whichever broker gives them, until it is stopped."""

    def __init__(
        self, connections: Connections, request: Request, told: Callable[[Topics], None],
        failed: Callable[[MagnetarError], None],
    ) -> None:
        self._connections = connections
        self._request = request
        self._told = told
        self._failed = failed
        self._stream: Stream | None = None
        self._anew = False
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="magnetar watch of topics")

    def ask_anew(self) -> None:
        """The request is another one now."""
        if not self._anew:
            self._anew = True
            if self._stream is not None:
                self._stream.close()

    def stop(self) -> asyncio.Task[None]:
        """Nothing is told any more; answers with what ends soon."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        clock = self._connections.clock
        backoff = Backoff(self._connections.random, most_s=MOST_S)
        while True:
            try:
                await self._follow(backoff)
            except MagnetarError as error:
                if not self._anew and not isinstance(error, RETRYABLE):
                    self._failed(error)
                    return
                _log.debug("a stream of watched topics ended: %s", error)
            await clock.sleep(COLLECT_S if self._anew else backoff.next_s())

    async def _follow(self, backoff: Backoff) -> None:
        """One stream; returns only when it is to be asked for anew."""
        self._anew = answered = False
        stream = await self._connections.open_watch(self._request().SerializeToString())
        try:
            self._stream = stream
            while not self._anew:
                topics = _parsed(await stream.read())
                answered = True
                backoff.reset()
                self._told(topics)
        except LinkLost:
            if not answered and not self._anew:
                self._connections.forget(stream.address)
            raise
        finally:
            self._stream = None
            stream.close()


class TopicWatches:
    """What a client's producers and consumers watch."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._named: dict[tuple[str, str], _NamedTopics] = {}
        self._patterns: list[WatchStream] = []

    def by_name(self, topic: TopicName, seen: Callable[[int | None], None]) -> Callable[[], None]:
        """Call back with the topic's number of partitions, None while it does not exist, until
        the answer is called."""
        key = topic.tenant, topic.namespace
        named = self._named.get(key)
        if named is None:
            named = self._named[key] = _NamedTopics(
                self._connections, key, lambda: self._forget(key))
        named.add(topic.full, seen)

        def cancel() -> None:
            if named.remove(topic.full, seen) and self._named.get(key) is named:
                del self._named[key]

        return cancel

    def by_pattern(
        self, namespace: str, pattern: str, told: Callable[[Topics], None],
        failed: Callable[[MagnetarError], None],
    ) -> Callable[[], None]:
        """Call back with all topics of the namespace that match, now and after each change;
        `failed` is called once with an error that another attempt cannot cure."""
        request = pb.WatchTopicsRequest(namespace=namespace, pattern=pattern)
        stream = WatchStream(self._connections, lambda: request, told, failed)
        self._patterns.append(stream)

        def cancel() -> None:
            stream.stop()
            with suppress(ValueError):
                self._patterns.remove(stream)

        return cancel

    def _forget(self, key: tuple[str, str]) -> None:
        """Its stream failed for good; who comes next tries again."""
        self._named.pop(key, None)

    async def close(self) -> None:
        """End every stream."""
        streams = [*(named.stream for named in self._named.values()), *self._patterns]
        self._named.clear()
        self._patterns.clear()
        await asyncio.gather(*(stream.stop() for stream in streams), return_exceptions=True)


class _NamedTopics:
    """The topics of one namespace that are watched by name."""

    def __init__(
        self, connections: Connections, key: tuple[str, str], failed: Callable[[], None]
    ) -> None:
        self._namespace = "/".join(key)
        self._given_up = failed
        self._callbacks: dict[str, list[Callable[[int | None], None]]] = {}
        self._asked: frozenset[str] = frozenset()
        self.stream = WatchStream(connections, self._request, self._told, self._failed)

    def add(self, name: str, seen: Callable[[int | None], None]) -> None:
        known = name in self._callbacks
        self._callbacks.setdefault(name, []).append(seen)
        if not known:
            self.stream.ask_anew()

    def remove(self, name: str, seen: Callable[[int | None], None]) -> bool:
        """Whether nothing is left to watch, and the stream stopped."""
        callbacks = self._callbacks.get(name, [])
        with suppress(ValueError):
            callbacks.remove(seen)
        if not callbacks:
            # Its stream goes on to tell of the name until the next change.
            self._callbacks.pop(name, None)
        if not self._callbacks:
            self.stream.stop()
        return not self._callbacks

    def _request(self) -> pb.WatchTopicsRequest:
        self._asked = frozenset(self._callbacks)
        return pb.WatchTopicsRequest(namespace=self._namespace, topics=sorted(self._asked))

    def _told(self, topics: Topics) -> None:
        for name in self._asked:  # of others this stream knows nothing
            for seen in list(self._callbacks.get(name, ())):
                seen(topics.get(name))

    def _failed(self, error: MagnetarError) -> None:
        _log.warning(
            "topics of %s are not watched, so new partitions are found by reopening only: %s",
            self._namespace, error)
        self._given_up()


def _parsed(frame: bytes) -> Topics:
    """What there is; raises the error that ends the stream."""
    try:
        reply = pb.WatchTopicsReply.FromString(frame)
    except Exception as error:
        raise ConnectionFailed(f"not an answer about topics: {error}") from error
    if reply.HasField("error"):
        raise to_exception(reply.error)
    return {topic.name: topic.partitions for topic in reply.topics}

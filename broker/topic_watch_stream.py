"""The WatchTopics stream: what there is, as often as it changes and the client reads."""

from __future__ import annotations

import asyncio

from google.protobuf.message import DecodeError

from broker.stream_writer import Context
from broker.topic_catalog import CatalogTopic
from broker.topic_watches import TopicWatches
from magnetar.errors import InvalidFrame, MagnetarError
from magnetar.wire import broker_pb2 as pb


class TopicWatchStream:
    """One stream. A client that reads slowly misses what was out of date by then, only."""

    def __init__(self, watches: TopicWatches, context: Context) -> None:
        self._watches = watches
        self._context = context
        self._news = asyncio.Event()
        self._topics: list[CatalogTopic] | None = None
        self._error: MagnetarError | None = None

    async def run(self, frame: bytes) -> None:
        """Serve until the client leaves; raises what ends the stream before."""
        try:
            request = pb.WatchTopicsRequest.FromString(frame)
        except DecodeError as error:
            raise InvalidFrame(f"not a WatchTopicsRequest: {error}") from error
        watcher = await self._watches.open(
            request.namespace, request.pattern, request.topics, self._told, self._ended
        )
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if self._error is not None:
                    raise self._error
                topics, self._topics = self._topics, None
                if topics is not None:
                    await self._context.write(_reply(topics))
        finally:
            self._watches.close(watcher)

    def _told(self, topics: list[CatalogTopic]) -> None:
        self._topics = topics
        self._news.set()

    def _ended(self, error: MagnetarError) -> None:
        self._error = error
        self._news.set()


def _reply(topics: list[CatalogTopic]) -> bytes:
    return pb.WatchTopicsReply(topics=[
        pb.WatchedTopic(name=topic.name, partitions=topic.partitions) for topic in topics
    ]).SerializeToString()

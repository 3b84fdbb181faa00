"""The gRPC service: thin, raw frames, one handler a method.

Whatever a client sends wrong ends its own stream with a typed error and touches no other.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from broker.broker import Broker
from broker.consumer_stream import ConsumerStream
from broker.conversation import NotServing
from broker.producer_stream import ProducerStream
from broker.pull_service import PullService
from broker.redrive_service import RedriveService
from broker.relay import SERVICE, Relay
from broker.stream_codec import consume_request, error_of, produce_request
from broker.stream_writer import Context
from broker.topic_watch_stream import TopicWatchStream
from magnetar import __version__
from magnetar.errors import InvalidFrame, MagnetarError
from magnetar.wire import broker_pb2 as pb

PROTOCOL_VERSION = 1
FEATURES = ("relay", "batch-indexes", "filters", "partitions", "watch-topics", "pull", "redrive")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What one kind of stream has of its own."""

    method: str
    party: str
    request: Callable[[bytes], Any]
    stream: Callable[[Broker, Context], Any]
    reply: Callable[..., Any]


_PRODUCE = _Conversation(
    "Produce", "producer", produce_request, ProducerStream, pb.ProduceReply
)
_CONSUME = _Conversation(
    "Consume", "consumer", consume_request, ConsumerStream, pb.ConsumeReply
)


class BrokerService:
    """Handlers over one Broker."""

    def __init__(self, broker: Broker, cluster_id: str) -> None:
        self._broker = broker
        self._cluster_id = cluster_id
        self.relay = Relay(broker.settings.limits.relays)
        self._pulls = PullService(broker, self.relay)
        self._redrives = RedriveService(broker, self.relay)
        self.streams = 0

    def handlers(self) -> grpc.GenericRpcHandler:
        """To be added to a grpc.aio server."""
        methods: dict[str, Any] = {
            "Hello": grpc.unary_unary_rpc_method_handler(self._hello),
            "Lookup": grpc.unary_unary_rpc_method_handler(self._lookup),
            "Produce": grpc.stream_stream_rpc_method_handler(self._produce),
            "Consume": grpc.stream_stream_rpc_method_handler(self._consume),
            "Receive": grpc.unary_unary_rpc_method_handler(self._pulls.receive),
            "Settle": grpc.unary_unary_rpc_method_handler(self._pulls.settle),
            "Redrive": grpc.unary_stream_rpc_method_handler(self._redrives.redrive),
            "WatchTopics": grpc.unary_stream_rpc_method_handler(self._watch_topics),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _hello(self, frame: bytes, _context: Context) -> bytes:
        return pb.HelloReply(
            protocol_version=PROTOCOL_VERSION, server_version=__version__, features=FEATURES,
            broker_id=self._broker.settings.broker_id, cluster_id=self._cluster_id,
        ).SerializeToString()

    async def _lookup(self, frame: bytes, context: Context) -> bytes:
        try:
            try:
                request = pb.LookupRequest.FromString(frame)
            except DecodeError as error:
                raise InvalidFrame(f"not a LookupRequest: {error}") from error
            found = await self._broker.lookup(
                request.topic, request.unreachable_address, must_exist=request.must_exist)
        except NotServing as error:
            # Told by the transport, so that the client asks the next broker it knows.
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except MagnetarError as error:
            return pb.LookupReply(error=error_of(error)).SerializeToString()
        except Exception as error:
            _log.exception("lookup failed")
            return pb.LookupReply(error=error_of(error)).SerializeToString()
        return pb.LookupReply(
            owner_address=found.owner_address, topic=found.topic, relay=found.relay,
            partitions=found.partitions,
        ).SerializeToString()

    async def _produce(self, frames: AsyncIterator[bytes], context: Context) -> None:
        await self._converse(_PRODUCE, frames, context)

    async def _consume(self, frames: AsyncIterator[bytes], context: Context) -> None:
        await self._converse(_CONSUME, frames, context)

    async def _converse(
        self, kind: _Conversation, frames: AsyncIterator[bytes], context: Context
    ) -> None:
        """A stream that its first frame opens, here or, relayed, at the topic's owner."""
        self.streams += 1
        try:
            request = kind.request(await anext(frames, b""))
            if not request.HasField("open"):
                raise InvalidFrame(f"the first frame of a stream opens the {kind.party}")
            opening, owner = request.open, None
            if opening.relay:
                owner = await self._broker.owner_address(opening.topic)
                opening.relay = False
            if owner is not None:
                await self.relay.run(
                    owner, kind.method, request.SerializeToString(), frames, context
                )
            else:
                await kind.stream(self._broker, context).run(opening, frames)
        except Exception as error:
            if not isinstance(error, MagnetarError):
                _log.exception("the stream of a %s failed", kind.party)
            await context.write(kind.reply(error=error_of(error)).SerializeToString())
        finally:
            self.streams -= 1

    async def _watch_topics(self, frame: bytes, context: Context) -> None:
        self.streams += 1
        try:
            await TopicWatchStream(self._broker.topic_watches, context).run(frame)
        except Exception as error:
            if not isinstance(error, MagnetarError):
                _log.exception("a stream of watched topics failed")
            await context.write(pb.WatchTopicsReply(error=error_of(error)).SerializeToString())
        finally:
            self.streams -= 1

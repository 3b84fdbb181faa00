"""The gRPC service `Admin`: bytes to messages, errors into replies, deadlines and limits."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from broker.administration.calls import Calls, Fill
from broker.administration.limits import CALL_S, CALLS_AT_ONCE, REQUEST_BYTES
from broker.conversation import NotServing
from broker.stream_codec import error_of
from broker.stream_writer import Context
from magnetar.admin.transport import READS, SERVICE
from magnetar.errors import InvalidArgument, InvalidFrame, MagnetarError, NotOwner, OperationTimeout
from magnetar.wire import broker_pb2

SHOWN_CHARACTERS = 500
"""Of a request in the log."""

_log = logging.getLogger(__name__)


class AdminService:
    """Handlers for the methods in `calls`."""

    def __init__(self, calls: Calls) -> None:
        self._methods = calls
        self.calls = 0
        self.failed_calls = 0
        self.calls_now = 0

    def handlers(self) -> grpc.GenericRpcHandler:
        """To be added to a grpc.aio server."""
        methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._handler(name, *call))
            for name, call in self._methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _handler(
        self, name: str, request_type: type[Any], reply_type: type[Any], work: Fill
    ) -> Any:
        async def handle(frame: bytes, context: Context) -> bytes:
            reply = reply_type()
            self.calls_now += 1
            try:
                async with asyncio.timeout(_seconds_left(context)):
                    await self._run(name, frame, request_type, reply, work, context)
            except Exception as error:
                self.failed_calls += 1
                return _failed(name, reply_type(), error)
            finally:
                self.calls_now -= 1
            encoded: bytes = reply.SerializeToString()
            return encoded

        return handle

    async def _run(
        self, name: str, frame: bytes, request_type: type[Any], reply: Any, work: Fill,
        context: Context,
    ) -> None:
        self.calls += 1
        if self.calls_now > CALLS_AT_ONCE:
            raise NotOwner("this broker has all the calls of administration it may; try another")
        if len(frame) > REQUEST_BYTES:
            raise InvalidArgument(f"a request has at most {REQUEST_BYTES} bytes, not {len(frame)}")
        try:
            request = request_type.FromString(frame)
        except DecodeError as error:
            raise InvalidFrame(f"not a request of {name}: {error}") from error
        if name not in READS:
            # Who changed what: told before it is done, since the end may not be told.
            _log.info("%s from %s: %s", name, context.peer(), _shown(request))
        await work(request, reply)


def _shown(request: Any) -> str:
    text = " ".join(str(request).split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _seconds_left(context: Context) -> float:
    left_s = context.time_remaining()
    return CALL_S if left_s is None else min(left_s, CALL_S)


def _failed(name: str, reply: Any, error: Exception) -> bytes:
    if isinstance(error, TimeoutError):
        error = OperationTimeout(f"{name} took too long; whether it was done is unknown")
    elif isinstance(error, NotServing):
        error = NotOwner(str(error))  # certainly not done: another broker may
    if not isinstance(error, MagnetarError):
        _log.error("%s failed", name, exc_info=error)
    told: broker_pb2.Error = reply.error
    told.CopyFrom(error_of(error))
    encoded: bytes = reply.SerializeToString()
    return encoded

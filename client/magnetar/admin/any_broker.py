"""The transport of a client: any broker of the service URL, since each answers every call."""

from __future__ import annotations

from google.protobuf.message import Message

from magnetar.admin.transport import REPEATABLE, SERVICE
from magnetar.attempts import Attempts
from magnetar.connection import Connections, LinkLost
from magnetar.errors import ConnectionFailed, MagnetarError, OperationTimeout
from magnetar.wire import admin_pb2 as pb
from magnetar.wire import broker_pb2
from magnetar.wire.errors import to_exception


class AnyBroker:
    """Asks one broker after the other, beginning with the last that answered.

    One that must not be done twice is made again only while it is certain that no broker did it.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._next_seed = 0

    async def call(self, method: str, request: Message) -> bytes:
        """See `Transport.call`; gives up at the client's operation timeout."""
        attempts = self._connections.attempts_for()
        while True:
            answer = await self._round(method, request.SerializeToString(), attempts)
            if isinstance(answer, bytes):
                return answer
            await attempts.failed(answer)

    async def _round(
        self, method: str, frame: bytes, attempts: Attempts
    ) -> bytes | MagnetarError:
        """Ask every broker once: the answer, or why another round may have one."""
        failure: MagnetarError = ConnectionFailed("no broker in the service URL")
        addresses = self._connections.addresses
        for offset in range(len(addresses)):
            seed = (self._next_seed + offset) % len(addresses)
            answer = await self._ask(addresses[seed], method, frame, attempts)
            if isinstance(answer, bytes):
                self._next_seed = seed
                return answer
            failure = answer
        return failure

    async def _ask(
        self, address: str, method: str, frame: bytes, attempts: Attempts
    ) -> bytes | MagnetarError:
        connections = self._connections
        try:
            channel = await connections.reach(address)
        except (LinkLost, OperationTimeout) as error:
            return error
        try:
            answer = await connections.call_on(
                channel, address, f"/{SERVICE}/{method}", frame,
                attempts.limit_s(connections.settings.operation_timeout_s),
            )
        except (LinkLost, OperationTimeout) as error:
            if isinstance(error, LinkLost):
                connections.forget(address)
            if method in REPEATABLE:
                return error
            raise type(error)(f"whether {method} was done is unknown, look before trying again:"
                              f" {error}") from error
        # Every reply has its error in the first field.
        told = pb.DoneReply.FromString(answer).error
        again = told.code == broker_pb2.NOT_OWNER or (
            told.code == broker_pb2.UNAVAILABLE and method in REPEATABLE)
        return to_exception(told) if again else answer

"""The processes of the cluster."""

from __future__ import annotations

from magnetar.admin.codec import read
from magnetar.admin.transport import Transport, ask
from magnetar.admin.values import BookieInfo, BrokerInfo
from magnetar.wire import admin_pb2 as pb


class Brokers:
    """`client.admin.brokers`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> tuple[BrokerInfo, ...]:
        """Those alive, by id."""
        request = pb.ListBrokersRequest()
        reply = await ask(self._transport, "ListBrokers", request, pb.ListBrokersReply)
        return tuple(read(BrokerInfo, one) for one in reply.brokers)


class Bookies:
    """`client.admin.bookies`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> tuple[BookieInfo, ...]:
        """All that ever joined, by id, with those that are down now."""
        request = pb.ListBookiesRequest()
        reply = await ask(self._transport, "ListBookies", request, pb.ListBookiesReply)
        return tuple(read(BookieInfo, one) for one in reply.bookies)

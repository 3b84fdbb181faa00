"""Brokers of one world that administer each other's topics, with and without gRPC between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from broker.administration.assembly import Administration, admin_service, administration_of
from broker.administration.peers import Peers
from broker.administration.routing import OwnerAdministration
from broker.service import BrokerService
from magnetar.runtime.network import Address
from magnetar.wire.options import SERVER_OPTIONS
from tests.broker.world import Node, World


class Directly:
    """Brokers reach each other by plain calls; counts them."""

    def __init__(self) -> None:
        self.known: dict[str, Administration] = {}
        self.passed_on = 0

    def __call__(self, address: str) -> OwnerAdministration:
        self.passed_on += 1
        return self.known[address].here

    def add(self, node: Node) -> Administration:
        made = administration_of(node.broker, node.session, node.clock, self)
        self.known[str(node.broker.address)] = made
        return made


class AdminServed:
    """A broker with both its services behind a port."""

    def __init__(self, node: Node, server: grpc.aio.Server) -> None:
        self.node = node
        self.server = server
        self.address = str(node.broker.address)
        self.url = f"magnetar://{self.address}"


@asynccontextmanager
async def admin_served(made: World, name: str = "b1") -> AsyncIterator[AdminServed]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    node = await made.broker(name, address=Address("127.0.0.1", port))
    peers = Peers()
    administration = administration_of(node.broker, node.session, node.clock, peers)
    service = admin_service(administration, node.session, None)
    broker_service = BrokerService(node.broker, "cluster")
    server.add_generic_rpc_handlers((broker_service.handlers(), service.handlers()))
    await server.start()
    try:
        yield AdminServed(node, server)
    finally:
        try:
            await made.stop(node)
        finally:
            await peers.close()
            await server.stop(None)

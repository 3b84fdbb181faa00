"""Asks another broker for a sign of life over gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from broker.ownership import ProbeResult
from broker.relay import SERVICE
from magnetar.runtime.network import Address
from magnetar.wire.options import CLIENT_OPTIONS


class GrpcProbe:
    """A Hello with a short deadline, on a connection of its own."""

    async def probe(self, address: Address, timeout_s: float) -> ProbeResult:
        """REFUSED only when the port itself said no; every doubt is SILENT."""
        async with grpc.aio.insecure_channel(str(address), options=CLIENT_OPTIONS) as channel:
            hello: Any = channel.unary_unary(f"/{SERVICE}/Hello")
            try:
                await hello(b"", timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE and (
                    "refused" in (error.details() or "").lower()
                ):
                    return ProbeResult.REFUSED
                return ProbeResult.SILENT
            return ProbeResult.ALIVE

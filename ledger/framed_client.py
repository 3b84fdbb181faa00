"""Calls to bookies over framed links; the implementation of the port `BookieClient`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ledger.bookie_link import BookieClientLimits, BookieLink
from ledger.wire import (
    AddRequest,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
    encode_add,
    encode_read,
    encode_read_lac,
)
from magnetar.ids import BookieId
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address, Network

__all__ = ["BookieClientLimits", "FramedBookieClient"]

T = TypeVar("T")


class FramedBookieClient:
    """One link a bookie, opened by the first call, pipelined by request id.

    One timer sweeps the deadlines of all links while anything is pending.
    """

    def __init__(
        self,
        network: Network,
        resolve: Callable[[BookieId], Address | None],
        cluster_key: bytes,
        clock: Clock,
        random: random.Random,
        limits: BookieClientLimits | None = None,
    ) -> None:
        self._network = network
        self._resolve = resolve
        self._cluster_key = cluster_key
        self._clock = clock
        self._random = random
        self._limits = limits or BookieClientLimits()
        self._links: dict[BookieId, BookieLink] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def add_nowait(
        self, bookie: BookieId, request: AddRequest, on_reply: Callable[[Status], None]
    ) -> None:
        """See `BookieClient`."""
        link = self._links.get(bookie) or self._open(bookie)
        request_id = link.next_request_id()
        header, body = encode_add(request_id, request)
        link.submit_add(request_id, (header, body), len(body), on_reply)
        if self._sweeper is None:
            self._schedule_sweep()

    async def add(self, bookie: BookieId, request: AddRequest) -> Status:
        """See `BookieClient`."""
        future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self.add_nowait(bookie, request, partial(_settle, future))
        return await future

    async def read(self, bookie: BookieId, request: ReadRequest) -> ReadReply:
        """See `BookieClient`."""
        link = self._links.get(bookie) or self._open(bookie)
        future: asyncio.Future[ReadReply] = asyncio.get_running_loop().create_future()
        request_id = link.next_request_id()
        link.submit_read(request_id, encode_read(request_id, request), partial(_settle, future))
        self._schedule_sweep()
        return _verified(request, await future)

    async def read_lac(self, bookie: BookieId, request: ReadLacRequest) -> ReadLacReply:
        """See `BookieClient`."""
        link = self._links.get(bookie) or self._open(bookie)
        future: asyncio.Future[ReadLacReply] = asyncio.get_running_loop().create_future()
        request_id = link.next_request_id()
        frame = encode_read_lac(request_id, request)
        link.submit_read_lac(request_id, frame, partial(_settle, future))
        self._schedule_sweep()
        return await future

    async def close(self) -> None:
        """See `BookieClient`."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for link in self._links.values():
            link.close()

    def _open(self, bookie: BookieId) -> BookieLink:
        link = BookieLink(
            bookie, self._network, self._resolve, self._cluster_key, self._clock, self._random,
            self._limits,
        )
        if self._closed:
            link.close()
        self._links[bookie] = link
        return link

    def _schedule_sweep(self) -> None:
        if self._sweeper is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._limits.sweep_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._clock.monotonic_s()
        pending = False
        for link in [*self._links.values()]:
            link.sweep(now)
            pending = pending or link.has_pending
        if pending:
            self._schedule_sweep()


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _verified(request: ReadRequest, reply: ReadReply) -> ReadReply:
    """Only entries that were asked for and whose digests hold; a rotten first one is UNKNOWN."""
    entries = reply.entries[:request.max_entries]
    for number, entry in enumerate(entries):
        wanted = request.first_entry_id + number
        if entry.entry_id != wanted or not entry.verify(request.ledger_id):
            entries = entries[:number]
            if not entries:
                return ReadReply(Status.UNKNOWN)
            break
    return ReadReply(reply.status, entries)

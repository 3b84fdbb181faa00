"""Framed links within one event loop: for tests of whoever speaks over a `Network`."""

from __future__ import annotations

import asyncio

from magnetar.errors import ConnectionFailed
from magnetar.runtime.network import Accept, Address, Buffer, OnClosed, OnFrame


class MemoryLink:
    """One side; frames arrive at the other in a coming turn of the loop."""

    def __init__(self, network: MemoryNetwork, is_listening_side: bool) -> None:
        self._is_listening_side = is_listening_side
        self.on_frame: OnFrame = lambda frame: None
        self.on_closed: OnClosed = lambda: None
        self.other: MemoryLink = self
        self.is_closed = False
        self._network = network

    @property
    def peer(self) -> str:
        return "memory"

    @property
    def pending_bytes(self) -> int:
        return 0

    def send(self, *parts: Buffer) -> None:
        frame = b"".join(parts)
        is_lost = self._network.is_silent or (self._network.is_mute and self._is_listening_side)
        if not self.is_closed and not is_lost:
            asyncio.get_running_loop().call_soon(self.other._deliver, frame)

    def _deliver(self, frame: bytes) -> None:
        if not self.is_closed and not self._network.is_silent:
            self.on_frame(memoryview(frame))

    async def drain(self) -> None:
        return

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.other._end)
            asyncio.get_running_loop().call_soon(self.on_closed)

    def _end(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.on_closed()


class MemoryListener:
    """An open port of the memory network."""

    def __init__(self, network: MemoryNetwork, address: Address, accept: Accept) -> None:
        self.accept = accept
        self.links: list[MemoryLink] = []
        self._network = network
        self._address = address

    @property
    def address(self) -> Address:
        return self._address

    async def close(self) -> None:
        self._network.listeners.pop(self._address, None)
        for link in self.links:
            link.close()


class MemoryNetwork:
    """`is_silent` loses every frame while links stay open, `is_mute` those of the listening
    side only; `break_links` resets links, `refuses` keeps new ones out."""

    def __init__(self) -> None:
        self.listeners: dict[Address, MemoryListener] = {}
        self.is_silent = False
        self.is_mute = False
        self.refuses = False
        self._links: list[MemoryLink] = []

    async def connect(
        self, address: Address, on_frame: OnFrame, on_closed: OnClosed, timeout_s: float
    ) -> MemoryLink:
        await asyncio.sleep(0)
        listener = self.listeners.get(address)
        if listener is None or self.refuses:
            raise ConnectionFailed(f"nobody listens at {address}")
        near, far = MemoryLink(self, False), MemoryLink(self, True)
        near.other, far.other = far, near
        near.on_frame, near.on_closed = on_frame, on_closed
        far.on_frame, far.on_closed = listener.accept(far)
        listener.links.append(far)
        self._links.append(near)
        return near

    async def listen(self, address: Address, accept: Accept) -> MemoryListener:
        if address.port == 0:
            address = Address(address.host, 1000 + len(self.listeners))
        if address in self.listeners:
            raise OSError(f"{address} is taken")
        self.listeners[address] = MemoryListener(self, address, accept)
        return self.listeners[address]

    def break_links(self) -> None:
        """Reset every link: what is under way is lost."""
        for link in self._links:
            link.close()
        self._links.clear()

"""Framed links as a seam: TCP in production, a simulated network in the simulator.

A frame is a body of bytes, delivered whole and in order or not at all; a lost link is told
once, through `on_closed`. On TCP a frame is a big-endian u32 length and the body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Address:
    """Where a process listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `host:port`; raises ValueError."""
        host, separator, port = text.rpartition(":")
        if not separator or not host or not port.isdigit() or not 0 <= int(port) < 65536:
            raise ValueError(f"not an address of the form host:port: {text!r}")
        return cls(host, int(port))


class FrameLink(Protocol):
    """One side of a connection. Calls after the link closed do nothing."""

    @property
    def peer(self) -> str: ...

    @property
    def pending_bytes(self) -> int:
        """Bytes accepted by `send` and not yet handed to the kernel."""

    def send(self, *parts: Buffer) -> None:
        """Send one frame, the concatenation of `parts`; never blocks."""

    async def drain(self) -> None:
        """Wait until `pending_bytes` is below the low-water mark, or the link closed."""

    def close(self) -> None:
        """Drop the link; the peer sees it closed."""


OnFrame = Callable[[memoryview], None]
"""Called with each frame's body; the view is valid during the call only: copy what you keep."""

OnClosed = Callable[[], None]


class Listener(Protocol):
    """An open port."""

    @property
    def address(self) -> Address: ...

    async def close(self) -> None:
        """Stop listening and drop every accepted link."""


Accept = Callable[[FrameLink], tuple[OnFrame, OnClosed]]
"""Called for each accepted link; answers with who takes its frames and its end."""


class Network(Protocol):
    async def connect(
        self, address: Address, on_frame: OnFrame, on_closed: OnClosed, timeout_s: float
    ) -> FrameLink:
        """Open a link; raises ConnectionFailed."""

    async def listen(self, address: Address, accept: Accept) -> Listener:
        """Listen; port 0 takes a free one. Raises OSError when the port is taken."""

"""The trace of a run: one rolling hash over everything that crosses a seam."""

from __future__ import annotations

import zlib

from tests.sim.loop import SimLoop


class Trace:
    """Two runs of one seed must end with the same `digest`."""

    def __init__(self, loop: SimLoop, keep_lines: bool = False) -> None:
        self._loop = loop
        self._hash = 0
        self.count = 0
        self.lines: list[str] | None = [] if keep_lines else None

    def note(self, what: str, detail: object = "") -> None:
        """Record an event with its virtual time."""
        line = f"{self._loop.time():.6f} {what} {detail}"
        self._hash = zlib.crc32(line.encode(), self._hash)
        self.count += 1
        if self.lines is not None:
            self.lines.append(line)

    def frame(self, source: str, target: str, body: bytes) -> None:
        """Record a delivered frame without formatting it."""
        self._hash = zlib.crc32(body, self._hash ^ int(self._loop.time() * 1e9) & 0xFFFFFFFF)
        self.count += 1
        if self.lines is not None:
            kind = body[0] if body else -1
            self.lines.append(
                f"{self._loop.time():.6f} frame {source}>{target} kind={kind} bytes={len(body)} "
                f"crc={zlib.crc32(body):08x}"
            )

    @property
    def digest(self) -> str:
        return f"{self._hash:08x}-{self.count}"

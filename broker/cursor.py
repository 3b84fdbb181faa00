"""Which messages a subscription has acknowledged: exact sets over ordinals, without a cap.

Everything below `floor` is acknowledged. Above it, bitmaps of `CHUNK_ORDINALS` bits are held
only where something is acknowledged, so a million scattered holes cost some hundred kilobytes,
and a run without holes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

CHUNK_BITS = 12
CHUNK_ORDINALS = 1 << CHUNK_BITS
CHUNK_MASK = CHUNK_ORDINALS - 1
FULL_CHUNK = (1 << CHUNK_ORDINALS) - 1


def full_mask(count: int) -> int:
    """`count` ones."""
    return (1 << count) - 1


def lowest_bits(mask: int, most: int) -> int:
    """The lowest `most` ones of `mask`."""
    if mask.bit_count() <= most:
        return mask
    low, high = 0, mask.bit_length()
    while low < high:  # the shortest run of low bits that has `most` ones
        middle = (low + high) // 2
        if (mask & full_mask(middle)).bit_count() < most:
            low = middle + 1
        else:
            high = middle
    return mask & full_mask(low)


def _pieces(first: int, mask: int) -> Iterator[tuple[int, int]]:
    """`mask`, whose lowest bit stands for ordinal `first`, cut at chunk borders."""
    chunk = first >> CHUNK_BITS
    mask <<= first & CHUNK_MASK
    while mask:
        bits = mask & FULL_CHUNK
        if bits:
            yield chunk, bits
        mask >>= CHUNK_ORDINALS
        chunk += 1


def _range_pieces(first: int, end: int) -> Iterator[tuple[int, int]]:
    """Ones for the ordinals first..end-1, cut at chunk borders."""
    while first < end:
        chunk = first >> CHUNK_BITS
        border = min(end, (chunk + 1) << CHUNK_BITS)
        count = border - first
        if count == CHUNK_ORDINALS:
            yield chunk, FULL_CHUNK
        else:
            yield chunk, ((1 << count) - 1) << (first & CHUNK_MASK)
        first = border


class OrdinalBitmap:
    """A sparse set of ordinals; also what is new since the last write of a cursor."""

    __slots__ = ("chunks",)

    def __init__(self) -> None:
        self.chunks: dict[int, int] = {}

    def add_range(self, first: int, end: int) -> None:
        """Add first..end-1."""
        chunks = self.chunks
        for chunk, bits in _range_pieces(first, end):
            chunks[chunk] = chunks.get(chunk, 0) | bits

    def add_mask(self, first: int, mask: int) -> None:
        """Add `first + i` for every bit i of `mask`."""
        chunks = self.chunks
        for chunk, bits in _pieces(first, mask):
            chunks[chunk] = chunks.get(chunk, 0) | bits

    def above(self, floor: int) -> list[tuple[int, int]]:
        """(chunk, bits) of what is not below `floor`, ascending, empty ones left out."""
        found = []
        for chunk in sorted(self.chunks):
            bits = self.chunks[chunk]
            below = floor - (chunk << CHUNK_BITS)
            if below > 0:
                bits = 0 if below >= CHUNK_ORDINALS else bits >> below << below
            if bits:
                found.append((chunk, bits))
        return found


class Cursor:
    """The acknowledged ordinals of one subscription. `floor` never falls but by `reset`."""

    __slots__ = ("_above", "_chunks", "_floor")

    def __init__(self, floor: int = 0) -> None:
        self._floor = floor
        self._chunks: dict[int, int] = {}
        self._above = 0

    @property
    def floor(self) -> int:
        """The first ordinal that is not acknowledged."""
        return self._floor

    @property
    def acknowledged_above_floor(self) -> int:
        return self._above

    @property
    def chunk_count(self) -> int:
        """How many bitmaps are held; each costs about 600 bytes, a full one nothing."""
        return len(self._chunks)

    def add_range(self, first: int, end: int) -> None:
        """Acknowledge first..end-1."""
        if first <= self._floor:
            self.advance(end)
            return
        for chunk, bits in _range_pieces(first, end):
            self._join(chunk, bits)

    def add_mask(self, first: int, mask: int) -> None:
        """Acknowledge `first + i` for every bit i of `mask`."""
        below = self._floor - first
        if below > 0:
            mask = mask >> below
            first = self._floor
        for chunk, bits in _pieces(first, mask):
            self._join(chunk, bits)
        self._settle()

    def add_chunks(self, chunks: Iterable[tuple[int, int]]) -> None:
        """Acknowledge the bits of whole chunks, as a state record holds them."""
        for chunk, bits in chunks:
            self.add_mask(chunk << CHUNK_BITS, bits)

    def advance(self, floor: int) -> None:
        """Acknowledge everything below `floor`; a lower one changes nothing."""
        if floor <= self._floor:
            return
        last = floor >> CHUNK_BITS
        if self._chunks:
            passed = range(self._floor >> CHUNK_BITS, last)
            shorter = passed if len(passed) < len(self._chunks) else list(self._chunks)
            for chunk in [one for one in shorter if one < last and one in self._chunks]:
                self._above -= self._chunks.pop(chunk).bit_count()
            kept = self._chunks.get(last, 0)
            cut = kept >> (floor & CHUNK_MASK) << (floor & CHUNK_MASK)
            self._above -= kept.bit_count() - cut.bit_count()
            self._put(last, cut)
        self._floor = floor
        self._settle()

    def reset(self, floor: int) -> None:
        """Forget every acknowledgement and begin at `floor` (a seek)."""
        self._floor = floor
        self._chunks.clear()
        self._above = 0

    def mask(self, first: int, count: int) -> int:
        """The acknowledged ones of first..first+count-1 as bits."""
        below = self._floor - first
        if below >= count:
            return (1 << count) - 1
        found = (1 << below) - 1 if below > 0 else 0
        if not self._above:
            return found
        end = first + count
        for chunk in range(first >> CHUNK_BITS, ((end - 1) >> CHUNK_BITS) + 1):
            bits = self._chunks.get(chunk)
            if bits:
                shift = (chunk << CHUNK_BITS) - first
                found |= bits << shift if shift >= 0 else bits >> -shift
        return found & ((1 << count) - 1)

    def chunks(self) -> list[tuple[int, int]]:
        """All bits above the floor, ascending by chunk: what a snapshot stores."""
        return sorted(self._chunks.items())

    def _join(self, chunk: int, bits: int) -> None:
        old = self._chunks.get(chunk, 0)
        new = old | bits
        if new != old:
            self._above += new.bit_count() - old.bit_count()
            self._put(chunk, new)

    def _put(self, chunk: int, bits: int) -> None:
        if not bits:
            self._chunks.pop(chunk, None)
        elif bits == FULL_CHUNK:
            self._chunks[chunk] = FULL_CHUNK  # one shared object however many are full
        else:
            self._chunks[chunk] = bits

    def _settle(self) -> None:
        """Move the floor over what is acknowledged right above it."""
        while True:
            chunk, offset = self._floor >> CHUNK_BITS, self._floor & CHUNK_MASK
            bits = self._chunks.get(chunk)
            if not bits or not bits >> offset & 1:
                return
            shifted = bits >> offset
            run = (shifted ^ (shifted + 1)).bit_length() - 1
            self._floor += run
            self._above -= run
            offset += run
            self._put(chunk, bits >> offset << offset if offset < CHUNK_ORDINALS else 0)

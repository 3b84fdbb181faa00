"""What a bookie remembers of a ledger besides its entries, and of itself.

Fenced and deleted are sticky for ever: merging two states can only add them. That makes replay
independent of the order in which states are found.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from bookie.record import FileId, LogPosition
from magnetar.errors import InvalidFrame
from magnetar.ids import LedgerId
from magnetar.runtime.network import Buffer

_LEDGER = struct.Struct(">BBIIQ")
_NODE = struct.Struct(">BIIqq")
_PLACE = struct.Struct(">QQ")
_FORMAT: Final = 1
_FENCED: Final = 1
_DELETED: Final = 2

NO_LEDGERS: Final = LedgerId(-1)
ALL_LEDGERS: Final = LedgerId(2**63 - 1)


@dataclass(frozen=True, slots=True)
class LedgerState:
    """`version` counts changes; `limbo_cleared` is the limbo this ledger was checked after."""

    fenced: bool = False
    deleted: bool = False
    limbo_cleared: int = 0
    version: int = 0
    changed_ms: int = 0

    def merged(self, other: LedgerState) -> LedgerState:
        """Both states in one, whichever came first."""
        newer = self if self.version >= other.version else other
        return replace(
            newer,
            fenced=self.fenced or other.fenced,
            deleted=self.deleted or other.deleted,
            limbo_cleared=max(self.limbo_cleared, other.limbo_cleared),
        )

    def encode(self) -> bytes:
        """As stored in the log and in the index."""
        flags = (_FENCED if self.fenced else 0) | (_DELETED if self.deleted else 0)
        return _LEDGER.pack(_FORMAT, flags, self.version, self.limbo_cleared, self.changed_ms)

    @classmethod
    def decode(cls, data: Buffer) -> LedgerState:
        """Raises InvalidFrame."""
        if len(data) != _LEDGER.size or data[0] != _FORMAT:
            raise InvalidFrame("not the state of a ledger in a known format")
        _, flags, version, cleared, changed_ms = _LEDGER.unpack(data)
        return cls(bool(flags & _FENCED), bool(flags & _DELETED), cleared, version, changed_ms)


@dataclass(frozen=True, slots=True)
class NodeState:
    """Limbo: after a loss, negatives about ledgers up to `limbo_ceiling` are not certain.

    A fence may have been among what was lost, so ledgers up to `fence_ceiling` take no normal
    adds any more; that stays when the limbo is cleared.
    """

    limbo_epoch: int = 0
    limbo_ceiling: LedgerId = NO_LEDGERS
    fence_ceiling: LedgerId = NO_LEDGERS
    version: int = 0
    known_damage: tuple[LogPosition, ...] = ()
    """Damaged places already answered by a limbo, so that a rebuild does not begin another."""

    def merged(self, other: NodeState) -> NodeState:
        """The newer of both; the fence ceiling never sinks below an established one."""
        return self if self.version >= other.version else other

    def entered_limbo(self, damage: tuple[LogPosition, ...] = ()) -> NodeState:
        """After a loss of unknown extent."""
        known = tuple(sorted({*self.known_damage, *damage}))
        return NodeState(self.limbo_epoch + 1, ALL_LEDGERS, ALL_LEDGERS, self.version + 1, known)

    def bounded(self, highest: LedgerId) -> NodeState:
        """No ledger above `highest` can have been here when the loss happened."""
        return replace(
            self,
            limbo_ceiling=min(self.limbo_ceiling, highest),
            fence_ceiling=min(self.fence_ceiling, highest),
            version=self.version + 1,
        )

    def accepted(self) -> NodeState:
        """The operator accepts that what was lost is lost."""
        return replace(self, limbo_ceiling=NO_LEDGERS, version=self.version + 1)

    def encode(self) -> bytes:
        """As stored in the log and in the index."""
        return _NODE.pack(
            _FORMAT, self.version, self.limbo_epoch, self.limbo_ceiling, self.fence_ceiling
        ) + b"".join(_PLACE.pack(*place) for place in self.known_damage)

    @classmethod
    def decode(cls, data: Buffer) -> NodeState:
        """Raises InvalidFrame."""
        rest = len(data) - _NODE.size
        if rest < 0 or rest % _PLACE.size or data[0] != _FORMAT:
            raise InvalidFrame("not the state of a bookie in a known format")
        _, version, epoch, limbo, fence = _NODE.unpack_from(data)
        places = _PLACE.iter_unpack(data[_NODE.size :])
        known = tuple(LogPosition(FileId(file_id), offset) for file_id, offset in places)
        return cls(epoch, LedgerId(limbo), LedgerId(fence), version, known)

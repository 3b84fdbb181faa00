"""Adds that a bookie had no room for: sent again after a pause, since a busy disk is no dead one.

Taken for failures, they would fail all bookies at once when many ledgers write to slow disks,
and each repair would send everything again. A bookie that has no room for `overload_patience_s`
does fail, and so does one too far behind the others (`slow_bookie_bytes`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from ledger.limits import LedgerLimits
from ledger.wire import AddRequest
from ledger.writer import Target
from magnetar.runtime.clock import Clock

NEVER_REFUSED: Final = -1.0


class HeldAdd(NamedTuple):
    """`give_up_s`: when this add's patience ends, by the monotonic clock."""

    target: Target
    request: AddRequest
    give_up_s: float


class Overload:
    """Of one writer. `resend` takes each add again."""

    def __init__(
        self, clock: Clock, limits: LedgerLimits, resend: Callable[[HeldAdd], None]
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._resend = resend
        self._held: list[HeldAdd] = []
        self._pause_s = limits.overload_pause_min_s
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, target: Target, request: AddRequest, give_up_s: float) -> bool:
        """Keep an add that was refused; False when its patience has ended."""
        now_s = self._clock.monotonic_s()
        limits = self._limits
        if give_up_s == NEVER_REFUSED:
            give_up_s = now_s + limits.overload_patience_s
        elif now_s >= give_up_s:
            return False
        self._held.append(HeldAdd(target, request, give_up_s))
        if self._timer is None:
            # Longer while what was sent again is refused again.
            again = give_up_s < now_s + limits.overload_patience_s
            self._pause_s = (
                min(self._pause_s * 2, limits.overload_pause_max_s)
                if again else limits.overload_pause_min_s
            )
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._send_again)
        return True

    def _send_again(self) -> None:
        self._timer = None
        held, self._held = self._held, []
        for add in held:
            self._resend(add)

    def cancel(self) -> None:
        """Let go of everything."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

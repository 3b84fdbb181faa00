"""What a bookie is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from bookie.limits import BookieLimits
from bookie.server import ServerLimits
from magnetar.ids import BookieId
from magnetar.runtime.network import Address


@dataclass(frozen=True, slots=True)
class BookieSettings:
    """`listen` may have port 0; `advertised_host` is what others connect to, if it differs."""

    bookie_id: BookieId
    listen: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    advertised_host: str = ""
    admin_listen: Address | None = None
    """Where /healthz, /metrics and /v1/bookie are served; None: not at all."""
    rack: str = ""
    accept_loss: bool = False
    """Start although the disk was lost, in limbo; for one start, by the operator."""
    gc_interval_s: float = 15.0
    compact_below_live_ratio: float = 0.5
    """A log file of which less lives is rewritten."""
    compact_above_disk_ratio: float = 1.3
    """So are the emptiest ones while all files are longer than this times what lives in them, plus
    one file."""
    limits: BookieLimits = field(default_factory=BookieLimits)
    server_limits: ServerLimits = field(default_factory=ServerLimits)

"""Free ports on this machine."""

from __future__ import annotations

import random
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
LOWEST: Final = 20_000
HIGHEST: Final = 32_000
"""Below the range the kernel gives to outgoing connections, so that none of them takes a port
between its choice and its use."""


def free_port(host: str = LOOPBACK) -> int:
    """A port nobody listens on now; raises OSError when a hundred tries found none."""
    chance = random.SystemRandom()
    for _ in range(100):
        port = chance.randrange(LOWEST, HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {LOWEST} and {HIGHEST} on {host}")

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

_reservations: list[socket.socket] = []


def free_port(host: str = LOOPBACK) -> int:
    """A port nobody listens on, which no other caller gets while this process lives.

    The UDP port of the same number is held for that: it is in nobody's way, and whoever asks
    here, in this process or another one, finds it taken. Raises OSError when a hundred tries
    found no port.
    """
    chance = random.SystemRandom()
    for _ in range(100):
        port = chance.randrange(LOWEST, HIGHEST)
        reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            reservation.bind((host, port))
            with socket.socket() as probe:
                probe.bind((host, port))
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return port
    raise OSError(f"no free port between {LOWEST} and {HIGHEST} on {host}")

"""The seams: the only places where Magnetar meets clocks, chance, sockets and disks.

Protocol code takes a `Clock`, a `Network` and a `Disk` as arguments and an explicit
`random.Random`; the simulator passes seeded ones. Start reading at `clock`, then `network`.
"""

from magnetar.runtime.clock import Clock, SystemClock
from magnetar.runtime.disk import AppendFile, Disk
from magnetar.runtime.network import Address, FrameLink, Listener, Network

__all__ = [
    "Address", "AppendFile", "Clock", "Disk", "FrameLink", "Listener", "Network", "SystemClock",
]

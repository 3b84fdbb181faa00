"""The SDK for programs without an event loop: one thread runs the loop of all clients.

Every call blocks until it has its result. `Producer.send` waits until its message is durable, as
such programs expect; `send_many` and `send_async` only wait for room, and the tickets that
`send_many` gives back wait when they are asked. Start reading at `loop_thread`, then at `client`.
"""

from __future__ import annotations

from magnetar.sync.client import Client
from magnetar.sync.consumer import Consumer
from magnetar.sync.loop_thread import THREAD
from magnetar.sync.producer import Producer
from magnetar.sync.pull import PullConsumer
from magnetar.sync.reader import Reader
from magnetar.sync.ticket import Ticket, Tickets

__all__ = [
    "THREAD", "Client", "Consumer", "Producer", "PullConsumer", "Reader", "Ticket", "Tickets",
]

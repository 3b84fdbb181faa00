"""The SDK for programs without an event loop: one thread runs the loop of all clients.

Every call blocks until it has its result. `Producer.send` waits until its message is durable, as
such programs expect; `send_many` and `send_async` only wait for room. Start reading at
`loop_thread`, then at `client`.
"""

from __future__ import annotations

from magnetar.sync.client import Client
from magnetar.sync.consumer import Consumer
from magnetar.sync.loop_thread import THREAD
from magnetar.sync.producer import Producer
from magnetar.sync.reader import Reader

__all__ = ["THREAD", "Client", "Consumer", "Producer", "Reader"]

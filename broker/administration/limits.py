"""How much administration may ask for at once."""

from __future__ import annotations

from typing import Final

REQUEST_BYTES: Final = 1 << 20
CALLS_AT_ONCE: Final = 256
"""Calls a broker works on at a time, those passed on to it included; what is above is refused."""
CALL_S: Final = 60.0
"""For a call whose client gave no deadline, and at most."""
PARTITIONS_AT_ONCE: Final = 16
"""Partitions of a topic a call works on at a time."""
OWNER_ATTEMPTS: Final = 8
"""How often an owner is looked for before the call fails."""
OWNER_PAUSE_S: Final = 0.05
"""Before the second attempt; doubled before each later one, up to the next."""
OWNER_PAUSE_MAX_S: Final = 0.5
REACH_S: Final = 1.0
"""For a link to another broker to come up."""
EVERY_BROKER_S: Final = 3.0
"""For a call that asks every broker, which goes on without those that do not answer."""
PAGE_ITEMS: Final = 1_000
PAGE_ITEMS_MAX: Final = 10_000
PEEK_MESSAGES_MAX: Final = 1_000
PEEK_BYTES: Final = 4 << 20
"""Of the payloads in one answer."""
PAYLOAD_BYTES: Final = 1 << 20
"""Of one message's payload; what is longer is cut."""
PEEK_ENTRIES: Final = 10_000
"""Entries read to find unacknowledged messages."""
PEEK_READ_BYTES: Final = 1 << 20
PATTERN_CHARACTERS: Final = 1_024
PROPERTIES_BYTES: Final = 64 << 10
"""Of a topic's or tenant's properties."""

"""The seam between Magnetar and whatever keeps its metadata.

Paths look like `/a/b`; parents are made as needed and stay. Versions start at 0 and grow by one
with each `put`. A session stands for the life of a process: when it ends, its ephemeral nodes
vanish. Its states:

    CONNECTED ──link or server silent──▶ SUSPENDED ──server says it ended──▶ LOST
        ▲────────reached in time────────────┘                                 │
        └──────────a new session, with another `session_id`───────────────────┘

LOST is told by the server only, so that an outage of the metadata servers (which give their
sessions a fresh timeout when they come back) costs no session. Whoever must let go sooner looks
at `silence_s`. After LOST the store opens a new session by itself, says CONNECTED, and fires
every watch; whoever had ephemeral nodes makes them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from magnetar.errors import InvalidArgument, NotFound

MAX_VALUE_BYTES: Final = 1_000_000
"""Largest value of a node; ZooKeeper refuses packets above 1 MiB."""

Cancel = Callable[[], None]
"""Ends what it was returned by; calling it again does nothing."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a node holds, and the version to give to `put`."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Guard:
    """Another node, a folder that holds no value, and the version that it must have as well."""

    path: str
    version: int


class SessionState(Enum):
    """What is known of the session; see the module's picture."""

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


class MetadataStore(Protocol):
    """One session. Any call may raise ConnectionLoss (outcome unknown, also when the deadline
    passed) or SessionExpired (the session ended before the answer; outcome unknown as well)."""

    @property
    def session_id(self) -> int:
        """Number of the present session; another one after LOST."""

    @property
    def session_timeout_s(self) -> float:
        """Seconds of silence after which the server ends the session, as negotiated."""

    @property
    def state(self) -> SessionState: ...

    def silence_s(self) -> float:
        """Monotonic seconds since the last proof that the session lives: the sending time of
        the newest answered request. 0 while CONNECTED and fresher than a third of the timeout.
        """

    def on_session(self, callback: Callable[[SessionState], None]) -> Cancel:
        """Call back at each change of `state`, in the event loop, in order."""

    async def get(self, path: str) -> Record:
        """Raises NotFound, which is certain: no lagging replica is believed."""

    async def create(self, path: str, value: bytes, *, ephemeral: bool = False) -> int:
        """Create a node, and its parents as needed; answers version 0. Raises AlreadyExists,
        and InvalidArgument below an ephemeral node."""

    async def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> int:
        """Replace the value if `version` is still current, and that of the guard; answers
        `version` + 1. Raises BadVersion, NotFound."""

    async def delete(
        self, path: str, version: int | None = None, guard: Guard | None = None
    ) -> None:
        """Delete the node; the guard, if there is one, gets its next version by the same step.
        Raises NotFound, BadVersion, NotEmpty."""

    async def children(self, path: str) -> list[str]:
        """Sorted names of the children. Raises NotFound (certain, as of `get`)."""

    def watch(self, path: str, callback: Callable[[], None]) -> Cancel:
        """Call back, coalesced, after any change of the node (created, changed, deleted) or of
        its list of children, after a reconnect, and perhaps once when the watch came into force.
        The node need not exist. No change made after this call goes untold."""

    async def close(self) -> None:
        """End the session; its ephemeral nodes vanish. Later calls raise AlreadyClosed."""


def check_path(path: str) -> None:
    """Raises InvalidArgument unless `path` is `/` or `/name/name`, with plain names."""
    if path == "/":
        return
    parts = path.split("/")
    if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
        raise InvalidArgument(f"not a metadata path of the form /a/b: {path!r}")
    if any(ord(letter) < 0x20 or 0x7F <= ord(letter) <= 0x9F for letter in path):
        raise InvalidArgument(f"control characters in the metadata path {path!r}")
    if any(0xD800 <= ord(letter) <= 0xF8FF or ord(letter) >= 0xFFF0 for letter in path):
        raise InvalidArgument(f"characters that metadata servers refuse in the path {path!r}")


def check_value(path: str, value: bytes) -> None:
    """Raises InvalidArgument above MAX_VALUE_BYTES."""
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidArgument(
            f"the record at {path} would take {len(value)} bytes, above {MAX_VALUE_BYTES}"
        )


def parent_of(path: str) -> str:
    """`/a` of `/a/b`, and `/` of `/a`."""
    return path.rpartition("/")[0] or "/"


async def child_names(store: MetadataStore, path: str) -> list[str]:
    """Sorted names of the children; none when the node was never made."""
    try:
        return await store.children(path)
    except NotFound:
        return []

"""Writes whose outcome is known: a lost answer is settled by reading again.

After ConnectionLoss a compare-and-set may have been applied. It was, if the node holds our value
at the version our write would have given it; it was not, if trying again with the same expected
version succeeds. Each function tries a few times and raises ConnectionLoss if it cannot settle.
"""

from __future__ import annotations

import asyncio
from typing import Final

from magnetar.errors import AlreadyExists, BadVersion, ConnectionLoss, NotFound
from metadata.store import Guard, MetadataStore

MAX_ATTEMPTS: Final = 6
RETRY_DELAY_S: Final = 0.05


async def put_settled(
    store: MetadataStore, path: str, value: bytes, version: int, guard: Guard | None = None
) -> int:
    """As `store.put`, but a lost answer of our own write counts as success if it was applied."""
    lost = False
    for attempt in range(MAX_ATTEMPTS):
        try:
            return await store.put(path, value, version, guard)
        except ConnectionLoss:
            lost = True
            await asyncio.sleep(RETRY_DELAY_S * attempt)
        except BadVersion:
            if not lost or not await _holds(store, path, value, version + 1):
                raise
            return version + 1
    raise ConnectionLoss(f"no certain answer about the write to {path}; read it to find out")


async def create_settled(store: MetadataStore, path: str, value: bytes) -> int:
    """As `store.create` of a lasting node, settling lost answers."""
    lost = False
    for attempt in range(MAX_ATTEMPTS):
        try:
            return await store.create(path, value)
        except ConnectionLoss:
            lost = True
            await asyncio.sleep(RETRY_DELAY_S * attempt)
        except AlreadyExists:
            if not lost or not await _holds(store, path, value, 0):
                raise
            return 0
    raise ConnectionLoss(f"no certain answer about the creation of {path}; read it to find out")


async def delete_settled(
    store: MetadataStore, path: str, version: int | None = None, guard: Guard | None = None
) -> None:
    """As `store.delete`; a node found absent after a lost answer counts as deleted by us."""
    lost = False
    for attempt in range(MAX_ATTEMPTS):
        try:
            return await store.delete(path, version, guard)
        except ConnectionLoss:
            lost = True
            await asyncio.sleep(RETRY_DELAY_S * attempt)
        except (BadVersion, NotFound):
            # A deletion that was applied gave the guard another version.
            if not lost or not await _is_gone(store, path):
                raise
            return
    raise ConnectionLoss(f"no certain answer about the deletion of {path}; read it to find out")


async def _is_gone(store: MetadataStore, path: str) -> bool:
    for attempt in range(MAX_ATTEMPTS):
        try:
            await store.get(path)
        except ConnectionLoss:
            await asyncio.sleep(RETRY_DELAY_S * attempt)
        except NotFound:
            return True
        else:
            return False
    raise ConnectionLoss(f"cannot read {path} to settle a deletion whose answer was lost")


async def _holds(store: MetadataStore, path: str, value: bytes, version: int) -> bool:
    """Whether the node is as our write would have left it."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            record = await store.get(path)
        except ConnectionLoss:
            await asyncio.sleep(RETRY_DELAY_S * attempt)
        except NotFound:
            return False
        else:
            return record.version == version and record.value == value
    raise ConnectionLoss(f"cannot read {path} to settle a write whose answer was lost")

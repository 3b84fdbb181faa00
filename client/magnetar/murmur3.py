"""Hashes of keys, as other clients of Pulsar-style topics compute them: 31 bits, never negative."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import mmh3

from magnetar.errors import InvalidArgument

POSITIVE: Final = 0x7FFF_FFFF
REMEMBERED_KEYS: Final = 10_000


def murmur3_32(key: str) -> int:
    """MurmurHash3 (x86, 32 bits, seed 0) over the key in UTF-8; raises InvalidArgument."""
    try:
        return mmh3.hash(key.encode(), 0, False) & POSITIVE
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the key {key!r} is not valid Unicode") from error


@lru_cache(REMEMBERED_KEYS)
def java_string_hash(key: str) -> int:
    """What Java's String.hashCode gives, over UTF-16 code units; raises InvalidArgument."""
    try:
        units = memoryview(key.encode("utf-16-le")).cast("H")
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the key {key!r} is not valid Unicode") from error
    value = 0
    for unit in units:
        value = (31 * value + unit) & 0xFFFF_FFFF
    return value & POSITIVE

"""Identifiers as types, so that a ledger id is never passed where an entry id is meant."""

from __future__ import annotations

from typing import Final, NewType

LedgerId = NewType("LedgerId", int)
"""Unique 64-bit number of a ledger, never reused."""

EntryId = NewType("EntryId", int)
"""Position of an entry within its ledger, from 0; -1 stands for "before the first"."""

BookieId = NewType("BookieId", str)
"""Stable name of a storage node; outlives its address and its restarts."""

BrokerId = NewType("BrokerId", str)
"""Stable name of a broker; its incarnation tells one life from the next."""

NO_ENTRY_ID: Final = EntryId(-1)

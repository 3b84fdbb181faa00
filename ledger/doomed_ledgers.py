"""Ledgers that left a topic's lists and are being deleted.

They stay named in the record, as doomed, by the same compare-and-set that took them off a list,
until they are gone: so a crash or a silent metadata store in between leaves nothing behind, and
whoever owns the topic next deletes what is left (M6, I20).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ledger.driver import LedgerStore
from ledger.topic_record import OwnedTopic
from magnetar.errors import LedgerNotFound, MetadataError
from magnetar.ids import LedgerId
from metadata.topics import TopicRecord


def with_doomed(record: TopicRecord, ledger_ids: Iterable[LedgerId]) -> TopicRecord:
    """The record with these taken note of; no list of it names them any more."""
    return replace(record, doomed_ledgers=(*record.doomed_ledgers, *ledger_ids))


async def delete_doomed(owned: OwnedTopic, ledgers: LedgerStore) -> bool:
    """Delete what the record dooms; False: the metadata did not answer, try again later."""
    for ledger_id in owned.record.doomed_ledgers:
        if ledger_id in owned.deleted:
            continue
        try:
            await ledgers.delete(ledger_id)
        except MetadataError:
            return False
        except LedgerNotFound:
            pass
        owned.deleted.add(ledger_id)
    return True

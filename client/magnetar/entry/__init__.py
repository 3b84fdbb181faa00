"""What a batch of messages looks like on the wire and on disk, and nothing else.

An entry is the broker's prefix followed by the client part. The client part is one batch, built
by the SDK and never changed afterwards; it guards itself with a CRC32C over all of it and one
CRC32C a message over the uncompressed bytes. Parsers raise `InvalidFrame` and nothing else, and
never allocate more than `MAX_UNCOMPRESSED_BYTES` beyond their input.

Start reading at `layout` (the format), then `encode` and `view`; brokers need `header` (constant
time but for the checksum) and `prefix`.
"""

from magnetar.entry.encode import Columns, encode_batch
from magnetar.entry.gather import gather
from magnetar.entry.header import EntryHeader, check, parse_header
from magnetar.entry.layout import (
    FORMAT_VERSION,
    MAX_MESSAGES_A_BATCH,
    MAX_UNCOMPRESSED_BYTES,
    Codec,
    Flag,
)
from magnetar.entry.prefix import (
    Origin,
    Prefix,
    ScheduleMark,
    batch_flags,
    encode_prefix,
    parse_prefix,
)
from magnetar.entry.provenance import (
    Provenance,
    SchedulePlace,
    encode_provenance,
    parse_provenance,
)
from magnetar.entry.select import indexes_of, select
from magnetar.entry.view import EntryView

__all__ = [
    "FORMAT_VERSION", "MAX_MESSAGES_A_BATCH", "MAX_UNCOMPRESSED_BYTES", "Codec", "Columns",
    "EntryHeader", "EntryView", "Flag", "Origin", "Prefix", "Provenance", "ScheduleMark",
    "SchedulePlace", "batch_flags", "check", "encode_batch", "encode_prefix",
    "encode_provenance", "gather", "indexes_of", "parse_header", "parse_prefix",
    "parse_provenance", "select",
]

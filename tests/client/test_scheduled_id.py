"""Ids of scheduled messages: printed, parsed, kept."""

from __future__ import annotations

import pytest

from magnetar.errors import InvalidArgument
from magnetar.scheduled_id import ScheduledId

ID = ScheduledId(3, 17, 2**40, 9)


def test_an_id_is_printed_and_read_back() -> None:
    assert str(ID) == f"scheduled:17:{2**40}:3:9"
    assert ScheduledId.parse(str(ID)) == ID
    assert ScheduledId.parse(f"17:{2**40}:3:9") == ID


def test_an_id_is_kept_as_bytes() -> None:
    stored = ID.serialize()

    assert stored.hex() == "01000000030000000000000011000001000000000000000009"
    assert ScheduledId.deserialize(stored) == ID


@pytest.mark.parametrize("text", ["", "1:2:3", "1:2:3:4:5", "a:b:c:d", f"1:{2**70}:0:0"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="LEDGER:ENTRY:PARTITION:INDEX"):
        ScheduledId.parse(text)


def test_bytes_that_are_no_id_are_refused() -> None:
    for data in (b"", ID.serialize() + b"x", b"\x02" + ID.serialize()[1:]):
        with pytest.raises(InvalidArgument):
            ScheduledId.deserialize(data)

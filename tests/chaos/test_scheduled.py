"""Owner and a bookie are killed while scheduled messages fire: none early, none lost, none twice.

Ten million of them are the row `scheduled-killed` of `make bench`.
"""

from __future__ import annotations

import asyncio

import pytest

from bench.scheduled_killed import QUICK_COUNT, killed_while_firing
from demo.cluster import ProcessCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


async def test_each_scheduled_message_is_in_the_log_once_and_not_early(
    cluster: ProcessCluster,
) -> None:
    figures = await asyncio.to_thread(killed_while_firing, cluster, QUICK_COUNT)

    assert figures["missing"] == figures["repeated"] == figures["early"] == 0
    assert figures["out_of_order"] == 0

"""Row 33: a program for each classic use, run as it is written."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.features.cluster import FeatureCluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LIMIT_S = 100.0
PRINTED = {
    "hello": ["received 'Hello, Magnetar!' for world"],
    "decoupling": ["billing saw 3 orders worth 370", "newsletter saw 3 orders worth 370"],
    "work_queue": [
        "39 jobs done by 3 workers",
        "job 13 was given up after 3 deliveries: the image cannot be read",
    ],
    "peak_shaving": ["a burst of 2000 is durable", "written to the database"],
    "event_driven": ["3 orders paid, 3 parcels sent"],
    "log_collection": ["1000 lines shipped", "200 errors seen, and nothing else"],
    "activity_tracking": [
        "150 clicks by 3 trackers", "30 of 30 visitors from home to paid, in order",
    ],
    "metrics_rollup": ["720 points of 12 series rolled up to 60"],
    "stream_processing": ["30 times 'the' in 30 lines"],
}


def test_every_example_is_run() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
async def test_example_runs(cluster: FeatureCluster, name: str, tmp_path: Path) -> None:
    program = tmp_path / f"{name}.py"
    program.write_text((EXAMPLES / f"{name}.py").read_text().replace(
        "magnetar://127.0.0.1:6650", cluster.service_url))

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(program), stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "MAGNETAR_SERVICE_URL": cluster.service_url},
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            printed, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0, complaints.decode()
    for expected in PRINTED[name]:
        assert expected in printed.decode()

"""Log collection: lines of many machines go to one topic; whoever wants errors gets errors only.

The level is the message's tag, so the broker decides, and a line that nobody asked for never
crosses the network. Without an argument it makes a log of its own and ships that.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from magnetar import Client, CompressionType, InitialPosition

TOPIC = "logs"
LEVELS = ("INFO", "INFO", "INFO", "WARN", "ERROR")
LINES = 1_000


def own_log() -> Path:
    """A log of a thousand lines, two hundred of them errors."""
    file = Path(tempfile.mkdtemp()) / "service.log"
    file.write_text("".join(
        f"{LEVELS[number % len(LEVELS)]} request {number}\n" for number in range(LINES)))
    return file


async def ship(client: Client, file: Path) -> int:
    """Send each line, its level as the tag."""
    async with await client.create_producer(
        TOPIC, compression_type=CompressionType.ZSTD
    ) as producer:
        count = 0
        for line in file.read_text().splitlines():
            await producer.ready()
            producer.send(line.encode(), {"host": "web-1"}, tag=line.partition(" ")[0])
            count += 1
        await producer.flush()
    return count


async def main(file: Path) -> None:
    async with Client() as client:
        alerts = await client.subscribe(
            TOPIC, "alerts", tags="ERROR", initial_position=InitialPosition.Earliest)
        print(f"{await ship(client, file)} lines shipped")

        errors = 0
        while errors < LINES // len(LEVELS):
            for message in await alerts.receive_many(timeout_millis=10_000):
                errors += 1
                alerts.acknowledge(message)
        print(f"{errors} errors seen, and nothing else")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else own_log()))

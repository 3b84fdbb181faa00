"""Stream processing: words counted over windows of ten lines, each result there exactly once.

The count of a window is published under the sequence id of its last line, before the lines are
acknowledged. A run that is broken off between the two repeats the window, and the broker
recognises what it has already: nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from magnetar import Client, Consumer, InitialPosition, Message

LINES_TOPIC, COUNTS_TOPIC = "lines", "word-counts"
WINDOW = 10
LINES = ["the quick brown fox", "jumps over the lazy dog", "the end"] * 10


async def window_of(consumer: Consumer) -> list[Message]:
    """The next ten lines."""
    lines: list[Message] = []
    while len(lines) < WINDOW:
        lines += await consumer.receive_many(WINDOW - len(lines), timeout_millis=10_000)
    return lines


async def main() -> None:
    async with Client() as client:
        source = await client.create_producer(LINES_TOPIC, "writer")
        await (await source.send_many([line.encode() for line in LINES]))

        consumer = await client.subscribe(
            LINES_TOPIC, "count", initial_position=InitialPosition.Earliest)
        results = await client.create_producer(COUNTS_TOPIC, "word-counter")
        total: Counter[str] = Counter()
        for number in range(len(LINES) // WINDOW):
            lines = await window_of(consumer)
            words = Counter(word for line in lines for word in line.data.decode().split())
            await results.send(
                json.dumps(words).encode(), sequence_id=lines[-1].sequence_id)
            await consumer.acknowledge_cumulative(lines[-1])
            total += words
            print(f"window {number}: {words.most_common(1)[0][0]!r} most often")
        print(f"{total['the']} times 'the' in {len(LINES)} lines")


if __name__ == "__main__":
    asyncio.run(main())

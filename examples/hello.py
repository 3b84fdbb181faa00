"""Publish a greeting and receive it: `magnetar standalone --data DIR` in one terminal, this in
another."""

from __future__ import annotations

import asyncio

from magnetar import Client, InitialPosition


async def main() -> None:
    async with Client("magnetar://127.0.0.1:6650") as client:
        producer = await client.create_producer("hello")
        message_id = await producer.send(b"Hello, Magnetar!", partition_key="world")
        print(f"durable as {message_id}")

        consumer = await client.subscribe(
            "hello", "hello", initial_position=InitialPosition.Earliest
        )
        message = await consumer.receive(timeout_millis=10_000)
        print(f"received {message.data.decode()!r} for {message.partition_key}")
        await consumer.acknowledge(message)


if __name__ == "__main__":
    asyncio.run(main())

"""Decoupling: a shop tells that something was ordered, and need not know who wants to hear it.

Billing, the warehouse and the newsletter each have a subscription of their own, and each gets
every order. `python examples/decoupling.py`, with a server on this machine or at
MAGNETAR_SERVICE_URL.
"""

from __future__ import annotations

import asyncio
import json

from magnetar import Client, Consumer, InitialPosition

TOPIC = "shop-orders"
SERVICES = ("billing", "warehouse", "newsletter")
ORDERS = [
    {"number": 1, "what": "lamp", "price": 40},
    {"number": 2, "what": "table", "price": 250},
    {"number": 3, "what": "chair", "price": 80},
]


async def serve(service: str, consumer: Consumer) -> str:
    """One service: reads every order, at its own pace."""
    total = 0
    for _ in ORDERS:
        message = await consumer.receive(timeout_millis=10_000)
        total += json.loads(message.data)["price"]
        await consumer.acknowledge(message)
    return f"{service} saw {len(ORDERS)} orders worth {total}"


async def main() -> None:
    async with Client() as client:
        consumers = {
            service: await client.subscribe(
                TOPIC, service, initial_position=InitialPosition.Earliest)
            for service in SERVICES
        }
        shop = await client.create_producer(TOPIC)
        for order in ORDERS:
            await shop.send(json.dumps(order).encode())
        for line in await asyncio.gather(*(serve(*one) for one in consumers.items())):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())

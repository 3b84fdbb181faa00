"""An event-driven service: functions bound to topics, each making the next thing happen.

An order is paid; what was paid is sent. A function that raises gets its message again.
"""

from __future__ import annotations

import asyncio

from magnetar import Client, InitialPosition, Message, Producer

ORDERS = ("lamp", "table", "chair")


class Shop:
    """What the services share: here only what they have done."""

    def __init__(self, payments: Producer) -> None:
        self.payments = payments
        self.paid: list[str] = []
        self.sent: list[str] = []
        self.everything = asyncio.Event()

    async def pay(self, order: Message) -> None:
        what = order.data.decode()
        if order.redelivery_count == 0 and what == "table":
            raise RuntimeError("the bank does not answer")  # it is tried again by itself
        self.paid.append(what)
        await self.payments.send(order.data)

    async def send(self, payment: Message) -> None:
        self.sent.append(payment.data.decode())
        if len(self.sent) == len(ORDERS):
            self.everything.set()


async def main() -> None:
    async with Client() as client:
        shop = Shop(await client.create_producer("payments"))
        start = InitialPosition.Earliest
        client.on(
            "new-orders", "paying", initial_position=start, redelivery_backoff=[0.1]
        )(shop.pay)
        client.on("payments", "sending", initial_position=start, concurrency=4)(shop.send)
        await client.start_listeners()

        orders = await client.create_producer("new-orders")
        for what in ORDERS:
            await orders.send(what.encode())
        async with asyncio.timeout(30):
            await shop.everything.wait()
        await client.stop_listeners()
        print(f"{len(shop.paid)} orders paid, {len(shop.sent)} parcels sent")


if __name__ == "__main__":
    asyncio.run(main())

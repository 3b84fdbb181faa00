"""The simulated loop, links and disks behave as the machines they stand for."""

from __future__ import annotations

import asyncio
import random

import pytest

from magnetar.errors import ConnectionFailed, ConnectionLoss, DiskFailure
from magnetar.runtime.network import Address
from tests.sim.disk import Machine
from tests.sim.loop import Deadlock, Lane, Livelock, SimLoop
from tests.sim.network import Fabric, Host, SimNetwork
from tests.sim.store import MetadataService, StoreTimes
from tests.sim.trace import Trace


def make_loop(seed: int = 1) -> SimLoop:
    return SimLoop(random.Random(seed))


def make_fabric(loop: SimLoop, seed: int = 1) -> Fabric:
    return Fabric(loop, random.Random(seed), Trace(loop))


def test_time_is_virtual_and_jumps_to_the_next_timer() -> None:
    loop = make_loop()

    async def wait_an_hour() -> float:
        await asyncio.sleep(3600)
        return loop.time()

    assert loop.run_until_complete(wait_an_hour()) == pytest.approx(3600)


def test_callbacks_of_one_lane_run_in_order_and_lanes_interleave_by_seed() -> None:
    def run(seed: int) -> list[str]:
        loop = make_loop(seed)
        seen: list[str] = []
        lanes = [Lane("a"), Lane("b"), Lane("c")]
        for number in range(4):
            for lane in lanes:
                loop.call_in(loop.lane_context(lane), seen.append, f"{lane.name}{number}")
        loop.run_until_complete(asyncio.sleep(0.1))
        return seen

    orders = [run(seed) for seed in range(20)]

    for order in orders:
        for name in "abc":
            assert [s for s in order if s[0] == name] == [f"{name}{n}" for n in range(4)]
    assert len({tuple(order) for order in orders}) > 1
    assert orders == [run(seed) for seed in range(20)]


def test_a_paused_lane_runs_its_timers_in_a_burst_and_a_killed_one_never() -> None:
    loop = make_loop()
    paused, killed = Lane("paused"), Lane("killed")
    seen: list[tuple[str, float]] = []

    async def tick(name: str) -> None:
        try:
            await asyncio.sleep(1)
            seen.append((name, loop.time()))
        finally:
            seen.append((f"{name} finally", loop.time()))

    async def scenario() -> None:
        tasks.append(loop.spawn(paused, tick("paused")))
        tasks.append(loop.spawn(killed, tick("killed")))
        await asyncio.sleep(0.5)
        loop.pause(paused)
        loop.kill(killed)
        await asyncio.sleep(4.5)
        assert seen == []
        loop.resume(paused)
        await asyncio.sleep(1)

    tasks: list[object] = []
    loop.run_until_complete(scenario())

    assert seen == [("paused", 5.0), ("paused finally", 5.0)]


def test_a_hang_and_a_spin_are_told_apart_from_progress() -> None:
    with pytest.raises(Deadlock):
        make_loop().run_until_complete(asyncio.Event().wait())

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        make_loop().run_until_complete(spin())


class Echo:
    """A listener that keeps what it gets and answers each frame."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.closed = 0

    def accept(self, link):  # type: ignore[no-untyped-def]
        def on_frame(frame: memoryview) -> None:
            self.got.append(bytes(frame))
            link.send(b"re:", frame)

        def on_closed() -> None:
            self.closed += 1

        return on_frame, on_closed


async def connected(fabric: Fabric, client: Host, server: Host, echo: Echo, replies: list[bytes],
                    ends: list[str]):  # type: ignore[no-untyped-def]
    await SimNetwork(fabric, server).listen(Address(server.name, 7), echo.accept)
    return await SimNetwork(fabric, client).connect(
        Address(server.name, 7), lambda frame: replies.append(bytes(frame)),
        lambda: ends.append("closed"), 1.0,
    )


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_a_link_keep_their_order_and_come_late_after_a_partition(seed: int) -> None:
    loop = make_loop(seed)
    fabric = make_fabric(loop, seed)
    client, server, echo = fabric.boot("client"), fabric.boot("server"), Echo()
    replies: list[bytes] = []
    ends: list[str] = []

    async def scenario() -> None:
        link = await connected(fabric, client, server, echo, replies, ends)
        sent = [b"%d" % n for n in range(30)]
        for frame in sent[:10]:
            link.send(frame)
        await asyncio.sleep(0.1)
        fabric.block("client", "server")
        for frame in sent[10:]:
            link.send(frame)
        await asyncio.sleep(0.1)
        assert echo.got == sent[:10]
        fabric.unblock("client", "server")
        await asyncio.sleep(0.1)
        assert echo.got == sent
        assert replies == [b"re:" + frame for frame in sent]
        link.close()
        await asyncio.sleep(0.1)
        assert (ends, echo.closed) == (["closed"], 1)

    loop.run_until_complete(scenario())


def test_a_link_blocked_for_long_dies_and_a_killed_host_refuses() -> None:
    loop = make_loop()
    fabric = make_fabric(loop)
    client, server, echo = fabric.boot("client"), fabric.boot("server"), Echo()
    replies: list[bytes] = []
    ends: list[str] = []

    async def scenario() -> None:
        link = await connected(fabric, client, server, echo, replies, ends)
        fabric.block("server", "client")
        link.send(b"executed, and its answer lost")
        await asyncio.sleep(5)
        assert (len(echo.got), replies, ends, echo.closed) == (1, [], ["closed"], 1)
        fabric.unblock("server", "client")
        fabric.kill(server, silent=False)
        with pytest.raises(ConnectionFailed):
            await connected(fabric, client, server, echo, replies, ends)

    loop.run_until_complete(scenario())


def test_a_power_cut_keeps_what_was_synced_and_mangles_the_rest() -> None:
    torn = 0
    for seed in range(40):
        loop = make_loop(seed)
        machine = Machine(loop, random.Random(seed), Trace(loop), "m")
        lane = Lane("m")

        async def write(machine: Machine = machine) -> None:
            file = await machine.boot().create("log")
            await file.append_and_sync([b"a" * 100])
            await file.append_and_sync([b"b" * 100])

        async def scenario(loop: SimLoop = loop, machine: Machine = machine,
                           lane: Lane = lane, write=write) -> None:  # type: ignore[no-untyped-def]
            loop.spawn(lane, write())
            while not machine.files or machine.files["log"].durable_bytes < 100:
                await asyncio.sleep(0.00001)
            loop.kill(lane)
            machine.stop(power_cut=True)

        loop.run_until_complete(scenario())
        content = machine.boot().read("log")
        assert content[:100] == b"a" * 100
        torn += 100 < len(content) < 200
    assert torn > 3


def test_a_killed_process_leaves_bytes_that_a_later_power_cut_may_take() -> None:
    fates = set()
    for seed in range(30):
        loop = make_loop(seed)
        machine = Machine(loop, random.Random(seed), Trace(loop), "m")
        lane = Lane("m")

        async def write(machine: Machine = machine) -> None:
            file = await machine.boot().create("log")
            await file.append_and_sync([b"b" * 100])

        async def scenario(loop: SimLoop = loop, machine: Machine = machine,
                           lane: Lane = lane, write=write) -> None:  # type: ignore[no-untyped-def]
            loop.spawn(lane, write())
            while not machine._flying:
                await asyncio.sleep(0.00001)
            loop.kill(lane)
            machine.stop(power_cut=False)

        loop.run_until_complete(scenario())
        seen = len(machine.boot().read("log"))
        machine.stop(power_cut=True)
        fates.add((seen > 0, len(machine.boot().read("log")) > 0))
    assert (True, False) in fates and (True, True) in fates


def test_a_failed_sync_is_fatal_and_its_bytes_are_not_durable() -> None:
    loop = make_loop()
    machine = Machine(loop, random.Random(1), Trace(loop), "m")

    async def scenario() -> None:
        file = await machine.boot().create("log")
        machine.fail_next_sync = True
        with pytest.raises(DiskFailure):
            await file.append_and_sync([b"x" * 10])
        assert (file.size_bytes, machine.files["log"].durable_bytes) == (10, 0)

    loop.run_until_complete(scenario())


def test_rot_stays_before_the_newest_append() -> None:
    loop = make_loop()
    machine = Machine(loop, random.Random(1), Trace(loop), "m")

    async def scenario() -> None:
        file = await machine.boot().create("log")
        assert not machine.rot()
        for _ in range(3):
            await file.append_and_sync([bytes(50)])
        for _ in range(50):
            assert machine.rot()
        assert max(offset for _, offset in machine.rotten) < 100

    loop.run_until_complete(scenario())


def test_a_store_loses_answers_of_applied_writes_and_sessions_unnoticed() -> None:
    loop = make_loop()
    fabric = make_fabric(loop)
    service = MetadataService(loop, random.Random(3), Trace(loop), fabric,
                              StoreTimes(loss_chance=0.5))
    host = fabric.boot("broker")
    outcomes = {"applied": 0, "lost": 0}

    async def scenario() -> None:
        store = service.connect(host)
        states: list[str] = []
        store.on_session(lambda state: states.append(state.value))
        for number in range(60):
            try:
                await store.create(f"/a/{number}", b"")
            except ConnectionLoss:
                outcomes["applied" if f"/a/{number}" in service.tree.nodes else "lost"] += 1
        service.times.loss_chance = 0.0
        await store.create("/brokers/b1", b"", ephemeral=True)
        fabric.block("broker", "zk")
        await asyncio.sleep(service.times.session_timeout_s * 2)
        assert "/brokers/b1" not in service.tree.nodes
        assert states == ["suspended"]
        fabric.unblock("broker", "zk")
        await asyncio.sleep(service.times.session_timeout_s)
        assert states == ["suspended", "lost", "connected"]

    loop.run_until_complete(scenario())
    assert min(outcomes.values()) > 3

"""`python -m bench.yardstick`: measure alone, or play one role in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
from pathlib import Path

import uvloop

from bench.yardstick import bookie, broker, load
from bench.yardstick.cluster import LOADS, measured
from bench.yardstick.wire import SWITCH_INTERVAL_S


async def play(role: str, port: int, argument: str) -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    if role == "bookie":
        server = await bookie.serve(port, Path(argument))
        print("yardstick bookie ready", flush=True)
        await server.serve_forever()
    elif role == "broker":
        ports = [int(bookie_port) for bookie_port in argument.split(",")]
        grpc_server = await broker.serve(port, ports)
        print("yardstick broker ready", flush=True)
        await grpc_server.wait_for_termination()
    elif role == "drink":
        print(json.dumps(await load.drink(port, int(argument))), flush=True)
    else:
        kind, first, second = argument.split(",")
        run = load.saturate if kind == "saturate" else load.paced
        print(json.dumps(await run(port, int(first), int(second))), flush=True)


def measure() -> None:
    for name, wanted in LOADS.items():
        with tempfile.TemporaryDirectory(prefix="magnetar-yardstick-") as folder:
            print(f"{name:24} {measured(Path(folder), wanted)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", nargs=3, metavar=("ROLE", "PORT", "ARGUMENT"))
    arguments = parser.parse_args()
    if not arguments.role:
        measure()
        return
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    role, port, argument = arguments.role
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play(role, int(port), argument))


if __name__ == "__main__":
    main()

"""Measurements: Magnetar beside the bare data path, row by row, on the same disk.

Absolute figures of a shared machine say little; the ratio to a yardstick that was run in the
same minute says how much of what two cores allow is left after safety. It guards the figures
of the table in `bench.rows`. Start reading there, then at `bench.__main__`.
"""

from __future__ import annotations

import os

# Processes are started from here while gRPC runs; its handlers for that are not needed, since
# every child becomes another program at once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

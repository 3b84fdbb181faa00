"""Measurements: Magnetar beside the bare data path, row by row, on the same disk.

Absolute figures of a shared machine say little; the ratio to a yardstick that was run in the
same minute says how much of what two cores allow is left after safety. It guards the figures
of the table in `bench.rows`. Start reading there, then at `bench.__main__`.
"""

"""Sorted runs of a schedule: messages that are not due soon, on the bookies in the order in which
they fire, so that memory holds only the next of each run.

Start reading at `blocks`, the format; `builder` makes a run of what comes in order, `run` is one
as it is read: where each block begins, and cursors on it. No I/O in any of them. `reader` looks
things up in runs, `scan` reads them whole to merge them, `loading` has the next blocks at hand,
and `store` is where they are kept, as a port.
"""

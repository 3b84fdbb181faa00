"""Sorted runs of a schedule: messages that are not due soon, on the bookies in the order in which
they fire, so that memory holds only the next of each run.

`blocks` is the format, `builder` makes a run of what comes in order, `run` is one as it is read:
where each block begins, and cursors on it. No I/O in any of them.
"""

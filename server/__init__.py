"""The mains: puts the rooms together into processes, and is imported by none of them.

Start reading at `commands` (what the `magnetar` command offers), then `parts.serve_standalone`,
which shows all parts of a cluster on one screen. Guards the order of start and shutdown.
"""

"""Magnetar's client SDK, CLI and the ground every server room shares.

Start reading at `magnetar.client` for the SDK, at `magnetar.entry` for what a message looks
like on the wire and on disk, and at `magnetar.runtime` for the seams (time, network, disk)
through which all protocol code reaches the world.
"""

__version__ = "0.1.0"

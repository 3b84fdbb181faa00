"""Publishing from one broker to topics that any broker of the cluster may own.

Guards one thing: what a broker derives for another topic (a dead letter) goes there as any
client's message would, through lookup, resends and deduplication, and is known to be durable
before the original is let go. `port` is all that the broker's core knows; `sdk_forwarder` is the
only module that loads the SDK, and only the node imports it.
"""

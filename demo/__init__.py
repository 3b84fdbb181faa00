"""The demonstration: a cluster of processes on this machine that loses nothing while parts die.

Publishes all flights that left New York in 2013, one message a flight, keyed by the aircraft's
tail number; kills a bookie and the topic's owner broker in mid-stream; then reads the log from
its beginning and compares it with the file. It guards the claim the whole product stands on:
what was acknowledged is kept, once and in order.

Start reading at `demo.__main__`; `demo.cluster` is a process cluster of general use, and
`demo.comparison` decides what counts as lost, duplicated or out of order.
"""

"""The yardstick: what the machine allows Python, with all safety left out.

One topic, one producer, one consumer, one broker and three bookies with a write-once log and
fdatasync; CRC32C at every hop, gRPC with raw frames for clients, framed TCP to the bookies,
acknowledged when two of three have synced. No metadata, no recovery, no errors, so nothing to
build on. Start reading at `bench.yardstick.cluster`; alone: `python -m bench.yardstick`.
"""

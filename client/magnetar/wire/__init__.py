"""The conversation between client and broker: generated from `proto/`, and its hot frames by hand.

Guards that both codings of a frame are the same bytes. Start reading at `proto/broker.proto`,
then at `frames`, which codes by hand what carries messages, and at `options`.
"""

"""Brokers: topics, subscriptions, dispatch and ownership, and the gRPC services in front of them.

The room guards three promises: a receipt is sent only for what Qa bookies hold, an acknowledged
message is never delivered again and an unacknowledged one never skipped, and no client reaches a
ledger that is not its topic's. Start reading at `broker` (the transport-free core that a simulator
can drive), then `topic`, `publishing` and `subscription` (consuming); `service` puts gRPC in
front, `node` makes it a process. ARCHITECTURE.md has a map of the modules by subject.

The rooms inside: `dispatch` (how messages are spread over consumers), `selector` (filters),
`schedule` (messages to be delivered later), `forwarding` (to topics of other brokers),
`administration` (what operators ask).
"""

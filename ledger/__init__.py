"""The replication protocol: how a topic becomes ledgers and a ledger becomes copies on bookies.

It guards the promise of the whole system: an acknowledged entry is readable for ever, an entry has
one body, and a ledger has one end. Protocol cores (`writer`, `recovery`, `reader`, `ack_tracker`,
`distribution`, `ensemble_change`) do no I/O: events in, effects out; `driver` is the thin asyncio
shell around them. Above it, `managed_log` chains ledgers into a topic's log and `state_log` keeps
the topic's state, `schedule_log` and `schedule_runs` what is to be delivered later. The rules the
code asserts (R1-R20, M1-M12) are written down in docs/protocol.md.

Start reading at `ack_tracker`, then `writer`, then `recovery`.
"""

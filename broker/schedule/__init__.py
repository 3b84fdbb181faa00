"""Messages to be delivered later: a topic's schedule, and nothing of its log but the way into it.

What comes in is a record in the schedule's own ledgers (`records`), durable before its receipt.
The order in which messages fire is theirs by (due time, number in the schedule), and `core` keeps
it, without I/O: new, cancelled and moved ones, how far the log has them, and that nothing fires
past a record whose write is in flight. `schedule` is the asyncio shell around it; each entry that
it appends to the log carries how far the schedule is with it, so that "appended" and "fired" are
one write. What waits is in memory (`memtable`) until that grows, then in sorted `runs` on the
bookies, which `upkeep` writes, merges and drops. `intake` is the producers' side, `interface` what
operators and the SDK may ask, and `requests` answers.

Start reading at `core`. docs/adr/0022-delayed-messages-are-sorted-runs.md says why it is so.
"""

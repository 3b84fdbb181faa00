"""How messages are spread over the consumers of a subscription.

Guards that a message is out at one consumer at a time, and that nothing which may go stays behind.
`broker.dispatcher` drives it: start there, then read `mode` (what decides how messages are spread)
and `plain_turn` and `ordered_turn`, the two ways of a turn over one `desk`. What they use: whom to
serve (`choice`, `ring`, `failover`), what is out (`flights`) and what becomes of it (`returns`),
what is to go out again (`waiting`, `bodies`), and what keeps the messages of a key in order
(`key_order`, on top of `key_phase` and `sticky_slots`). `key_order`, `ring` and `failover` do no
I/O and know nothing of the log.
"""

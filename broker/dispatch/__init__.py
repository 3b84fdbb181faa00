"""How messages are spread over the consumers of a subscription.

`broker.dispatcher` drives it all. What is here: whom to serve (`choice`, `ring`, `failover`), what
is out (`flights`), what is to go out again (`waiting`, `bodies`), and what keeps the messages of a
key in order (`key_order`, on top of `key_phase` and `sticky_slots`). `key_order`, `ring` and
`failover` do no I/O and know nothing of the log.
"""

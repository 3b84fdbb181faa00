"""The cluster's metadata: small records under compare-and-set, ephemerals, sessions and watches.

This room guards two things: that a record changes only through a compare-and-set whose outcome
is known (`metadata.cas` settles the unknown ones by reading again), and that every path and
every stored format stands in one place, with a version. `MetadataStore` has three forms:
ZooKeeper (`zookeeper`), embedded in the process (`embedded`), and the embedded one served to
other processes (`served`); one contract suite holds them equal. Typed repositories
(`ledgers`, `topics`, `partitioned_topics`, `scheduled_topics`, `bookies`, `brokers`, `tenants`,
`cluster`) are what other rooms use.

Start reading at `store`, then `cas`, then `ledgers`.
"""

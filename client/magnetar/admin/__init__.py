"""Administration as programs see it: tenants, policies, topics, subscriptions, messages.

    await client.admin.topics.create("orders", partitions=4)
    stats = await client.admin.topics.stats("orders")

Start reading at `values`, what calls answer with, which brokers and their clients share; then at
`topics` and its neighbours, one for each noun, which only put a call into a message and read the
answer. `admin.Admin` joins them. The words are those of `magnetar admin` on the command line.
"""

"""What people choose a message system for, a test a row of docs/features.md.

Every test takes `cluster` and runs against a cluster in this process; in `make test-all` also
against real processes, with a ZooKeeper of their own, which are killed with SIGKILL.
"""

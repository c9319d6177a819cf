"""WHAT the replicas of a shard hold and how their copies agree: the replication core.

Pure: no I/O, clock, randomness, asyncio or logging. `group.Group` is one replica, `turns.Turns` the
operations on agents at its leader, `node.Node` all replicas of a node; `store.Store` is the port to
durable storage. `simulation` runs whole clusters of them in virtual time, `checking` judges what
their clients saw. How to read it, in order: README.md beside this package.
"""

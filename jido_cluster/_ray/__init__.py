"""The ports on Ray: the only folder that imports ray.

Order of knowledge: `session` (joining a Ray cluster), `names`, `process` (settings, shipped code),
`streams` (framed TCP between two processes) -> `frames` (a host's server, a client's channel),
`peer_link` and `peers` (messages between replicas), `disk` (a store file), `home` (a node's data
directory) -> `transport` (requests as actor calls), `discovery` (nodes that do not know each other)
-> `tasks` (actions as Ray tasks), `workers` (dedicated agents) -> `host` -> `hosts` -> `node` ->
`supervisor` (the actors, from the inside out) -> `driver` (connecting from any process).
"""

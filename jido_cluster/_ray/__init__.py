"""The ports on Ray: the only folder that imports ray.

Order of knowledge: `session` (joining a Ray cluster), `names`, `streams` (framed TCP between two
processes) -> `frames` (a host's server, a client's channel) -> `transport` (those, and requests as
actor calls) -> `tasks` (actions as Ray tasks), `workers` (dedicated agents) -> `host` -> `node` ->
`supervisor` (the actors, from the inside out) -> `driver` (connecting from any process).
"""

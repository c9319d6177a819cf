"""The ports on Ray: the only folder that imports ray.

Order of knowledge: `session` (joining a Ray cluster), `names` -> `transport` (frames and requests
as actor calls), `streams` (framed TCP between two processes) -> `tasks` (actions as Ray tasks),
`workers` (dedicated agents) -> `host` -> `node` -> `supervisor` (the actors, from the inside out)
-> `driver` (connecting from any process).
"""

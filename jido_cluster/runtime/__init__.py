"""The runtime over ports: turns, hosts, clients; the same code in process and on Ray.

Order of knowledge: `wire` (what travels) and `view` (who holds which shard) -> `turn` (one handler
run) -> `cell` (one agent on its host) -> `replicas`, `committing`, `runs` -> `host` (all of them
together) -> `link` (ordered frames to one host) -> `routes`, `client` (routing, deadlines).
Beside them `control` is what a node's supervisor does: joining, watching, gossip, the root group.
`_local` and `_ray` supply the ports.
"""

"""The runtime over ports: turns, hosts, clients; the same code in process and on Ray.

Order of knowledge: `wire` (what travels) and `view` (who holds which shard) -> `turn` (one handler
run) -> `cell` (one agent on its host) -> `roster`, `handoff`, `runs` -> `host` (all of them
together) -> `link` (ordered frames to one host) -> `client` (routing, deadlines, retries) ->
`coordinator` (changes of the view). `_local` and `_ray` supply the ports.
"""

"""Other systems under the same load, each in processes of its own.

`lines` (what goes over a program's standard input and output) -> `program` (a program's side of
it) -> `xoscar_peer`, `autogen_peer`, `thespian_peer` and `counter.erl` (the peers). They need the
environment of `requirements.txt`, not that of jido-cluster.
"""

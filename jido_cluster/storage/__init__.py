"""What a node keeps on disk: its identity, and the rows of its replicas.

Order of knowledge: `files` (locks, files that are written whole) -> `log_check` (rot in a
write-ahead log) -> `sqlite_store` (the Store port on SQLite) -> `rows` (what a row's bytes mean:
registers are those of `runtime.sealed`, under which they travel) -> `reading` (everything of a
store at start) -> `journal_writer` (what groups want written, and told when it is) -> `directory`
(slots, identity, boots). Nothing here knows of Ray or of an event loop.
"""

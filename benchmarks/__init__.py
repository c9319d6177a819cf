"""Measurements of agents against raw Ray actors, side by side in one run.

Order of knowledge: `report` (rows, table, JSON), `agents` (what is measured), `cluster` (where) ->
`calls`, `spawn`, `density` (the cases) -> `__main__`.
"""

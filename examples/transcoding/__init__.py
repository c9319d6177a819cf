"""A distributed video transcoding pipeline: one agent per video, actions on every node.

Read `pipeline.py` first: it holds the five actions and the agent that conducts them. `media.py` is
the ffmpeg underneath, `nodes.py` starts Ray nodes on this machine, `report.py` shows and checks the
result, and `__main__.py` puts it together.
"""

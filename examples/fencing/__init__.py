"""An agent that writes to a system outside of the cluster, which refuses what comes too late.

`store.py` is the system outside, `meter.py` the agent, and `__main__.py` holds back the write of a
leader until another one has taken its place.
"""

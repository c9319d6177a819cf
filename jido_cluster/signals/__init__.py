"""Signals: what travels between agents, and the one matcher that decides who hears it.

`signal` holds the event itself (a CloudEvent), `pattern` the matching rules. Nothing here knows of
agents or of the cluster.
"""

from jido_cluster.signals.pattern import Pattern
from jido_cluster.signals.signal import Signal

__all__ = ["Pattern", "Signal"]

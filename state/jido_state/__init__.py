"""WHAT the replicas of a shard hold and how their copies agree: the replication core.

Not built yet. The package exists so that its place in the layers (`jido_cluster > jido_state >
jido_placement`) and its purity are enforced from the first line that will be written here.
"""

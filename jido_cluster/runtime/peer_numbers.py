"""The numbers under which messages travel between processes.

They are never used again: a message that is new gets a new one, and so does one whose fields
changed, together with a new `peer_wire.VERSION`.
"""

from typing import Final

from jido_cluster.runtime.peer_messages import Announce, Leads, Standing
from jido_placement import commands, probing
from jido_state import entries, messages, node_messages

__all__ = ["OF_GROUPS", "OF_NODES", "OF_ROOT"]

OF_GROUPS: Final[dict[type, int]] = {
    messages.Prevote: 1,
    messages.PrevoteAnswer: 2,
    messages.Prepare: 3,
    messages.Promise: 4,
    messages.Nack: 5,
    messages.List: 6,
    messages.Listed: 7,
    messages.Read: 8,
    messages.ReadAnswer: 9,
    messages.Accept: 10,
    messages.Accepted: 11,
    messages.Missing: 12,
    messages.Confirm: 13,
    messages.Confirmed: 14,
    messages.Heartbeat: 15,
    messages.HeartbeatAck: 16,
    messages.Whole: 17,
    messages.Have: 18,
    messages.Holds: 19,
    messages.Reap: 20,
    messages.Copy: 21,
    messages.Copied: 22,
    messages.Transfer: 23,
    messages.ConfigIs: 24,
    entries.Put: 40,
    entries.PutAck: 41,
    entries.Offer: 42,
    entries.Cover: 43,
    entries.AskEntries: 44,
    entries.NoEntries: 45,
}
"""What a frame carries."""

OF_NODES: Final[dict[type, int]] = {
    node_messages.RecordPull: 1,
    node_messages.RecordIs: 2,
    node_messages.RootAsk: 3,
    node_messages.RootTold: 4,
    node_messages.Done: 5,
    node_messages.HandOver: 6,
    node_messages.Leads: 7,
    probing.Probe: 20,
    probing.ProbeFor: 21,
    probing.Ack: 22,
    probing.Nack: 23,
    probing.Gossip: 24,
    probing.Sync: 25,
    Standing: 40,
    Leads: 41,
    Announce: 42,
}
"""What stands beside frames in a batch; 0 is the frame itself."""

OF_ROOT: Final[dict[type, int]] = {
    commands.Join: 1,
    commands.RegisterBoot: 2,
    commands.BecomeUp: 3,
    commands.Leave: 4,
    commands.DeclareDown: 5,
    commands.Remove: 6,
    commands.Describe: 7,
    commands.Assign: 8,
    commands.Retarget: 9,
    commands.NameLearners: 10,
    commands.MayFormat: 11,
    commands.Formatted: 12,
    commands.StoreLost: 13,
    commands.BeginJoint: 14,
    commands.Finish: 15,
    commands.Abort: 16,
    commands.Prefer: 17,
    commands.SetAgreed: 18,
    commands.ForceRecover: 19,
    commands.Accepted: 40,
    commands.Refused: 41,
}
"""What the root group is asked, and answers."""

"""What three detectors say to each other, line by line, in stories that can be read.

`REWRITE=1` writes the files again; a change of them is to be understood before it is kept.
"""

import os
from pathlib import Path

import pytest

from jido_placement.timings import Timings
from tests.placement.detectors import DetectorCluster

FOLDER = Path(__file__).parent / "testdata"
SEPARATOR = "----"


def perform(cluster: DetectorCluster, line: str) -> None:
    """One line of a story."""
    match line.split():
        case ["run", ms]:
            cluster.run(int(ms))
        case ["kill", name]:
            cluster.kill(name)
        case ["restart", name]:
            cluster.restart(name)
        case ["cut", left, right]:
            cluster.cut([left], [right])
        case ["heal"]:
            cluster.heal()
        case ["pause", name, ms]:
            cluster.pause(name, int(ms))
        case ["certain", name, about]:
            detector = cluster.detectors[name]
            incarnation = detector.opinion_of(about).incarnation
            cluster.perform(name, detector.certain(about, incarnation, cluster.now_ms))
        case ["contacts", name]:
            contacts = " ".join(cluster.detectors[name].contacts(cluster.now_ms))
            cluster.log.append(f"contacts of {name}: {contacts}")
        case _:
            raise ValueError(f"{line!r}: no such line in a story")


def play(text: str) -> str:
    """The story with what happened after each of its blocks."""
    cluster = DetectorCluster(3, timings=Timings(retransmit_factor=1), delay_ms=(10, 10))
    blocks = []
    for block in text.strip().split("\n\n"):
        story = block.split(f"\n{SEPARATOR}")[0]
        cluster.log.clear()
        for line in story.splitlines():
            if not line.startswith("#"):
                perform(cluster, line)
        blocks.append("\n".join([story, SEPARATOR, *cluster.log]))
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("detector_*.txt")), ids=lambda path: path.stem)
def test_transcripts(path: Path) -> None:
    """The same story has the same course, to the message."""
    told = path.read_text()
    happened = play(told)
    if os.environ.get("REWRITE"):
        path.write_text(happened)
    else:
        assert happened == told

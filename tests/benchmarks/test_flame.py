"""Flame graphs: what is counted, and what is drawn."""

from xml.etree import ElementTree as ET

import pytest

from benchmarks.flame import flame_graph, self_times, tree

STACKS = ["main (a.py);work (a.py);read (b.py) 30", "main (a.py);work (a.py) 60", "main (a.py) 10"]


def widths(svg: str) -> dict[str, float]:
    """Of the frames, by name."""
    found = {}
    for group in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        title, rect = group[0].text or "", group[1]
        found[title.partition(":")[0]] = float(rect.attrib["width"])
    return found


def test_samples_are_counted_below_and_by_themselves() -> None:
    """A frame has all samples below it; its own are those that no callee has."""
    root = tree(STACKS)
    assert root.samples == 100
    assert root.called["main (a.py)"].called["work (a.py)"].samples == 90
    assert self_times(root) == {"work (a.py)": 0.6, "read (b.py)": 0.3, "main (a.py)": 0.1}


def test_frames_are_as_wide_as_their_share() -> None:
    """The first frame spans the graph, and a callee stands within its caller."""
    found = widths(flame_graph("title", "note", tree(STACKS)))
    assert found["work (a.py)"] == pytest.approx(0.9 * found["main (a.py)"], rel=0.01)
    assert found["read (b.py)"] == pytest.approx(0.3 * found["main (a.py)"], rel=0.01)


def test_a_large_profile_stays_small() -> None:
    """Frames too narrow to be seen are not drawn: the file is for a repository."""
    stacks = [f"main;{';'.join(f'f{one}_{depth}' for depth in range(30))} 1" for one in range(3000)]
    svg = flame_graph("title", "note", tree([*stacks, "main;hot 3000"]))
    assert "hot" in svg
    assert len(svg) < 200_000


def test_what_all_stacks_share_is_not_drawn() -> None:
    """How the program was started says nothing of its time."""
    found = widths(flame_graph("title", "note", tree(["run;main;a 2", "run;main;b 1"])))
    assert found.keys() == {"main", "a", "b"}


def test_names_are_escaped() -> None:
    """A lambda is a name, too."""
    svg = flame_graph("title", "note", tree(["<module> (a.py);<lambda> (a.py) 5"]))
    assert widths(svg).keys() == {"<lambda> (a.py)"}


@pytest.mark.parametrize("stacks", [[], ["", " "]])
def test_an_idle_process_is_no_profile(stacks: list[str]) -> None:
    """Nothing sampled is an error, not an empty picture."""
    with pytest.raises(ValueError, match="no samples"):
        tree(stacks)

"""Which node gets a piece of work."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jido_placement.choice import (
    HYSTERESIS,
    Choice,
    NoCapable,
    Offer,
    Requirements,
    choose,
    fitness,
    lacks,
)
from jido_placement.stream import Stream

NOTHING = Requirements()
GPU = Requirements(resources={"gpu": 1})


def offer(node: str, load: float = 0.0, **fields: object) -> Offer:
    return Offer(node=node, load=load, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "needs", "lacking"),
    [
        ({}, NOTHING, ()),
        ({"is_available": False}, NOTHING, ("takes no work",)),
        ({"labels": {"disk": "hdd"}}, Requirements(labels={"disk": "ssd"}), ("label disk=ssd",)),
        ({"free": {"gpu": 0.5}}, GPU, ("1 gpu (has 0.5 free)",)),
        ({}, GPU, ("1 gpu (has 0 free)",)),
        ({"free": {"gpu": 1}}, GPU, ()),
        ({}, Requirements(actions=("encode",)), ("action encode",)),
        ({"actions": {"encode": ("1", "2")}}, Requirements(actions=("encode", "encode@2")), ()),
        (
            {"actions": {"encode": ("1", "2")}},
            Requirements(actions=("encode@3",)),
            ("action encode@3 (has 1, 2)",),
        ),
    ],
)
def test_what_a_node_lacks(
    fields: dict[str, object], needs: Requirements, lacking: tuple[str, ...]
) -> None:
    """In words, each with what is there instead."""
    assert lacks(offer("a", **fields), needs) == lacking  # type: ignore[arg-type]


def test_fitness_is_what_the_scarcest_means_leave_over() -> None:
    """Load, and each needed resource as it would be afterwards; between 0 and 1."""
    assert fitness(offer("a", 0.25), NOTHING) == 0.75
    assert fitness(offer("a", 3.0), NOTHING) == 0.0
    half = offer("a", 0.1, total={"gpu": 4}, free={"gpu": 3})
    assert fitness(half, GPU) == 0.5
    assert fitness(offer("a", 0.1, free={"gpu": 2}), GPU) == 0.5


def test_nobody_capable_says_why() -> None:
    """For some nodes in full, for the others their number; deterministic order."""
    offers = [offer(f"n{number}") for number in range(10)]
    answer = choose(GPU, offers, Stream(1))
    assert isinstance(answer, NoCapable)
    assert answer.others == 2
    assert next(iter(answer.lacking.items())) == ("n0", ("1 gpu (has 0 free)",))
    nobody = choose(NOTHING, [], Stream(1))
    assert nobody == NoCapable({}, 0)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=8), st.integers())
def test_the_fitter_of_two_is_chosen_among_the_capable(loads: list[float], seed: int) -> None:
    """The busiest gets nothing when there is another one; order of the offers decides nothing."""
    offers = [offer(f"n{number}", load) for number, load in enumerate(loads)]
    offers.append(offer("incapable", is_available=False))
    answer = choose(NOTHING, offers, Stream(seed))
    assert isinstance(answer, Choice)
    assert choose(NOTHING, offers[::-1], Stream(seed)) == answer
    assert answer.capable == len(loads)
    fit = [fitness(one, NOTHING) for one in offers[:-1]]
    assert answer.fitness == fit[int(answer.node[1:])]
    if len(loads) > 1:
        assert answer.fitness >= sorted(fit)[1]


def test_two_choices_spread_work_without_herding() -> None:
    """Everybody looks at the same old figures, and still nobody gets more than a fair multiple."""
    offers = [offer(f"n{number}", number / 100) for number in range(20)]
    stream = Stream(7)
    given = Counter[str]()
    for _ in range(2_000):
        answer = choose(NOTHING, offers, stream)
        assert isinstance(answer, Choice)
        given[answer.node] += 1
    assert max(given.values()) <= 2.5 * 2_000 / 20
    assert given["n0"] > given["n18"]


def test_placing_one_by_one_stays_balanced() -> None:
    """With figures that follow, two choices keep the fullest node close to the mean."""
    load = dict.fromkeys((f"n{number}" for number in range(50)), 0)
    stream = Stream(3)
    for _ in range(2_000):
        answer = choose(NOTHING, [offer(name, n / 1_000) for name, n in load.items()], stream)
        assert isinstance(answer, Choice)
        load[answer.node] += 1
    assert max(load.values()) <= 40 + 4


@given(st.floats(0, 0.8), st.floats(-0.99, 0.99), st.integers())
def test_noise_moves_nothing(load: float, noise: float, seed: int) -> None:
    """Who has the work keeps it unless somebody else is clearly fitter."""
    offers = [offer("a", load), offer("b", max(0.0, load + noise * HYSTERESIS))]
    answer = choose(NOTHING, offers, Stream(seed), current="a")
    assert isinstance(answer, Choice)
    assert answer.node == "a"


def test_a_clearly_fitter_node_takes_over() -> None:
    """And a node that can no longer do it keeps nothing."""
    offers = [offer("a", 0.9), offer("b", 0.1)]
    assert choose(NOTHING, offers, Stream(1), current="a") == Choice("b", 0.9, 2)
    gone = [offer("a", is_available=False), offer("b", 0.9)]
    answer = choose(NOTHING, gone, Stream(1), current="a")
    assert isinstance(answer, Choice)
    assert answer.node == "b"


def test_figures_that_cannot_be_compared_are_refused() -> None:
    """The error names the figure and the node."""
    with pytest.raises(ValueError, match="load=nan of 'a'"):
        offer("a", float("nan"))
    with pytest.raises(ValueError, match="gpu=-1 of 'a'"):
        offer("a", free={"gpu": -1})
    with pytest.raises(ValueError, match="resource gpu=0"):
        Requirements(resources={"gpu": 0})

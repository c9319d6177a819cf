"""Every error crosses process borders, whoever adds it."""

import pickle
from collections.abc import Iterator

import pytest

from jido_cluster import errors
from jido_cluster.errors import JidoError

BUILTIN_BASES = {
    "InvalidInputError": ValueError,
    "AgentNotFoundError": LookupError,
    "HandlerNotFoundError": LookupError,
    "NotRegisteredError": LookupError,
    "DeadlineExceededError": TimeoutError,
    "ClusterUnavailableError": ConnectionError,
    "ActionTimeoutError": TimeoutError,
    "OutcomeUnknownError": TimeoutError,
    "StillRunningError": TimeoutError,
    "UsageError": RuntimeError,
}


def family(root: type[JidoError]) -> Iterator[type[JidoError]]:
    """The class and all below it that the package itself defines."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


FAMILY = sorted(set(family(JidoError)), key=lambda error: error.__name__)


@pytest.mark.parametrize("error_type", FAMILY, ids=lambda error: error.__name__)
def test_an_error_survives_pickling_and_its_dict(error_type: type[JidoError]) -> None:
    """Class, message, details, flags and id arrive, by pickle protocols 2 to 5 and as a dict."""
    error = error_type("it broke", retryable=True, agent="c-1", known=["a", "b"])
    error.error_id = "e-1"
    copies = [pickle.loads(pickle.dumps(error, protocol)) for protocol in (2, 3, 4, 5)]
    copies.append(JidoError.from_dict(error.to_dict()))
    for copy in copies:
        # The root itself has no kind of its own on the wire.
        assert type(copy) is error_type or error_type is JidoError
        assert (copy.message, str(copy)) == ("it broke", "it broke")
        assert copy.details == {"agent": "c-1", "known": ["a", "b"]}
        assert (copy.kind, copy.retryable, copy.error_id) == (error.kind, True, "e-1")


def test_the_tree_is_the_documented_one() -> None:
    """30 classes, each exported, with a kind of its own and the builtin base it promises."""
    assert len(FAMILY) == 30
    assert sorted(errors.__all__) == [error.__name__ for error in FAMILY]
    assert len({error.kind for error in FAMILY}) == 30
    for error in FAMILY:
        assert issubclass(error, BUILTIN_BASES.get(error.__name__, JidoError))
        assert error.__doc__

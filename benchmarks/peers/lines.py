"""What goes over the standard input and output of a peer's program: one line each way.

A program begins with `ready name=version ...`. It is asked `load IN_FLIGHT SECONDS`, to which it
answers `load RATE P50 P95 P99` (per second, milliseconds), and `fan AGENTS`, to which it answers
`fan SECONDS`. `cannot REASON` is the answer to what the system cannot do. It ends with its input.
"""

from benchmarks.load import Load


class PeerError(Exception):
    """A peer's program said something else than was asked; the message quotes it."""


class CannotError(PeerError):
    """The system cannot do what was asked; the message is its reason."""


def versions(line: str) -> dict[str, str]:
    """Of a program's first line: name to version."""
    found = {}
    for item in _after("ready", line):
        name, equals, version = item.partition("=")
        if not (name and equals and version):
            raise PeerError(f"{item!r} in {line!r}: name=version was expected")
        found[name] = version
    return found


def as_load(line: str) -> Load:
    """Of an answer to `load`."""
    return Load(*_numbers("load", line, 4))


def as_seconds(line: str) -> float:
    """Of an answer to `fan`."""
    return _numbers("fan", line, 1)[0]


def request(line: str) -> tuple[str, list[float]]:
    """What a program is asked: the word and its numbers."""
    word, *rest = line.split()
    return word, [float(each) for each in rest]


def answer(word: str, *numbers: float) -> str:
    """The line that answers a request."""
    return " ".join((word, *(f"{number:.6f}" for number in numbers)))


def _numbers(word: str, line: str, count: int) -> list[float]:
    texts = _after(word, line)
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise PeerError(f"{line!r}: {word!r} and {count} numbers were expected")
    return numbers


def _after(word: str, line: str) -> list[str]:
    first, *rest = line.split() or [""]
    if first == "cannot":
        raise CannotError(" ".join(rest))
    if first != word:
        raise PeerError(f"{line!r}: a line that begins with {word!r} was expected")
    return rest

"""Events of the runtime, for whoever listens.

An event has a name (``jido.exec.stop``), measurements (numbers; durations in seconds) and metadata
(what it is about). Listeners are attached by name to exact event names and run in the thread that
executes the event, so they must be quick. Parameters and results are in no event but those that
exist for them, ``jido.exec.params`` and ``jido.exec.result``, which cost nothing until somebody
attaches to them.

Code on a hot path asks ``if telemetry.LISTENERS:`` before it gathers measurements: with nobody
listening an event costs that one test.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jido_cluster.errors import ConfigError, redacted

__all__ = ["Listener", "attach", "attach_many", "detach", "execute", "redact"]

Listener = Callable[[str, Mapping[str, float], Mapping[str, Any]], None]

_logger = logging.getLogger(__name__)
_lock = threading.Lock()

# Event name -> (listener's name, listener), in the order attached. Replaced as a whole under the
# lock and never changed in place, so that readers need no lock. Read it as an attribute of the
# module: an imported name would keep the old mapping.
LISTENERS: Mapping[str, tuple[tuple[str, Listener], ...]] = {}


def attach(name: str, event: str, listener: Listener) -> None:
    """From now on ``listener(event, measurements, metadata)`` is called for each ``event``.

    Raises:
        ConfigError: ``name`` is taken; ``detach`` it first. Nothing changed.
    """
    attach_many(name, [event], listener)


def attach_many(name: str, events: Sequence[str], listener: Listener) -> None:
    """Attaches one listener to several events, all under one name.

    Raises:
        ConfigError: ``name`` is taken, or ``events`` is no list of names. Nothing changed.
    """
    if isinstance(events, str) or not all(_is_name(one) for one in events):
        message = f"telemetry listener {name!r}: events must be a list of names, not {events!r}"
        raise ConfigError(message)
    with _lock:
        if any(name == taken for attached in LISTENERS.values() for taken, _ in attached):
            message = f"a telemetry listener named {name!r} is attached already: detach it first"
            raise ConfigError(message, name=name)
        changed = dict(LISTENERS)
        for event in dict.fromkeys(events):
            changed[event] = (*changed.get(event, ()), (name, listener))
        _replace(changed)


def detach(name: str) -> bool:
    """Removes the listener from all its events; False when there was none of that name."""
    return _remove(name, None)


def execute(event: str, measurements: Mapping[str, float], metadata: Mapping[str, Any]) -> None:
    """Calls the listeners of ``event``, in the order attached.

    A listener that raises is detached from all its events and logged; the others still run and
    nothing reaches the caller.
    """
    for name, listener in LISTENERS.get(event, ()):
        try:
            listener(event, measurements, metadata)
        except Exception:
            _remove(name, listener)
            _logger.exception("telemetry listener %r failed on %s: detached", name, event)


def redact(value: object) -> Any:
    """The value as JSON-shaped data, fit to be logged: bounded, and without secrets.

    A secret is what stands under a key that says so, as "password", "api_key" or "token".
    """
    return redacted(value)


def _is_name(event: object) -> bool:
    return isinstance(event, str) and bool(event)


def _remove(name: str, listener: Listener | None) -> bool:
    """Removes by name; when ``listener`` is given, only if the name still stands for it."""
    with _lock:
        changed = {
            event: tuple(
                (taken, function)
                for taken, function in attached
                if taken != name or (listener is not None and function is not listener)
            )
            for event, attached in LISTENERS.items()
        }
        found = any(len(changed[event]) < len(LISTENERS[event]) for event in changed)
        if found:
            _replace({event: attached for event, attached in changed.items() if attached})
        return found


def _replace(listeners: Mapping[str, tuple[tuple[str, Listener], ...]]) -> None:
    global LISTENERS  # noqa: PLW0603 - one registry per process is the point
    LISTENERS = listeners

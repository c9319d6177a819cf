"""Running an action for another process: request bytes in, outcome bytes out."""

import importlib
import sys
from collections.abc import Sequence

from jido_cluster.errors import ConfigError, JidoError
from jido_cluster.exec.context import ClusterBinding
from jido_cluster.exec.outcome import dump_outcome
from jido_cluster.exec.run import run_named
from jido_cluster.runtime.wire import unpack


async def run_request(request: bytes, node: str, binding: ClusterBinding | None) -> bytes:
    """Run the action a host asked for on this node.

    Returns:
        The outcome as JSON bytes; an action that failed is an outcome too.
    """
    action, params, context, options, run_id, tag, trace = unpack(request)
    outcome = await run_named(
        action,
        params,
        context,
        options,
        run_id=run_id,
        tag=tag,
        trace=trace,
        node=node,
        cluster=binding,
    )
    return dump_outcome(outcome)


def import_modules(names: Sequence[str]) -> None:
    """Import the modules that define a cluster's agents and actions.

    Raises:
        ConfigError: One cannot be imported; the message says where it was looked for.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except JidoError:
            raise
        except Exception as error:
            message = (
                f"module {name!r} of ClusterConfig.modules cannot be imported here: "
                f"{type(error).__name__}: {error}; sys.path is {sys.path}"
            )
            raise ConfigError(message, module=name) from error

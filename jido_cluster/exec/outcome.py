"""The outcome of a run as data: what travels where several results go together, and in replies."""

from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from pydantic_core import to_json

from jido_cluster.errors import ExecutionError, JidoError
from jido_cluster.exec.work import Work

__all__ = ["ErrorInfo", "Outcome", "dump_outcome", "load_outcome"]

R = TypeVar("R")

_CONFIG = ConfigDict(
    frozen=True,
    extra="ignore",
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="constants",
)


class ErrorInfo(BaseModel):
    """An error of a run, as data."""

    model_config = _CONFIG

    kind: str
    """Which error it is: `JidoError.kind`."""
    message: str
    """One sentence for people."""
    retryable: bool
    """Whether the same run may succeed later."""
    error_id: str | None = None
    """Names the entry with the traceback in the log of the node that ran it."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What the message speaks of, as JSON-shaped data."""

    @classmethod
    def of(cls, error: JidoError) -> "ErrorInfo":
        """The description of an error."""
        return cls.model_validate(error.to_dict())

    def to_error(self) -> JidoError:
        """The typed error, by its kind."""
        return JidoError.from_dict(self.model_dump())


class Outcome(BaseModel, Generic[R]):
    """How one run ended: with a value, or with an error."""

    model_config = _CONFIG

    run_id: str
    """The run's id."""
    tag: str = ""
    """What the starter of the run gave along, to tell its runs apart."""
    ok: bool
    """Whether it succeeded."""
    value: R | None = None
    """The result, when it succeeded."""
    error: ErrorInfo | None = None
    """What went wrong, when it did not."""
    attempts: int
    """Attempts begun; 0 when it was refused before the first."""
    seconds: float
    """From start to end, pauses between attempts included."""
    node: str | None = None
    """Name of the node that ran it; None outside a cluster."""

    _raised: JidoError | None = PrivateAttr(default=None)

    def unwrap(self) -> R:
        """The value of a run that succeeded.

        Raises:
            JidoError: The run failed: its error, of its own type.
        """
        if self.ok:
            return cast("R", self.value)
        if self._raised is not None:
            raise self._raised
        if self.error is None:
            raise ExecutionError("the run failed, and nothing is known about how", run=self.run_id)
        raise self.error.to_error()

    @classmethod
    def failed(
        cls,
        error: JidoError,
        *,
        run_id: str,
        attempts: int,
        seconds: float,
        tag: str = "",
        node: str | None = None,
    ) -> "Outcome[R]":
        """The outcome of a run that raised ``error``; `unwrap` here raises that very object."""
        outcome = cls(
            run_id=run_id,
            tag=tag,
            ok=False,
            error=ErrorInfo.of(error),
            attempts=attempts,
            seconds=seconds,
            node=node,
        )
        outcome._raised = error
        return outcome


def dump_outcome(outcome: Outcome[Any]) -> bytes:
    """An outcome as JSON bytes."""
    return outcome.model_dump_json().encode()


def load_outcome(data: bytes, work: Work | None = None) -> Outcome[Any]:
    """The outcome of its bytes; the value as the result type of `work`, when given.

    Raises:
        InvalidOutputError: The value does not fit the type: the definitions differ.
    """
    outcome: Outcome[Any] = Outcome[Any].model_validate_json(data)
    if work is None or not outcome.ok:
        return outcome
    value = work.load_result(to_json(outcome.value, inf_nan_mode="constants"))
    return outcome.model_copy(update={"value": value})

"""What the command line prints: one document, or lines and tables for people, or one error."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import typer
from pydantic_core import to_json

from jido_cluster.errors import InternalError, JidoError, OutcomeUnknownError, UsageError

__all__ = ["describe", "fail", "print_table", "reporting", "show", "to_text"]


@contextlib.contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """End the command with one line, or one document, instead of a traceback."""
    # Imported modules, Ray and the demo may print: the document has standard output to itself.
    quiet = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    try:
        with quiet:
            yield
    except UsageError as error:
        fail(error, as_json, 2)
    except JidoError as error:
        fail(error, as_json, 1)
    except Exception as error:  # noqa: BLE001 - the last resort: users get one line, never a stack
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{describe(error)} ({Path(place.filename).name}:{place.lineno})"
        fail(InternalError(message), as_json, 1)


def fail(error: JidoError, as_json: bool, code: int) -> NoReturn:
    """Print the error and end the command."""
    if as_json:
        print(to_text({"error": error.to_dict()}))
    else:
        line = f"error: {error.kind}: {' '.join(error.message.split())}"
        if isinstance(error, OutcomeUnknownError) and error.op_id:
            line += f" (to repeat it safely: --op-id {error.op_id})"
        if error.error_id:
            line += f" (error id {error.error_id}, in the log of the node)"
        print(line, file=sys.stderr)
    raise typer.Exit(code)


def show(document: object, as_json: bool, write: Callable[[], None]) -> None:
    """Print the document, or what `write` prints for people."""
    if as_json:
        print(to_text(document))
    else:
        write()
    # Here and not at exit, when a reader that has left (`| head`) would be complained about.
    sys.stdout.flush()


def to_text(value: object) -> str:
    """JSON; what JSON has no number for ("NaN") is text, so that every parser reads it."""
    return to_json(value, indent=2, inf_nan_mode="strings").decode()


def describe(error: BaseException) -> str:
    """Type and message, on one line with others."""
    return f"{type(error).__name__}: {error}"


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: drawn on a terminal, else aligned columns that other programs can cut."""
    texts = [[str(cell) for cell in row] for row in rows]
    if _is_terminal():
        # It takes 150 ms to load, which pipes and documents need not wait for.
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headings)
        for row in texts:
            table.add_row(*(Text(cell, overflow="fold") for cell in row))
        Console(file=sys.stdout).print(table)
        return
    lines = [[heading.upper().replace(" ", "_") for heading in headings], *texts]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())

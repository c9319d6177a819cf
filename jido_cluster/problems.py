"""What pydantic found wrong, as a user reads it."""

from typing import Any

from pydantic import ValidationError

__all__ = ["first_problem", "problems"]


def problems(error: ValidationError) -> list[dict[str, Any]]:
    """All of it, for `details["errors"]`: places, kinds and messages, without values."""
    return [
        {"loc": list(item["loc"]), "type": item["type"], "msg": item["msg"]}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def first_problem(error: ValidationError) -> str:
    """The first of it, for a message: place, what is wrong, and the value, shortened."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "state"
    shown = repr(first["input"])
    return f"{where}: {first['msg']} (got {shown if len(shown) <= 80 else shown[:77] + '...'})"

"""Instructions: every short form, what is refused, and the list of what is allowed."""

from typing import Any

import pytest
from pydantic import BaseModel

from jido_cluster.errors import ConfigError, InvalidInputError, NotRegisteredError
from jido_cluster.exec import Action, Context, Instruction, action, instruction_of, instructions_of


class Size(BaseModel):
    width: int = 640
    height: int = 480


class Resize(Action, name="instruction.resize"):
    Params = Size

    def run(self, params: Size, ctx: Context) -> int:
        return params.width


@action(name="instruction.crop")
def crop(width: int) -> int:
    return width


REFUSED = Instruction(Resize, [1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Resize, Instruction(Resize)),
        (crop, Instruction(crop)),
        ("instruction.crop", Instruction(crop)),
        ((Resize,), Instruction(Resize)),
        (("instruction.resize", {"width": 1}), Instruction(Resize, {"width": 1})),
        ((Resize, Size(width=2)), Instruction(Resize, {"width": 2})),
        ((Resize, None, {"user": "ann"}), Instruction(Resize, {}, {"user": "ann"})),
        (
            (Resize, {"width": 1}, None, {"timeout": 5.0}),
            Instruction(Resize, {"width": 1}, {}, {"timeout": 5.0}),
        ),
        (
            Instruction("instruction.crop", {"width": 1}, {"a": 1}, {"max_retries": 2}),
            Instruction(crop, {"width": 1}, {"a": 1}, {"max_retries": 2}),
        ),
    ],
)
def test_each_form_stands_for_an_instruction(item: Any, expected: Instruction) -> None:
    """A name becomes its action, and of a model only what was set counts."""
    assert instruction_of(item, 0) == expected


def test_an_instruction_owns_its_parts() -> None:
    """What the caller does to the mappings later changes nothing."""
    params = {"width": 1}
    found = instruction_of((Resize, params), 0)
    params["width"] = 2
    assert found.params == {"width": 1}


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (5, ConfigError, "step 3: 5 is no action: subclass Action"),
        ([Resize], ConfigError, r"step 3: \[.*Resize.*\] is no action"),
        ({"action": Resize}, ConfigError, "step 3: .* is no action"),
        ((), ConfigError, r"step 3: a tuple of 0 parts; write \(action, params, context, opt"),
        ((Resize, {}, {}, {}, {}), ConfigError, "step 3: a tuple of 5 parts"),
        ((5, {}), ConfigError, "step 3: 5 is no action"),
        ((Resize, crop), InvalidInputError, "step 3: params must be a mapping, not <function crop"),
        ((Resize, {}, 5), InvalidInputError, "step 3: context must be a mapping, not 5"),
        ((Resize, {}, {}, 5), ConfigError, "step 3: options must be a mapping, not 5"),
        ((Resize, {}, {}, {"timout": 5}), ConfigError, "step 3: unknown option 'timout'; did you"),
        ((Resize, {}, {}, {"timeout": -1}), ConfigError, "step 3: timeout=-1"),
        ("instruction.none", NotRegisteredError, "step 3: no action named 'instruction.none'"),
        (REFUSED, InvalidInputError, r"step 3: params must be .* not \[1\]"),
    ],
)
def test_a_form_that_is_none_is_refused(item: Any, error: type[Exception], message: str) -> None:
    """The message names the place, the value and the remedy; none of these may be retried."""
    with pytest.raises(error, match=message) as caught:
        instructions_of([Resize, crop, "instruction.crop", item])
    assert not caught.value.retryable  # type: ignore[attr-defined]
    with pytest.raises(error, match=message.replace("step 3", "here")):
        instruction_of(item, "here")


def test_an_unknown_name_keeps_its_details() -> None:
    """What the registry knows is for the caller to choose from."""
    with pytest.raises(NotRegisteredError) as caught:
        instructions_of(["instruction.none"])
    assert caught.value.details["name"] == "instruction.none"
    assert "instruction.crop" in caught.value.details["known"]


def test_only_allowed_actions_pass() -> None:
    """By class, function or name, on both sides; all that are refused are named, and where."""
    items = [Resize, (crop, {"width": 1}), "instruction.resize"]
    assert len(instructions_of(items)) == 3
    assert len(instructions_of(items, allowed=["instruction.crop", Resize])) == 3
    with pytest.raises(ConfigError) as caught:
        instructions_of(items, allowed=[crop])
    assert caught.value.message == (
        "not allowed: instruction.resize (step 0), instruction.resize (step 2); "
        "allowed: instruction.crop"
    )
    assert caught.value.details["refused"] == ["instruction.resize"] * 2
    assert caught.value.details["allowed"] == ["instruction.crop"]
    with pytest.raises(ConfigError, match="allowed: nothing"):
        instructions_of(items, allowed=[])

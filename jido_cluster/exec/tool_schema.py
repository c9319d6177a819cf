"""JSON schemas as language models want them, and what models answer made to fit again.

Theory. Providers take a subset of JSON schema. Names of definitions, titles and references help no
model and some providers refuse them, so references are put in place; only a type that contains
itself keeps one. Strict mode (the provider then guarantees arguments that fit) takes less: every
object closed, every property required, no default. A property that may be left out becomes one that
may be null there, and a null where none may stand counts as left out when it comes back.

Source: OpenAI's guide "Structured outputs", section "Supported schemas", whose subset the other
providers' strict modes contain.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from pydantic_core import from_json, to_json

from jido_cluster.errors import ConfigError

__all__ = ["coerce", "plain_schema", "strict_schema", "without"]

_Schema = dict[str, Any]

_MAPS: Final = ("properties", "patternProperties")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONES: Final = ("items", "additionalProperties", "not")
_DROPPED: Final = ("$defs", "title", "discriminator")  # the last is OpenAPI's, and refers
_REF: Final = "#/$defs/"
_MAX_NOTE: Final = 100  # characters of a default that a description repeats

# What strict mode leaves of a schema, besides what `_Strict` builds itself. Limits of texts are
# not among them: the action checks them when it is called.
_STRICT_KEYWORDS: Final = (
    "type",
    "description",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
)
_STRICT_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)


def plain_schema(schema: Mapping[str, Any]) -> _Schema:
    """The schema without titles and, unless a type contains itself, without references."""
    plain = _Plain(schema.get("$defs", {}))
    found = plain.shape(dict(schema), ())
    return {**found, "$defs": plain.kept} if plain.kept else found


def without(schema: _Schema, names: Collection[str]) -> _Schema:
    """The schema of an object that lacks some of its properties."""
    known = schema.get("properties", {})
    properties = {key: one for key, one in known.items() if key not in names}
    required = [name for name in schema.get("required", ()) if name not in names]
    return {**schema, "properties": properties, "required": required}


def strict_schema(schema: _Schema, owner: str) -> _Schema:
    """The plain schema as strict mode takes it.

    Raises:
        ConfigError: It has a part that strict mode cannot express; names ``owner`` and the part.
    """
    strict = _Strict(owner)
    found = strict.shape({key: one for key, one in schema.items() if key != "$defs"}, "")
    definitions = schema.get("$defs", {})
    if definitions:
        found["$defs"] = {name: strict.shape(one, name) for name, one in definitions.items()}
    return found


def coerce(value: Any, schema: _Schema, definitions: Mapping[str, Any]) -> Any:
    """What a model gave, with its habits undone; validation comes after.

    A null counts as absent where the schema has a default and no null, and a text is read as JSON
    where an object or an array belongs.
    """
    options = _options(schema, definitions)
    option = options[0] if len(options) == 1 else _option_for(value, options)
    if option is None:
        return value
    kind = option.get("type")
    if isinstance(value, str) and kind in ("object", "array"):
        value = _read(value, dict if kind == "object" else list)
    if isinstance(value, dict):
        return _coerce_object(value, option, definitions)
    if isinstance(value, list):
        items = option.get("items")
        if isinstance(items, dict):
            return [coerce(item, items, definitions) for item in value]
    return value


def _coerce_object(
    value: dict[str, Any], schema: _Schema, definitions: Mapping[str, Any]
) -> dict[str, Any]:
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    rest = schema.get("additionalProperties")
    found = {}
    for name, item in value.items():
        known = properties.get(name)
        if known is None:
            found[name] = coerce(item, rest, definitions) if isinstance(rest, dict) else item
        elif (
            item is not None
            or name in required
            or any(map(_takes_null, _options(known, definitions)))
        ):
            found[name] = coerce(item, known, definitions)
    return found


def _option_for(value: Any, options: list[_Schema]) -> _Schema | None:
    """The one of several schemas that the value is meant for, as far as that can be told."""
    if isinstance(value, str) and not any(one.get("type") == "string" for one in options):
        containers = [one for one in options if one.get("type") in ("object", "array")]
        return containers[0] if len(containers) == 1 else None
    if isinstance(value, dict):
        return next((one for one in options if _may_be(value, one)), None)
    if isinstance(value, list):
        return next((one for one in options if one.get("type") == "array"), None)
    return None


def _may_be(value: dict[str, Any], schema: _Schema) -> bool:
    properties = schema.get("properties", {})
    return (
        schema.get("type") == "object"
        and value.keys() >= set(schema.get("required", ()))
        and all(
            value[name] == one["const"]
            for name, one in properties.items()
            if name in value and "const" in one
        )
    )


def _takes_null(schema: _Schema) -> bool:
    kind = schema.get("type")
    if kind is None:
        return "enum" not in schema or None in schema["enum"]
    return kind == "null" or (isinstance(kind, list) and "null" in kind)


def _options(schema: _Schema, definitions: Mapping[str, Any]) -> list[_Schema]:
    """The schemas of which one has to fit, with references and unions in unions resolved."""
    schema = definitions.get(schema.get("$ref", "").removeprefix(_REF), schema)
    union = schema.get("anyOf") or schema.get("oneOf")
    if not union:
        return [schema]
    return [option for one in union for option in _options(one, definitions)]


def _read(text: str, kind: type) -> Any:
    try:
        found = from_json(text)
    except ValueError:
        return text
    return found if isinstance(found, kind) else text


def _each_part(schema: _Schema, shape: Callable[[_Schema], _Schema]) -> _Schema:
    """The schema with each schema directly in it shaped."""
    found = dict(schema)
    for key in _MAPS:
        if key in found:
            found[key] = {name: shape(_as_object(one)) for name, one in found[key].items()}
    for key in _LISTS:
        if key in found:
            found[key] = [shape(_as_object(one)) for one in found[key]]
    for key in _ONES:
        if isinstance(found.get(key), dict):  # false, as in "no more", says something
            found[key] = shape(found[key])
    return found


def _as_object(schema: _Schema | bool) -> _Schema:
    return schema if isinstance(schema, dict) else {}  # true: whatever it is


class _Plain:
    """Puts the definitions of one schema in the place of references to them.

    Attributes:
        kept: Definitions that are still referred to, as they contain themselves.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self.kept: dict[str, _Schema] = {}

    def shape(self, schema: _Schema, inside: tuple[str, ...]) -> _Schema:
        """The part, which stands in the definitions ``inside``."""
        own = {key: value for key, value in schema.items() if key not in _DROPPED}
        found = _each_part(own, lambda part: self.shape(part, inside))
        reference = found.get("$ref", "")
        if not reference.startswith(_REF):
            return found
        name = reference.removeprefix(_REF)
        if name in inside:
            self._keep(name)
            return found
        del found["$ref"]
        return {**self.shape(self._definitions[name], (*inside, name)), **found}

    def _keep(self, name: str) -> None:
        if name not in self.kept:
            self.kept[name] = {}  # known before its own body is shaped, which refers to it
            self.kept[name] = self.shape(self._definitions[name], (name,))


class _Strict:
    """Shapes the parts of one tool's parameters."""

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def shape(self, schema: Any, path: str) -> _Schema:
        """The part at ``path``, all of its objects closed and all properties required."""
        if "$ref" in schema:
            if not schema["$ref"].startswith(_REF):
                raise self._refuse(path, "what a schema elsewhere says")
            return {"$ref": schema["$ref"]}
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            found: _Schema = {"anyOf": [self.shape(option, path) for option in options]}
            if "description" in schema:
                found["description"] = schema["description"]
            return found
        found = {key: schema[key] for key in _STRICT_KEYWORDS if key in schema}
        if schema.get("format") in _STRICT_FORMATS:
            found["format"] = schema["format"]
        if "const" in schema:
            found["enum"] = [schema["const"]]
        kind = schema.get("type")
        if kind == "object":
            found |= self._object(schema, path)
        elif kind == "array":
            found["items"] = self._items(schema, path)
        elif kind is None and "enum" not in found:
            raise self._refuse(path, "any value")
        return found

    def _object(self, schema: _Schema, path: str) -> _Schema:
        properties = schema.get("properties")
        if properties is None:
            raise self._refuse(path, "a mapping with free keys")
        required = schema.get("required", ())
        shaped = {}
        for name, one in properties.items():
            part = self.shape(one, f"{path}.{name}" if path else name)
            shaped[name] = part if name in required else _nullable(part, one)
        return {
            "properties": shaped,
            "required": list(shaped),
            "additionalProperties": False,
        }

    def _items(self, schema: _Schema, path: str) -> _Schema:
        if "prefixItems" in schema:
            kinds: list[_Schema] = []
            for one in schema["prefixItems"]:
                shaped = self.shape(one, f"{path}[]")
                if shaped not in kinds:
                    kinds.append(shaped)
            return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        items = schema.get("items")
        if not isinstance(items, dict):
            raise self._refuse(path, "a list of anything")
        return self.shape(items, f"{path}[]")

    def _refuse(self, path: str, what: str) -> ConfigError:
        place = f"parameter {path!r} takes {what}" if path else f"it takes {what}"
        return ConfigError(
            f"{self._owner}: {place}, which strict mode cannot express: name its fields in a "
            f"model, or use schemas(strict=False)",
            parameter=path,
        )


def _nullable(shaped: _Schema, schema: _Schema) -> _Schema:
    """A property that may be left out, which strict mode says by null."""
    description = shaped.get("description", "").rstrip(".")
    default = to_json(schema.get("default")).decode()
    if default != "null" and len(default) <= _MAX_NOTE:
        description = f"{description}. " if description else ""
        description += f"Null stands for {default}."
    found: _Schema = {"description": description} if description else {}
    inner = {key: value for key, value in shaped.items() if key != "description"}
    options = inner["anyOf"] if list(inner) == ["anyOf"] else [inner]
    if not any(option.get("type") == "null" for option in options):
        options = [*options, {"type": "null"}]
    return {**found, "anyOf": options}

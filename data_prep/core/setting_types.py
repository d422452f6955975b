"""the type of a setting: check a value, name the type in words, give an example value"""

import types
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}  # attributes of annotated_types' bounds
NAMES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The type of each field of a dataclass, with the ranges that `Annotated` states."""
    return get_type_hints(cls, include_extras=True)


@cache
def adapter(hint: Any) -> TypeAdapter[Any]:
    """pydantic's reader of a type that is not itself a group: strict, with finite numbers only."""
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def is_valid(hint: Any, value: Any) -> bool:
    """Whether `value` has the type and is in the range of `hint`; a bool is not a number."""
    if is_dataclass(hint):
        return type(value) is hint  # a group checked its own fields when it was constructed
    try:
        adapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


def type_name(hint: Any) -> str:
    """A type in words for a user: `whole number >= 1 or auto`, `list of texts`."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        bounds = " and ".join(f"{sign} {bound}" for sign, bound in _bounds(hint))
        return f"{type_name(arguments[0])} {bounds}".rstrip()
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {PLURALS.get(arguments[0], type_name(arguments[0]))}"
    if origin is tuple:
        return f"list of exactly {len(arguments)}: {', '.join(map(type_name, arguments))}"
    if origin is dict:
        return f"map from {type_name(arguments[0])} to {type_name(arguments[1])}"
    return NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def example(hint: Any) -> Any:
    """A small valid value of the type, as plain JSON data."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        return _example_in_range(hint, arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return example(next(part for part in arguments if part is not type(None)))
    if origin is tuple:
        return [example(part) for part in arguments if part is not Ellipsis]
    if origin is dict:
        return {example(arguments[0]): example(arguments[1])}
    return {int: 1, float: 0.5, bool: True, str: "TEXT"}.get(hint)


def _example_in_range(hint: Any, base: Any) -> Any:
    bounds = {sign[0]: bound for sign, bound in _bounds(hint)}  # ">" and "<", included or not
    low = bounds.get(">", bounds.get("<", 1) - 1)
    high = bounds.get("<", low + 2)
    middle = (low + high) / 2
    return int(middle) if base is int else middle


def _bounds(hint: Any) -> Iterator[tuple[str, Any]]:
    """The range of an annotated number as (sign, bound) pairs: `>=` and 1."""
    for mark in getattr(hint, "__metadata__", ()):
        for name, sign in SIGNS.items():
            if getattr(mark, name, None) is not None:
                yield sign, getattr(mark, name)

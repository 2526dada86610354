"""What is wrong with a file, in a person's words: turns pydantic's findings into problems with a place and a remedy."""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Union, get_args, get_origin

from pydantic import BaseModel

from datakit.errors import InvalidFile
from datakit.model._base import pattern_words
from datakit.model.types import TYPE_NAMES, DataType

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SECRET = re.compile(r"passw|secret|token|credential|keytab", re.IGNORECASE)
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "time_delta_type": "a duration such as 5m",
    "time_delta_parsing": "a duration such as 5m",
}


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """A place in a file; both numbers begin at 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class Places(Protocol):
    """Knows where the parts of some data stand in their file."""

    def at(self, path: tuple[str | int, ...], *, key: bool = False) -> Where:
        """Say where ``path`` stands; with ``key``, where its key stands."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; ``where`` is None for data that did not come straight from a file."""

    where: Where | None
    what: str
    cause: str | None
    fix: str | None

    def as_error(self, name: str, others: Sequence[InvalidFile] = ()) -> InvalidFile:
        """Return the problem as an error about the file ``name``."""
        subject = f"{name}:{self.where}" if self.where else name
        return InvalidFile(self.what, subject=subject, cause=self.cause, fix=self.fix, others=others)


def raise_all(problems: Iterable[Problem], name: str) -> None:
    """Raise the first problem by position, with the others attached; return if there is none."""
    ordered = sorted(problems, key=lambda problem: problem.where or Where(0, 0))
    if ordered:
        first, *rest = ordered
        raise first.as_error(name, [problem.as_error(name) for problem in rest])


def nearest(text: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like ``text``, also when only case, hyphens or underscores differ."""
    names = sorted(set(known))
    plain = {name.casefold().replace("-", "_"): name for name in names}
    wanted = text.casefold().replace("-", "_")
    close = get_close_matches(wanted, plain, n=1, cutoff=0.5)
    return plain[close[0]] if close else None


def explain(findings: Sequence[ErrorDetails], model: type[BaseModel], places: Places | None) -> Iterator[Problem]:
    """Turn pydantic's findings into problems; ``places`` knows the positions, if there is a file."""
    misspelt = {
        (*details["loc"][:-1], nearest(str(details["loc"][-1]), _keys(_type_at(model, details["loc"][:-1]))))
        for details in findings
        if details["type"] == "extra_forbidden"
    }
    for details in findings:
        if details["type"] == "missing" and details["loc"] in misspelt:
            continue
        if details["type"] == "too_short" and any(_is_inside(other["loc"], details["loc"]) for other in findings):
            continue  # pydantic counts only the entries that are right
        yield _explain(details, model, places)


def _explain(details: ErrorDetails, model: type[BaseModel], places: Places | None) -> Problem:
    path = details["loc"]
    if bad_key := path[-1:] == ("[key]",):  # how pydantic says that the name itself is wrong, not its value
        path = path[:-1]
    kind, value = details["type"], details["input"]
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys(_type_at(model, path[:-1]))
        near = nearest(str(path[-1]), known)
        return Problem(
            _at(places, path, key=True),
            f"unknown key {_dotted(path)!r}",
            f"did you mean {near!r}?" if near else None,
            f"the keys here are: {', '.join(known)}" if known else None,
        )
    if kind == "missing":
        return Problem(
            _at(places, path[:-1], key=True), f"the key {_dotted(path)!r} is missing", None, f"add {path[-1]}: …"
        )
    where = _at(places, path, key=bad_key)
    subject = f"the name {str(path[-1])!r}" if bad_key else f"{_dotted(path)} is {_show(value, path)}"
    choices = () if bad_key else _choices(_type_at(model, path))
    near = nearest(value, choices) if isinstance(value, str) and choices else None
    cause = f"did you mean {near!r}?" if near else None
    if kind in ("enum", "literal_error"):
        return Problem(where, f"{subject}, which is no choice here", cause, f"choose one of: {', '.join(choices)}")
    if kind in _KINDS:
        return Problem(where, f"{subject}, but must be {_KINDS[kind]}", cause, _remedy(kind, value))
    if kind == "string_pattern_mismatch":
        return Problem(where, f"{subject}, but must be {pattern_words(str(context.get('pattern')))}", None, None)
    if kind == "too_short":
        return Problem(where, f"{_dotted(path)} needs at least {_entries(context['min_length'])}", None, None)
    if kind == "value_error":
        prefix = f"{_dotted(path)}: " if path else ""
        return Problem(where, f"{prefix}{context.get('error', details['msg'])}", cause, None)
    return Problem(where, f"{subject}: {details['msg'][0].lower()}{details['msg'][1:]}", None, None)


def _is_inside(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _entries(count: int) -> str:
    return "one entry" if count == 1 else f"{count} entries"


def _at(places: Places | None, path: tuple[str | int, ...], *, key: bool = False) -> Where | None:
    return places.at(path, key=key) if places is not None else None


def _dotted(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _show(value: Any, path: Sequence[str | int]) -> str:
    if path and _SECRET.search(str(path[-1])):  # somebody wrote the password where its reference belongs
        return "not shown"
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value if len(value) <= 60 else value[:57] + "…")
        case int() | float():
            return f"the number {value}"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return repr(value)


def _remedy(kind: str, value: Any) -> str | None:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f'put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    if kind in ("bool_type", "bool_parsing"):
        return "write true or false"
    if kind in ("tuple_type", "list_type") and isinstance(value, str):
        return f"put it in brackets: [{value}]"
    return None


def _type_at(annotation: Any, path: Sequence[str | int]) -> Any:
    """Return the type that the models give to ``path``, or None where they leave it open."""
    for part in path:
        annotation = _step(_plain(annotation), part)
        if annotation is None:
            return None
    return _plain(annotation)


def _step(annotation: Any, part: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if part in (field.alias, name):
                return field.annotation
        return None
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return arguments[1]
    if origin in (tuple, list) and arguments:
        return arguments[0]
    return None


def _plain(annotation: Any) -> Any:
    """Strip Annotated and ``| None``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            members = [member for member in get_args(annotation) if member is not type(None)]
            if len(members) != 1:
                return None
            annotation = members[0]
        else:
            return annotation


def _keys(annotation: Any) -> tuple[str, ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return tuple(field.alias or name for name, field in annotation.model_fields.items())
    return ()


def _choices(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return tuple(str(argument) for argument in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(str(member.value) for member in annotation)
    if annotation is DataType:
        return tuple("decimal(19,4)" if name == "decimal" else name for name in TYPE_NAMES)
    return ()

"""YAML files as models, with errors that say where: file, line, column, the offending text and the nearest valid one.

Why not ``yaml.safe_load``: it forgets positions, takes the last of two equal keys in silence, and reads ``no`` as
false, ``12:30`` as 750 and ``010`` as 8 (YAML 1.1). Here the document is composed to nodes, which know their
positions, and scalars follow the core schema of YAML 1.2: only ``true`` and ``false`` are booleans, ``no`` is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from datakit.errors import InvalidFile
from datakit.model._problems import Places, Problem, Where, explain, raise_all

__all__ = ["Document", "load", "parse", "validate", "write"]

M = TypeVar("M", bound=BaseModel)
_Path = tuple[str | int, ...]
_DEEPEST: Final = 50

_SCALARS: Final = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
    ("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"]),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C one where PyYAML has it
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own declaration; add_… replaces it


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or 1.2 would read as something else than text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  # lists are indented, as editors and people do it
        super().increase_indent(flow, False)


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes some line breaks of Unicode unquoted, and reads them back as spaces
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


class Document:
    """One YAML document: plain data, and where each part of it stands.

    :ivar data: ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` or None; keys are always ``str``.
    """

    def __init__(self, text: str, name: str) -> None:
        """Read ``text``; ``name`` is the file's name in errors.

        :raises InvalidFile: it is not well-formed, repeats a key, or has more than one document.
        """
        self.name = name
        self._problems: list[Problem] = []
        try:
            _check_depth(text, name)
            self._root = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            raise _malformed(error, name, text) from None
        except yaml.YAMLError as error:  # a character that YAML forbids; has a position only as an offset
            raise InvalidFile(
                f"the file is not valid YAML: {str(error).splitlines()[0]}",
                subject=name,
                fix="remove the character; a text with control characters needs double quotes and escapes",
            ) from None
        self._built: dict[int, Any] = {}
        self._open: set[int] = set()
        self.data = None if self._root is None else self._build(self._root)
        raise_all(self._problems, name)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file.

        :raises InvalidFile: it does not exist, may not be read, is not UTF-8, or is not well-formed.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidFile(
                f"the file is not UTF-8 text (byte {error.start})", subject=str(path), fix="save it as UTF-8"
            ) from None
        except OSError as error:
            raise InvalidFile(f"the file cannot be read: {error.strerror}", subject=str(path)) from None
        return cls(text, str(path))

    def at(self, path: _Path, *, key: bool = False) -> Where:
        """Say where ``path`` stands, or the nearest part of it that is there; with ``key``, where its key stands."""
        return _mark(self._find(path, key=key))

    def has(self, path: _Path) -> bool:
        """Whether the document has that path."""
        data = self.data
        for part in path:
            if isinstance(data, dict) and part in data:
                data = data[str(part)]
            elif isinstance(data, list) and isinstance(part, int) and part < len(data):
                data = data[part]
            else:
                return False
        return True

    def into(self, model: type[M]) -> M:
        """Validate the document as ``model``.

        :raises InvalidFile: with every problem; the first by position is ``what``, the rest are ``others``.
        """
        if self.data is None:
            raise InvalidFile("the file is empty", subject=self.name, fix="datakit schema prints the keys it takes")
        if not isinstance(self.data, dict):
            raise InvalidFile(
                f"the file holds {_kind(self.data)}, but needs keys with values", subject=f"{self.name}:{self.at(())}"
            )
        return _into(self.data, model, self.name, self)

    def part_into(self, path: _Path, model: type[M]) -> M:
        """Validate the mapping at ``path`` as ``model``; keys are named as the part has them, and placed in the file.

        :raises InvalidFile: as :meth:`into`.
        """
        part: Any = self.data
        for step in path:
            part = part[step]
        return _into(part, model, self.name, _Part(self, path))

    def _find(self, path: _Path, *, key: bool) -> yaml.Node | None:
        node = self._root
        for number, part in enumerate(path):
            found: tuple[yaml.Node, yaml.Node] | None = None
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in _pairs(node) if pair[0].value == part), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = (node.value[part], node.value[part])
            if found is None:
                return node
            node = found[0] if key and number == len(path) - 1 else found[1]
        return node

    def _build(self, node: yaml.Node) -> Any:
        if id(node) in self._open:
            self._problems.append(Problem(_mark(node), "an alias contains itself", None, "write the value out"))
            return None
        if id(node) not in self._built:  # an alias is the same node again: built once, however often it is used
            self._open.add(id(node))
            self._built[id(node)] = self._construct(node)
            self._open.discard(id(node))
        return self._built[id(node)]

    def _construct(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item) for item in node.value]
        if not isinstance(node, yaml.MappingNode):  # PyYAML composes nothing else
            raise TypeError(type(node))
        built: dict[str, Any] = {}
        first: dict[str, Where] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problems.append(Problem(_mark(key), "a key must be text, not a list or mapping", None, None))
                continue
            if key.tag.endswith(":merge"):
                if not _merged(value):
                    self._problems.append(
                        Problem(
                            _mark(value), "<< takes a mapping or a list of mappings", None, "name an anchor: <<: *name"
                        )
                    )
                continue
            if key.value in first:
                self._problems.append(
                    Problem(
                        _mark(key),
                        f"the key {key.value!r} is there twice",
                        f"the first one is at line {first[key.value].line}",
                        "remove one of the two",
                    )
                )
            first[key.value] = _mark(key)
        for key, value in _pairs(node):
            if key.value not in built:
                built[key.value] = self._build(value)
        return built

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.rpartition(":")[2], node.value
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
                case "float":
                    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
                case "str" | "merge":
                    return text
        except ValueError:  # an explicit tag on a text that is none (!!int x), or digits without end
            self._problems.append(Problem(_mark(node), f"{text[:40]!r} cannot be read as {kind}", None, "quote it"))
            return None
        self._problems.append(
            Problem(_mark(node), f"the tag {node.tag!r} is not known here", None, "write plain values, without tags")
        )
        return None


@dataclass(frozen=True, slots=True)
class _Part:
    """The places of a part of a document."""

    document: Document
    path: _Path

    def at(self, path: _Path, *, key: bool = False) -> Where:
        return self.document.at((*self.path, *path), key=key)


def load(path: Path, model: type[M]) -> M:
    """Read a file as ``model``.

    :raises InvalidFile: it cannot be read, is not well-formed, or does not fit the model; names line and column.
    """
    return Document.read(path).into(model)


def parse(text: str, model: type[M], where: str) -> M:
    """Read a text as ``model``; ``where`` is its name in errors.

    :raises InvalidFile: as :func:`load`.
    """
    return Document(text, where).into(model)


def validate(mapping: Mapping[str, Any], model: type[M], where: str) -> M:
    """Validate a part of a file that was read before, such as a warehouse's section of an environment.

    :param where: the file and key that ``mapping`` comes from, for errors.
    :raises InvalidFile: a key is unknown, missing, or has a wrong value; names the nearest valid one.
    """
    return _into(dict(mapping), model, where, None)


def write(model: BaseModel) -> str:
    """Write a model as YAML that :func:`parse` reads back as an equal one: defaults left out, the model's order."""
    data = model.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _into(data: dict[str, Any], model: type[M], name: str, places: Places | None) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise_all(explain(error.errors(include_url=False), model, places), name)
        raise  # unreachable: there is at least one problem


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Yield the pairs of a mapping, then those it merges with ``<<``; the first of two equal keys counts."""
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
            yield key, value
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag.endswith(":merge"):
            for merged in _merged(value):
                if merged is not node:
                    yield from _pairs(merged)


def _merged(value: yaml.Node) -> list[yaml.MappingNode]:
    if isinstance(value, yaml.MappingNode):
        return [value]
    if isinstance(value, yaml.SequenceNode) and all(isinstance(item, yaml.MappingNode) for item in value.value):
        return list(value.value)
    return []


def _check_depth(text: str, name: str) -> None:
    """Refuse what no file of ours looks like: the composer recurses, and its C half would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            if depth > _DEEPEST:
                subject = f"{name}:{_mark(event)}"
                raise InvalidFile(f"the file is nested more than {_DEEPEST} levels deep", subject=subject)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1


def _mark(part: yaml.Node | yaml.Event | None) -> Where:
    mark = part.start_mark if part is not None else None
    return Where(mark.line + 1, mark.column + 1) if mark is not None else Where(1, 1)


def _kind(data: Any) -> str:
    return "a list" if isinstance(data, list) else f"the text {data!r}" if isinstance(data, str) else repr(data)


def _malformed(error: yaml.MarkedYAMLError, name: str, text: str) -> InvalidFile:
    mark = error.problem_mark or error.context_mark
    subject = name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    cause, fix = error.context, "compare the indentation and the colons with the lines around it"
    if "\t" in line[: len(line) - len(line.lstrip())] or "\\t" in str(error.problem):
        cause, fix = "the line is indented with a tab", "indent with spaces"
    elif "another document" in str(error.problem):
        cause, fix = "a second document begins at ---", "put one document in a file"
    elif "undefined alias" in str(error.problem):
        cause, fix = None, "define the anchor before its first use: &name"
    return InvalidFile(f"the file is not valid YAML: {error.problem}", subject=subject, cause=cause, fix=fix)

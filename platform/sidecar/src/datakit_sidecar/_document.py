"""Configuration as a tree that knows where each part stands, and a reader that collects every problem at once.

Why not PyYAML's ``safe_load`` with a model library: it forgets positions, takes the last of two equal keys in silence
and reads ``0600`` as 384; and the process that holds the keytab should import as little as it can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from datakit_sidecar.errors import InvalidSettings

T = TypeVar("T")
_DEEPEST: Final = 20
_LARGEST_BYTES: Final = 1 << 20
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Node:
    """A part of the configuration.

    :ivar value: text, None (nothing, ``null`` or ``~``), a list of nodes, or nodes by key.
    :ivar where: ``file:line:column`` or the name of an environment variable.
    :ivar keys: where the keys of a mapping stand.
    """

    value: str | list[Node] | dict[str, Node] | None
    where: str
    keys: Mapping[str, str] = field(default_factory=dict)


class Wrong(Exception):
    """A value that cannot be used; converters raise it, :class:`Section` says where it stands."""

    def __init__(self, what: str, fix: str | None = None, cause: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.cause = cause


class Problems:
    """What is wrong with a configuration, so far."""

    def __init__(self) -> None:
        self._found: list[InvalidSettings] = []

    def add(self, where: str, what: str, *, cause: str | None = None, fix: str | None = None) -> None:
        """Note a problem."""
        self._found.append(InvalidSettings(what, subject=where, cause=cause, fix=fix))

    def raise_all(self) -> None:
        """Raise one error for all of them, if there are any.

        :raises InvalidSettings: the first by position, with the others.
        """
        if not self._found:
            return
        first, *others = sorted(self._found, key=_position)
        raise InvalidSettings(first.what, subject=first.subject, cause=first.cause, fix=first.fix, others=others)


def _position(problem: InvalidSettings) -> tuple[str, list[int]]:
    name, _, place = (problem.subject or "").partition(":")
    return name, [int(part) for part in re.findall(r"\d+", place)]


class Section:
    """A mapping of the configuration: each key is taken once, and whatever is left over is unknown.

    :param path: the section's name in messages: ``vault``, ``principals[0].keytab``.
    :param hints: what to say about certain unknown keys, instead of the nearest known one.
    """

    def __init__(self, node: Node, path: str, problems: Problems, hints: Mapping[str, str] | None = None) -> None:
        self.node = node
        self.path = path
        self._problems = problems
        self._hints = hints or {}
        self._known: list[str] = []
        self._values: dict[str, Node] = {}
        if isinstance(node.value, dict):
            self._values = node.value
        elif node.value is not None:
            problems.add(node.where, f"{path or 'the configuration'} needs keys with values, not {_kind(node)}")

    @property
    def is_usable(self) -> bool:
        """Whether it is a mapping at all; if not, that was said already."""
        return isinstance(self.node.value, dict) or self.node.value is None

    def has(self, key: str) -> bool:
        """Whether the key is there and not empty."""
        return key in self._values and self._values[key].value is not None

    def where(self, key: str) -> str:
        """Say where the value of a key stands, or the section if it has none."""
        return self._values[key].where if key in self._values else self.node.where

    def name(self, key: str) -> str:
        """Return the full name of a key, for messages."""
        return f"{self.path}.{key}" if self.path else key

    def take(self, key: str, convert: Callable[[str], T], default: T) -> T:
        """Return a text value, converted; ``default`` if it is missing or wrong, which is noted."""
        found = self.optional(key, convert)
        return default if found is None else found

    def optional(self, key: str, convert: Callable[[str], T]) -> T | None:
        """Return a text value, converted; None if it is missing or wrong, which is noted."""
        node = self._take(key)
        if node is None:
            return None
        if not isinstance(node.value, str):
            self.problem(key, f"{self.name(key)} takes one value, not {_kind(node)}")
            return None
        return self._convert(key, node, convert)

    def required(self, key: str, convert: Callable[[str], T], fix: str) -> T | None:
        """Return a text value, converted; None if it is missing or wrong, which is noted."""
        if not self.has(key):
            self._known.append(key)
            if self.is_usable:
                self._problems.add(self.where(key), f"{self.name(key)} is missing", fix=fix)
            return None
        return self.optional(key, convert)

    def texts(self, key: str, convert: Callable[[str], T], default: Iterable[T] = ()) -> tuple[T, ...]:
        """Return a list of text values, converted; one value alone is a list of one."""
        node = self._take(key)
        if node is None:
            return tuple(default)
        items = node.value if isinstance(node.value, list) else [node]
        found = []
        for item in items:
            if not isinstance(item.value, str):
                self._problems.add(item.where, f"{self.name(key)} takes a list of values, not {_kind(item)}")
                continue
            value = self._convert(key, item, convert)
            if value is not None:
                found.append(value)
        return tuple(found)

    def section(self, key: str, hints: Mapping[str, str] | None = None) -> Section:
        """Return a mapping below; an empty one if it is missing."""
        node = self._take(key) or Node({}, self.where(key))
        return Section(node, self.name(key), self._problems, hints)

    def sections(self, key: str, hints: Mapping[str, str] | None = None) -> list[Section]:
        """Return a list of mappings below."""
        node = self._take(key)
        if node is None:
            return []
        if not isinstance(node.value, list):
            self.problem(key, f"{self.name(key)} takes a list, not {_kind(node)}", fix="begin each item with a dash: -")
            return []
        return [
            Section(item, f"{self.name(key)}[{number}]", self._problems, hints)
            for number, item in enumerate(node.value)
        ]

    def pairs(self, key: str) -> dict[str, Node]:
        """Return a mapping below whose keys are the user's own names."""
        node = self._take(key)
        if node is None:
            return {}
        if not isinstance(node.value, dict):
            self.problem(key, f"{self.name(key)} needs keys with values, not {_kind(node)}")
            return {}
        return node.value

    def problem(self, key: str, what: str, *, cause: str | None = None, fix: str | None = None) -> None:
        """Note a problem with the value of a key."""
        self._problems.add(self.where(key), what, cause=cause, fix=fix)

    def finish(self) -> None:
        """Note every key that nobody took."""
        for key in self._values:
            if key in self._known:
                continue
            where = self.node.keys.get(key, self._values[key].where)
            near = get_close_matches(key, self._known, n=1, cutoff=0.5)
            fix = self._hints.get(key) or f"choose one of: {', '.join(sorted(self._known))}"
            cause = f"did you mean {near[0]!r}?" if near and key not in self._hints else None
            self._problems.add(where, f"{self.path or 'the configuration'} has no key {key!r}", cause=cause, fix=fix)

    def _take(self, key: str) -> Node | None:
        self._known.append(key)
        node = self._values.get(key)
        return None if node is None or node.value is None else node

    def _convert(self, key: str, node: Node, convert: Callable[[str], T]) -> T | None:
        try:
            return convert(str(node.value))
        except Wrong as wrong:
            self._problems.add(node.where, f"{self.name(key)}: {wrong.what}", cause=wrong.cause, fix=wrong.fix)
            return None


def read_file(path: Path, problems: Problems) -> Node:
    """Read a YAML file.

    :raises InvalidSettings: it cannot be read or is not YAML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InvalidSettings(
            f"the configuration cannot be read: {error.strerror}",
            subject=str(path),
            fix="name the file with --config or DATAKIT_SIDECAR_CONFIG, and let this user read it",
        ) from None
    if len(data) > _LARGEST_BYTES:
        raise InvalidSettings(f"the file is larger than {_LARGEST_BYTES >> 20} MiB", subject=str(path))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSettings(
            f"the file is not UTF-8 text (byte {error.start})", subject=str(path), fix="save it as UTF-8"
        ) from None
    return parse(text, str(path), problems)


def parse(text: str, name: str, problems: Problems) -> Node:
    """Read a YAML text; ``name`` is the file's name in messages.

    :raises InvalidSettings: it is not YAML.
    """
    try:
        _check_depth(text, name)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        subject = name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"
        lines = text.splitlines()
        line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
        tab = "\t" in line[: len(line) - len(line.lstrip())]
        raise InvalidSettings(
            f"the file is not valid YAML: {error.problem}",
            subject=subject,
            cause="the line is indented with a tab" if tab else error.context,
            fix="indent with spaces" if tab else "compare the indentation and the colons with the lines around it",
        ) from None
    except (yaml.YAMLError, RecursionError) as error:  # a forbidden character, which has a position only as an offset
        raise InvalidSettings(
            f"the file is not valid YAML: {str(error).splitlines()[0]}", subject=name, fix="remove the character"
        ) from None
    if root is None:
        raise InvalidSettings("the file is empty", subject=name, fix="write at least vault, kerberos and principals")
    return _convert_node(root, name, problems, frozenset())


def _convert_node(node: yaml.Node, name: str, problems: Problems, above: frozenset[int]) -> Node:
    where = f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
    if id(node) in above:
        problems.add(where, "an alias contains itself", fix="write the value out")
        return Node(None, where)
    above |= {id(node)}
    if isinstance(node, yaml.SequenceNode):
        return Node([_convert_node(item, name, problems, above) for item in node.value], where)
    if isinstance(node, yaml.MappingNode):
        return _convert_mapping(node, where, name, problems, above)
    empty = node.tag == "tag:yaml.org,2002:null"
    return Node(None if empty else str(node.value), where)


def _convert_mapping(node: yaml.MappingNode, where: str, name: str, problems: Problems, above: frozenset[int]) -> Node:
    built: dict[str, Node] = {}
    places: dict[str, str] = {}
    for key, value in node.value:
        place = f"{name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
        if not isinstance(key, yaml.ScalarNode):
            problems.add(place, "a key must be text, not a list or mapping")
            continue
        if key.tag.endswith(":merge"):
            problems.add(place, "<< is not known here", fix="write the keys out")
            continue
        if key.value in built:
            line = places[key.value].rsplit(":", 2)[1]
            problems.add(
                place,
                f"the key {key.value!r} is there twice",
                cause=f"the first one is at line {line}",
                fix="remove one of the two",
            )
            continue
        places[key.value] = place
        built[key.value] = _convert_node(value, name, problems, above)
    return Node(built, where, places)


def _check_depth(text: str, name: str) -> None:
    """Refuse what no configuration looks like: the composer recurses, and aliases of aliases grow without end."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1
        if depth > _DEEPEST or aliases > _DEEPEST:
            mark = event.start_mark
            subject = name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"
            what = f"nested more than {_DEEPEST} levels deep" if depth > _DEEPEST else f"more than {_DEEPEST} aliases"
            raise InvalidSettings(
                f"the file is {what}" if depth > _DEEPEST else f"the file has {what}", subject=subject
            )


def _kind(node: Node) -> str:
    """Say what a node is, without its text: it may be a secret in the wrong place."""
    if isinstance(node.value, list):
        return "a list"
    return "keys with values" if isinstance(node.value, dict) else "a text"

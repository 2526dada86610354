"""The text of a lock: read with its comments, written in one order, so that two changes of different pins merge.

A block of lines for each pin, each beginning with a line that no change touches: Git merges changes of two blocks by
itself. Comments above a line and behind it stay with that line; those of a pin that goes are gone with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import yaml

from datakit.errors import InvalidFile
from datakit.model.lock import Lock, Pin, check_conflicts, is_plain, lock_path, parse_lock

__all__ = ["LockFile", "PinChange", "compare"]

_HEADER: Final = (
    "# Which release of each datakit this environment runs. datakit lock, promote and rollback write it, a commit for",
    "# each change; a pin that is edited by hand does not fit its seal any more, and is refused.",
)
_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PinChange:
    """What becomes of one pin; None where there is none before, or after."""

    warehouse: str
    datakit: str
    before: Pin | None
    after: Pin | None

    @property
    def name(self) -> str:
        """``WAREHOUSE/DATAKIT``."""
        return f"{self.warehouse}/{self.datakit}"

    def __str__(self) -> str:
        before, after = (pin.version if pin else "none" for pin in (self.before, self.after))
        rebuilt = before == after and self.before and self.after and self.before.digest != self.after.digest
        return f"{self.name} {before} → {after}{' (another digest)' if rebuilt else ''}"

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        sides = {"before": self.before, "after": self.after}
        return {
            "warehouse": self.warehouse,
            "datakit": self.datakit,
            **{side: pin and {"version": pin.version, "digest": pin.digest} for side, pin in sides.items()},
        }


@dataclass
class _Comments:
    above: dict[_Path, list[str]] = field(default_factory=dict)
    behind: dict[_Path, str] = field(default_factory=dict)
    end: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LockFile:
    """One environment's lock and where it is.

    :ivar text: as the file has it; None if there is none yet.
    """

    path: Path
    lock: Lock
    text: str | None

    @classmethod
    def read(cls, environment_file: Path) -> LockFile:
        """Read the lock beside an environment's file; without one, an empty lock.

        :raises InvalidFile: it cannot be read, holds a conflict, or is another environment's.
        """
        path, name = lock_path(environment_file), environment_file.stem
        if not path.exists():
            return cls(path, Lock(environment=name), None)
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidFile(f"the lock cannot be read: {error}", subject=str(path)) from None
        return cls.parse(text, name, path)

    @classmethod
    def parse(cls, text: str, environment: str, path: Path, *, at: str = "") -> LockFile:
        """Read a lock's text.

        :param at: the commit that it is of, for errors.
        :raises InvalidFile: as :meth:`read`.
        """
        where = f"{path}{f' at {at}' if at else ''}"
        check_conflicts(text, where)
        return cls(path, parse_lock(text, environment, where), text)

    def with_pins(self, changes: dict[tuple[str, str], Pin | None]) -> LockFile:
        """Return the lock with those pins instead, sealed; None removes one."""
        pins = {(warehouse, datakit): pin for warehouse, datakit, pin in self.lock.pins()}
        for (warehouse, datakit), pin in changes.items():
            if pin is None:
                pins.pop((warehouse, datakit), None)
            else:
                pins[warehouse, datakit] = pin.sealed(self.lock.environment, warehouse, datakit)
        warehouses: dict[str, dict[str, Pin]] = {}
        for (warehouse, datakit), pin in sorted(pins.items(), key=lambda item: item[0]):
            warehouses.setdefault(warehouse, {})[datakit] = pin
        lock = Lock(environment=self.lock.environment, warehouses=warehouses)
        comments = _Comments(above={("environment",): list(_HEADER)}) if self.text is None else _comments(self.text)
        return LockFile(self.path, lock, "\n".join(_lines(lock, comments)) + "\n")

    def by_hand(self) -> tuple[tuple[str, str], ...]:
        """Return (warehouse, datakit) of the pins that no command has written like this."""
        lock = self.lock
        return tuple((house, kit) for house, kit, _ in lock.pins() if not lock.is_by_command(house, kit))


def compare(before: Lock, after: Lock) -> tuple[PinChange, ...]:
    """List the pins whose version or digest differs."""
    names = sorted({(house, kit) for lock in (before, after) for house, kit, _ in lock.pins()})
    changes = (PinChange(house, kit, before.pin(house, kit), after.pin(house, kit)) for house, kit in names)
    return tuple(each for each in changes if _identity(each.before) != _identity(each.after))


def _identity(pin: Pin | None) -> tuple[str, str] | None:
    return (pin.version, pin.digest) if pin else None


def _lines(lock: Lock, comments: _Comments) -> Iterator[str]:
    def line(path: _Path, depth: int, value: str = "") -> Iterator[str]:
        indent = "  " * depth
        yield from (f"{indent}{comment}" for comment in comments.above.get(path, ()))
        behind = f"  {comments.behind[path]}" if path in comments.behind else ""
        yield f"{indent}{path[-1]}:{f' {value}' if value else ''}{behind}"

    yield from line(("environment",), 0, lock.environment)
    yield from line(("warehouses",), 0, "" if lock.warehouses else "{}")
    for warehouse, pins in lock.warehouses.items():
        yield from line(("warehouses", warehouse), 1)
        for datakit, pin in pins.items():
            path = ("warehouses", warehouse, datakit)
            yield from line(path, 2)
            for key, value in _written(pin):
                yield from line((*path, key), 3, value)
    yield from comments.end


def _written(pin: Pin) -> Iterator[tuple[str, str]]:
    for key in Pin.model_fields:
        value = getattr(pin, key)
        if key == "at" and value is not None:
            yield key, value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        elif value is not None:
            yield key, _scalar(value)


def _scalar(text: str) -> str:
    if is_plain(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    # line breaks of YAML that JSON does not escape
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)


def _comments(text: str) -> _Comments:
    """Find every comment, and the key that it belongs to."""
    keys: dict[int, _Path] = {}
    ends: dict[int, int] = {}
    inside: set[int] = set()
    root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for path, key, value in _pairs(root, ()):
        keys.setdefault(key.start_mark.line, path)
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        end = key.end_mark if is_block else value.end_mark
        ends[end.line] = max(ends.get(end.line, 0), end.column)
        if not is_block:
            inside.update(range(value.start_mark.line + 1, value.end_mark.line + 1))
    found, waiting = _Comments(), []
    for number, line in enumerate(text.splitlines()):
        bare = line.strip()
        if bare.startswith("#") and number not in inside:
            waiting.append(bare)
            continue
        if number in keys and waiting:
            found.above[keys[number]], waiting = waiting, []
        rest = line[ends[number] :].lstrip(" \t:,}") if number in ends else ""
        if rest.startswith("#"):
            owner = keys.get(number) or max((place for place in keys if place < number), default=0)
            found.behind[owner if isinstance(owner, tuple) else keys[owner]] = rest.rstrip()
    found.end = waiting
    return found


def _pairs(node: yaml.Node | None, path: _Path) -> Iterator[tuple[_Path, yaml.Node, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key, value
            yield from _pairs(value, (*path, key.value))

"""``environments/NAME.lock.yaml``: which release of each datakit an environment runs, by version and digest.

It stands beside the environment's own file. The commands of :mod:`datakit.release` write it; here it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, Field, ValidationError

from datakit.errors import InvalidFile
from datakit.model._base import Model, text_like
from datakit.model.manifest import KebabName, Version
from datakit.model.yaml import Document

Digest = Annotated[str, text_like(r"^sha256:[0-9a-f]{64}$", "a digest: sha256: and 64 hexadecimal digits")]
"""What an image is, whatever its tag says today."""

_SEAL_DIGITS: Final = 16
_OURS, _BOTH, _THEIRS = "<<<<<<< ", "=======", ">>>>>>> "
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _./@+<>()=-]*(:[A-Za-z0-9][A-Za-z0-9_./@+-]*)*")
_RESERVED: Final = re.compile(
    r"(?i)true|false|yes|no|on|off|null|y|n|[\d_]+(\.\d*)?(e[-+]?\d+)?|0[xo][0-9a-f]+|[\d:.]*:[\d:.]*|\d{4}-\d.*"
)
_LINE: Final = re.compile(r"((?:  ){0,3})([a-z][a-z0-9-]*):(?: (\S.*))?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_VERSION_LINE: Final = re.compile(r"\s*version:\s*(\S+)")


class Pin(Model):
    """One release of a datakit, and who wants it here."""

    version: Version
    digest: Annotated[Digest, Field(description="Of the image's manifest, as the registry names it")]
    contract: Annotated[Digest | None, Field(description="Hash of the columns, types and keys that it lands")] = None
    range: Annotated[
        str | None, Field(description="The versions that `datakit lock` may choose from, such as ^1.2")
    ] = None
    by: Annotated[str | None, Field(description="Who pinned it, as Git knows them")] = None
    at: Annotated[AwareDatetime | None, Field(description="When")] = None
    why: Annotated[str | None, Field(description="Why, in their words")] = None
    seal: Annotated[
        str | None,
        text_like(
            r"^v1:[0-9a-f]{16}$",
            "v1: and 16 hexadecimal digits, which a command has written",
            description="Of all the above: no longer fits after an edit by hand. It hinders accidents, not attackers",
        ),
    ] = None

    def seal_for(self, environment: str, warehouse: str, datakit: str) -> str:
        """Return the seal that this pin has to have there."""
        moment = self.at.astimezone(UTC).isoformat() if self.at else None
        said = [environment, warehouse, datakit, self.version, self.digest, self.contract, self.range]
        data = json.dumps([*said, self.by, moment, self.why], ensure_ascii=True, separators=(",", ":"))
        return f"v1:{hashlib.sha256(data.encode()).hexdigest()[:_SEAL_DIGITS]}"

    def sealed(self, environment: str, warehouse: str, datakit: str) -> Pin:
        """Return this pin with its seal."""
        return self.model_copy(update={"seal": self.seal_for(environment, warehouse, datakit)})


class Lock(Model):
    """The pins of one environment."""

    environment: KebabName
    warehouses: dict[KebabName, dict[KebabName, Pin]] = Field({}, description="Warehouse → datakit → its release")

    def pins(self) -> Iterator[tuple[str, str, Pin]]:
        """Yield (warehouse, datakit, pin), sorted."""
        for warehouse, pins in sorted(self.warehouses.items()):
            for datakit, pin in sorted(pins.items()):
                yield warehouse, datakit, pin

    def pin(self, warehouse: str, datakit: str) -> Pin | None:
        """Return one pin; None if there is none."""
        return self.warehouses.get(warehouse, {}).get(datakit)

    def is_by_command(self, warehouse: str, datakit: str) -> bool:
        """Whether a pin is as a command wrote it."""
        pin = self.warehouses[warehouse][datakit]
        return pin.seal == pin.seal_for(self.environment, warehouse, datakit)


def lock_path(environment_file: Path) -> Path:
    """Return where the lock of an environment is: beside its file."""
    return environment_file.with_name(f"{environment_file.stem}.lock.yaml")


def read_lock(environment_file: Path) -> Lock | None:
    """Read the lock that stands beside an environment's file; None if there is none.

    :raises InvalidFile: it cannot be read, or is another environment's.
    """
    path = lock_path(environment_file)
    if not path.is_file():
        return None
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"the lock cannot be read: {error}", subject=str(path)) from None
    check_conflicts(text, str(path))
    return parse_lock(text, environment_file.stem, str(path))


def parse_lock(text: str, environment: str, where: str) -> Lock:
    """Return the lock that a text holds.

    :raises InvalidFile: it is no lock, or another environment's.
    """
    try:
        data = _as_written(text)
        if data is not None and data.get("environment") == environment:
            return Lock.model_validate(data)
    except ValidationError:  # the reader of YAML says where
        pass
    document = Document(text, where)
    lock = document.into(Lock)
    if lock.environment != environment:
        raise InvalidFile(
            f"the lock of {environment!r} says that it is the one of {lock.environment!r}",
            subject=f"{where}:{document.at(('environment',))}",
            cause="it was copied from there",
            fix="promote pins instead of copying the file, or correct the name",
        )
    return lock


def is_plain(text: str) -> bool:
    """Whether a text needs no quotes in a lock: neither YAML 1.1 nor 1.2 reads anything else in it."""
    return bool(_PLAIN.fullmatch(text)) and not _RESERVED.fullmatch(text) and not text.endswith(" ")


def _as_written(text: str) -> dict[str, Any] | None:
    """Read a lock as commands write it, ten times faster than YAML is read; None if it is not exactly that.

    A lock of 500 pins has 4,000 lines, and everything that parses a DAG reads one.
    """
    top: dict[str, Any] = {}
    open_ones: list[dict[str, Any]] = [top]
    for line in text.splitlines():
        bare = line.lstrip(" ")
        if not bare or bare[0] == "#":
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        indent, key, value = match.groups()
        depth = len(indent) // 2
        if depth >= len(open_ones) or key in open_ones[depth]:
            return None
        del open_ones[depth + 1 :]
        if value is None:
            inner: dict[str, Any] = {}
            open_ones[depth][key] = inner
            open_ones.append(inner)
            continue
        said = _value(key, value)
        if said is None:
            return None
        open_ones[depth][key] = said
    return top


def _value(key: str, text: str) -> Any:
    if is_plain(text) or (key == "at" and _TIME.fullmatch(text)):
        return text
    if text == "{}":
        return {}
    if text[0] != '"':
        return None
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return said if isinstance(said, str) else None


def check_conflicts(text: str, where: str) -> None:
    """Explain the marks that Git leaves where two people changed the same pin.

    :raises InvalidFile: there are some.
    """
    sides: dict[str, list[str]] = {_OURS: [], _THEIRS: []}
    side, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_OURS):
            side, first = _OURS, first or number
        elif line == _BOTH and side:
            side = _THEIRS
        elif line.startswith(_THEIRS):
            side = ""
        elif side and (match := _VERSION_LINE.match(line)):
            sides[side].append(match[1])
    if not first:
        return
    ours, theirs = (", ".join(sides[side]) or "no version" for side in (_OURS, _THEIRS))
    name = Path(where).name
    raise InvalidFile(
        "two people changed the same pin, and Git left both versions in the lock",
        subject=f"{where}:{first}",
        cause=f"one side pins {ours}, the other {theirs}",
        fix=f"take one side whole, git checkout --ours {name} or --theirs {name}; git add it, finish the merge, "
        "and run the command that the other side had run",
    )

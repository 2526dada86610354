"""The sidecar's audit log, read: which tickets and secrets were there for a run, and whether the chain of lines holds.

A line is JSON and holds the SHA-256 of the line before it (docs/sidecar.md); ``datakit-sidecar verify-audit`` is the
thorough check. A datakit's image has no sidecar, and this package does not import it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from datakit.errors import ConfigurationError

_ROTATED_DIGITS: Final = 12
_CHAIN: Final = {"n", "at", "event", "previous"}


@dataclass(frozen=True, slots=True)
class SidecarLine:
    """One line of the log."""

    time: datetime
    event: str
    details: dict[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class SidecarLog:
    """All lines of a log and of the older files beside it, and where its chain breaks.

    :ivar breaks: ``FILE:LINE`` of lines that are no audit line, or do not follow the one before.
    """

    lines: tuple[SidecarLine, ...]
    breaks: tuple[str, ...]

    @classmethod
    def read(cls, file: Path) -> SidecarLog:
        """Read it.

        :raises ConfigurationError: it cannot be read.
        """
        older = sorted(file.parent.glob(f"{file.name}.{'[0-9]' * _ROTATED_DIGITS}"))
        lines: list[SidecarLine] = []
        breaks: list[str] = []
        previous: str | None = None
        for path in [*older, file]:
            try:
                raw = path.read_bytes().split(b"\n")
            except OSError as error:
                raise ConfigurationError(
                    f"the sidecar's audit log cannot be read: {error.strerror}", subject=str(path)
                ) from None
            for number, line in enumerate(raw, 1):
                if not line:
                    continue
                where = f"{path}:{number}"
                entry = _entry(line, where)
                said = entry.details.pop("previous", None) if entry else None
                if entry is None or (previous is not None and said != previous):
                    breaks.append(where)
                if entry is not None:
                    lines.append(entry)
                previous = hashlib.sha256(line).hexdigest()
        return cls(tuple(lines), tuple(breaks))

    def of_tickets(self, principal: str, since: datetime, until: datetime) -> Iterator[SidecarLine]:
        """Yield what was done about a principal's tickets in that time, and before it, what was still in force."""
        mine = [line for line in self.lines if line.details.get("principal") == principal]
        yield from _in_force(mine, ("ticket.issued", "ticket.renewed", "tickets.published", "key.fetched"), since)
        yield from (line for line in mine if since <= line.time <= until)

    def of_secrets(self, names: Iterable[str], since: datetime, until: datetime) -> Iterator[SidecarLine]:
        """Yield what was done about secrets in that time, and before it, what was still in force.

        :param names: folders of secrets, as environments refer to them.
        """
        for name in names:
            mine = [line for line in self.lines if _is_of(line, name)]
            yield from _in_force(mine, ("secret.published", "secret.rotated"), since)
            yield from (line for line in mine if since <= line.time <= until)


def _in_force(lines: list[SidecarLine], events: tuple[str, ...], since: datetime) -> Iterator[SidecarLine]:
    last: dict[str, SidecarLine] = {}
    for line in lines:
        if line.time < since and line.event in events:
            # a renewed ticket replaces an issued one, a rotated secret a published one
            last["secret" if line.event.startswith("secret.") else line.event.replace("renewed", "issued")] = line
    yield from sorted(last.values(), key=lambda line: line.time)


def _is_of(line: SidecarLine, name: str) -> bool:
    folder = line.details.get("folder")
    return line.details.get("used_for") == name or (isinstance(folder, str) and Path(folder).name == name)


def _entry(line: bytes, where: str) -> SidecarLine | None:
    try:
        said = json.loads(line)
        time = datetime.fromisoformat(said["at"])
        event = str(said["event"])
    except (ValueError, KeyError, TypeError):
        return None
    if time.tzinfo is None:
        return None
    details = {key: value for key, value in said.items() if key not in _CHAIN or key == "previous"}
    return SidecarLine(time, event, details, where)

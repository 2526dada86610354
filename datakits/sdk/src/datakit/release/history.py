"""The changes of a lock, out of Git: who pinned what, when, why, and whether a command did it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from datakit.errors import InvalidFile
from datakit.model.lock import Lock
from datakit.release.git import GitRepository, LoggedCommit
from datakit.release.locks import LockFile, PinChange, compare

_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class LockChange:
    """One commit of a lock.

    :ivar number: how many changes ago; 0 is what holds now. ``datakit rollback --to`` takes it.
    :ivar action: ``lock``, ``promote``, ``rollback``; None if the commit does not say.
    :ivar lock: as it was then; None if it was no lock.
    """

    number: int
    commit: LoggedCommit
    action: str | None
    changes: tuple[PinChange, ...]
    lock: Lock | None

    @property
    def is_by_command(self) -> bool:
        """Whether commands wrote what it pins: it says so, is a merge, or a squashed or reverted commit of theirs."""
        if self.action is not None or self.commit.is_merge:
            return True
        pinned = [(each.warehouse, each.datakit) for each in self.changes if each.after is not None]
        return (
            bool(pinned)
            and len(pinned) == len(self.changes)
            and all(self.lock is not None and self.lock.is_by_command(*names) for names in pinned)
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "number": self.number,
            "commit": self.commit.revision,
            "time": self.commit.time.isoformat(),
            "author": self.commit.author,
            "subject": self.commit.subject,
            "action": self.action,
            "by_command": self.is_by_command,
            "from": self.commit.trailer("Datakit-From"),
            "restores": self.commit.trailer("Datakit-Restores"),
            "changes": [change.as_json() for change in self.changes],
        }


def lock_history(repository: GitRepository, path: Path, environment: str) -> Iterator[LockChange]:
    """Yield the changes of a lock, the latest first; as many locks are read as are asked for."""
    log = repository.log(path)
    empty = Lock(environment=environment)
    for start in range(0, len(log), _AT_ONCE):
        part = log[start : start + _AT_ONCE + 1]  # one more, to compare the last one with
        texts = repository.contents([commit.revision for commit in part], path)
        locks = [_lock(text, environment, path, commit) for commit, text in zip(part, texts, strict=True)]
        for number, (commit, (lock, before)) in enumerate(zip(part, pairwise([*locks, empty]), strict=True)):
            if number < _AT_ONCE:
                changes = compare(before or empty, lock or empty)
                yield LockChange(start + number, commit, commit.trailer("Datakit-Action"), changes, lock)


def _lock(text: str | None, environment: str, path: Path, commit: LoggedCommit) -> Lock | None:
    if text is None:
        return None
    try:
        return LockFile.parse(text, environment, path, at=commit.revision[:12]).lock
    except InvalidFile:  # somebody committed half a file; the history goes on before it
        return None

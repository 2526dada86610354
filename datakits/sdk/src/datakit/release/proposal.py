"""A change of a lock that is not written yet: what a dry run shows, and the message of its commit."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Final

from datakit.release.locks import LockFile, PinChange

_SUBJECT_WIDTH: Final = 72


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change of one lock, not written yet.

    :ivar action: ``lock``, ``promote`` or ``rollback``.
    :ivar origin: the environment or the commit that the pins come from.
    :ivar notes: what a person should know before they agree.
    """

    action: str
    before: LockFile
    after: LockFile
    origin: str | None
    why: str | None
    changes: tuple[PinChange, ...]
    notes: tuple[str, ...] = ()

    @property
    def environment(self) -> str:
        """Whose lock it is."""
        return self.after.lock.environment

    @property
    def text(self) -> str | None:
        """What the lock will hold; None if nothing changes."""
        return (self.after.text or "") if self.changes else None

    @property
    def message(self) -> str:
        """The commit's message: for people, and in its trailers for programs."""
        parts = [self._subject(), "\n".join(f"- {change}" for change in self.changes)]
        if self.why:
            parts.append(f"Why: {self.why}")
        trailers = [f"Datakit-Action: {self.action}", f"Datakit-Environment: {self.environment}"]
        if self.origin:
            trailers.append(f"Datakit-{'From' if self.action == 'promote' else 'Restores'}: {self.origin}")
        for change in self.changes:
            said = f"{change.after.version} {change.after.digest}" if change.after else "none"
            trailers.append(f"Datakit-Pin: {change.name} {said}")
        return "\n\n".join([*parts, "\n".join(trailers)]) + "\n"

    @property
    def diff(self) -> str:
        """The change of the file, as ``diff -u`` shows it."""
        return unified_diff(self.after.path.name, self.before.text, self.after.text or "")

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "action": self.action,
            "environment": self.environment,
            "origin": self.origin,
            "changes": [change.as_json() for change in self.changes],
            "notes": list(self.notes),
            "message": self.message,
            "diff": self.diff,
        }

    def _subject(self) -> str:
        releases = sorted({f"{each.datakit} {each.after.version}" for each in self.changes if each.after})
        gone = sorted({each.datakit for each in self.changes if not each.after})
        few = ", ".join([*releases, *(f"no {name}" for name in gone)])
        many = f"{len(self.changes)} pins"
        form = {
            "lock": f"Pin {{}} in {self.environment}",
            "promote": f"Promote {{}} from {self.origin} to {self.environment}",
            "rollback": f"Roll {self.environment} back to {{}}",
        }[self.action]
        subject = form.format(few)
        return subject if len(subject) <= _SUBJECT_WIDTH else form.format(many)


def unified_diff(name: str, before: str | None, after: str) -> str:
    """Return the change of a file, as ``diff -u`` shows it; ``before`` is None where there was none."""
    lines = difflib.unified_diff(
        (before or "").splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"a/{name}" if before is not None else "/dev/null",
        f"b/{name}",
    )
    return "".join(lines)

"""One line of the doctor's checklist."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from datakit.errors import DatakitError


class State(StrEnum):
    """How it is: ``bad`` stops a run, ``doubtful`` may, ``unneeded`` is missing but nothing here asks for it."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"
    UNNEEDED = "unneeded"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found.

    :ivar subject: what was looked at.
    :ivar fix: the next step, where there is one.
    """

    subject: str
    state: State
    detail: str
    fix: str | None = None

    @classmethod
    def of(cls, subject: str, error: DatakitError, state: State = State.BAD) -> Finding:
        """Return an error as a finding."""
        detail = f"{error.subject}: {error.what}" if error.subject else error.what
        return cls(subject, state, f"{detail} ({error.cause})" if error.cause else detail, error.fix)


def is_open_to_all(path: Path) -> bool:
    """Whether everybody on this machine may read the file, as far as its own mode says."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:  # it was replaced just now
        return False

"""One line of the doctor's checklist."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from datakit_sidecar.failure import Failure


class State(StrEnum):
    """How it is: ``bad`` keeps the sidecar from being ready, ``doubtful`` may."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


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
    def of(cls, subject: str, error: Failure, state: State = State.BAD) -> Finding:
        """Return an error as a finding."""
        return cls(subject, state, f"{error.what} ({error.cause})" if error.cause else error.what, error.fix)

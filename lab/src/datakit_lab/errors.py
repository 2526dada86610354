"""What can go wrong with the lab itself. Exit codes are those of BSD's ``sysexits.h``, as in the datakit command."""

from __future__ import annotations

from typing import ClassVar


class LabError(Exception):
    """The lab cannot do what was asked, and trying again cannot help.

    :param what: what happened and to which object, in one sentence; never a secret.
    :param fix: the next step, best a command to run.
    """

    exit_code: ClassVar[int] = 78

    def __init__(self, what: str, *, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\nNext step: {self.fix}" if self.fix else self.what


class ProgramMissing(LabError):
    """A program that the lab runs is not installed."""

    @classmethod
    def of(cls, program: str, packages: str) -> ProgramMissing:
        """Build the error for ``program``, which the Debian ``packages`` bring."""
        return cls(f"{program} is not installed", fix=f"apt-get install --yes --no-install-recommends {packages}")


class LabUnavailable(LabError):
    """A part of the lab did not start, died or does not answer; trying again may help."""

    exit_code = 75

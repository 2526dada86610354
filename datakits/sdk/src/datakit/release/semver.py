"""Versions after SemVer 2.0.0 (https://semver.org): their order, and the bump that a change of contracts calls for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from functools import total_ordering
from typing import Final

from datakit.errors import ConfigurationError

_SEMVER: Final = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z.-]+))?"
)


class Bump(IntEnum):
    """How much a version has to rise."""

    PATCH = 0
    MINOR = 1
    MAJOR = 2

    def __str__(self) -> str:
        return self.name.lower()


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class SemVer:
    """One version. Compares by precedence: a pre-release comes before its release; build metadata does not count."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()
    build: str = field(default="")

    @classmethod
    def parse(cls, text: str) -> SemVer:
        """Read ``1.2.3``, ``1.2.3-rc.1`` or ``1.2.3+build``, without a leading v.

        :raises ConfigurationError: it is none of them.
        """
        match = _SEMVER.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"{text!r} is not a version", fix="write a SemVer version without a leading v, such as 1.2.3"
            )
        return cls(
            int(match[1]), int(match[2]), int(match[3]), tuple(match[4].split(".")) if match[4] else (), match[5] or ""
        )

    @classmethod
    def of_tag(cls, tag: str) -> SemVer | None:
        """Return the version that an image's tag ``v1.2.3`` stands for; None if it is no tag of a release."""
        match = _SEMVER.fullmatch(tag[1:]) if tag.startswith("v") else None
        return cls.parse(tag[1:]) if match else None

    @property
    def is_stable(self) -> bool:
        """Whether it is no pre-release."""
        return not self.pre

    @property
    def tag(self) -> str:
        """The tag of its image."""
        return f"v{self}"

    def raised(self, bump: Bump) -> SemVer:
        """Return the lowest version that is this one after ``bump``.

        Before 1.0.0 a break raises the minor number and everything else the patch number, as ``^0.2`` understands it.
        """
        if self.major == 0:
            bump = {Bump.MAJOR: Bump.MINOR, Bump.MINOR: Bump.PATCH, Bump.PATCH: Bump.PATCH}[bump]
        match bump:
            case Bump.MAJOR:
                return SemVer(self.major + 1, 0, 0)
            case Bump.MINOR:
                return SemVer(self.major, self.minor + 1, 0)
            case Bump.PATCH:
                return SemVer(self.major, self.minor, self.patch + 1)

    def allows(self, bump: Bump, after: SemVer) -> bool:
        """Whether this version is high enough for a change that calls for ``bump`` since ``after``.

        A pre-release counts as the release that it leads to.
        """
        return self > after and SemVer(self.major, self.minor, self.patch) >= after.raised(bump)

    def __str__(self) -> str:
        pre = f"-{'.'.join(self.pre)}" if self.pre else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}{f'+{self.build}' if self.build else ''}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SemVer) and self._precedence == other._precedence

    def __lt__(self, other: SemVer) -> bool:
        return self._precedence < other._precedence

    def __hash__(self) -> int:
        return hash(self._precedence)

    @property
    def _precedence(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        parts = tuple(
            (not part.isdigit(), int(part) if part.isdigit() else 0, "" if part.isdigit() else part)
            for part in self.pre
        )
        return self.major, self.minor, self.patch, not self.pre, parts

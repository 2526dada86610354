"""Ranges of versions, as people write them for a lock: ``1.2.3``, ``^1.2``, ``~1.2.3``, ``>=1.2,<2``, ``*``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from datakit.errors import ConfigurationError
from datakit.release.semver import SemVer

_PART: Final = re.compile(r"(\^|~|>=|<=|>|<|=)?\s*v?(\d+)(?:\.(\d+))?(?:\.(\d+)(-[0-9A-Za-z.-]+)?)?")
_COMPARE: Final[dict[str, Callable[[SemVer, SemVer], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Range:
    """Versions that may be chosen. A pre-release is in no range but the one that names it.

    :ivar text: as it was written.
    """

    text: str
    _bounds: tuple[tuple[str, SemVer], ...]
    _exact: SemVer | None = None

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read a range. ``1.2`` alone is every 1.2.x, ``1`` every 1.x.

        :raises ConfigurationError: it is none.
        """
        text = text.strip()
        if text == "*":
            return cls(text, ())
        bounds: list[tuple[str, SemVer]] = []
        for part in text.split(","):
            match = _PART.fullmatch(part.strip())
            if match is None:
                raise ConfigurationError(
                    f"{text!r} is no range of versions", fix="write 1.2.3, 1.2, ^1.2, ~1.2.3, '>=1.2,<2' or '*'"
                )
            sign, major, minor, patch, pre = match.groups()
            low = SemVer.parse(f"{major}.{minor or 0}.{patch or 0}{pre or ''}")
            if sign in (None, "=") and patch is not None:
                if "," in text:
                    raise ConfigurationError(
                        f"{text!r} names one version and bounds", fix="write the version alone, or bounds alone"
                    )
                return cls(text, (), low)
            bounds += _bounds(sign or "", low, minor is not None, patch is not None)
        return cls(text, tuple(bounds))

    def allows(self, version: SemVer) -> bool:
        """Whether a version is in the range."""
        if self._exact is not None:
            return str(version) == str(self._exact)
        return version.is_stable and all(_COMPARE[sign](version, bound) for sign, bound in self._bounds)

    def best(self, versions: Iterable[SemVer]) -> SemVer | None:
        """Return the highest version in the range."""
        return max((version for version in versions if self.allows(version)), default=None)


def _bounds(sign: str, low: SemVer, has_minor: bool, has_patch: bool) -> list[tuple[str, SemVer]]:
    if sign in _COMPARE:
        return [(sign, low)]
    next_major, next_minor = SemVer(low.major + 1, 0, 0), SemVer(low.major, low.minor + 1, 0)
    if sign == "^":  # what may change without a break: before 1.0.0 that is less
        if low.major or not has_minor:
            high = next_major
        elif low.minor or not has_patch:
            high = next_minor
        else:
            high = SemVer(0, 0, low.patch + 1)
    else:
        high = next_minor if has_minor else next_major
    return [(">=", low), ("<", high)]

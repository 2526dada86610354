"""How people name pins: by datakit, by warehouse or by both, and the release behind an ``@``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datakit.errors import ConfigurationError, UnknownName
from datakit.model.lock import Pin


@dataclass(frozen=True, slots=True)
class Selector:
    """Which pins a command is about: ``DATAKIT``, ``WAREHOUSE`` or ``WAREHOUSE/DATAKIT``, and of which release.

    :ivar release: what follows ``@``: a version, a range or a digest; None if nothing does.
    """

    text: str
    warehouse: str | None
    name: str | None
    release: str | None

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read one."""
        names, _, release = text.partition("@")
        warehouse, slash, name = names.rpartition("/")
        if not name or (slash and not warehouse) or (text.endswith("@")):
            raise ConfigurationError(
                f"{text!r} names no pin", fix="write DATAKIT, WAREHOUSE/DATAKIT or DATAKIT@VERSION"
            )
        return cls(text, warehouse or None, name, release or None)

    def takes(self, warehouse: str, datakit: str) -> bool:
        """Whether a pin is meant."""
        return (
            datakit == self.name
            if self.warehouse is None and datakit == self.name
            else ((warehouse, datakit) == (self.warehouse, self.name) if self.warehouse else warehouse == self.name)
        )

    def wants(self, pin: Pin) -> bool:
        """Whether a pin is of the release that was named."""
        return self.release is None or self.release in (pin.version, f"v{pin.version}", pin.digest)


def select(selectors: Iterable[Selector], warehouse: str, datakit: str) -> Selector | None:
    """Return the most precise selector that means a pin."""
    meant = [each for each in selectors if each.takes(warehouse, datakit)]
    return max(meant, key=lambda each: each.warehouse is not None, default=None)


def check_selectors(
    selectors: Sequence[Selector], pairs: Iterable[tuple[str, str]] | Mapping[tuple[str, str], Any], where: str
) -> None:
    """Refuse selectors that mean nothing; ``where`` says what they are to be found among.

    :raises UnknownName: with the nearest name that there is.
    """
    known = tuple(pairs)
    for each in selectors:
        if not any(each.takes(*pair) for pair in known):
            names = each.text.partition("@")[0]
            all_names = {f"{house}/{kit}" for house, kit in known}
            if "/" not in names:
                all_names = {kit for _, kit in known} | {house for house, _ in known}
            raise UnknownName.of("pin", names, all_names, where=where)

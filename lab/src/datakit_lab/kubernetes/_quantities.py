"""Amounts of memory and processors as Kubernetes writes them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_FORM: Final = re.compile(
    r"^(?P<number>\d+(?:\.\d+)?|\.\d+)(?:e(?P<exponent>[+-]?\d+))?(?P<unit>[numkMGTPE]|[KMGTPE]i)?$"
)
_UNITS: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def quantity(text: str | float) -> Decimal:
    """Return the number that ``500m``, ``1Gi``, ``2`` or ``1e3`` stands for.

    >>> int(quantity("1Gi")), float(quantity("250m"))
    (1073741824, 0.25)

    :raises ValueError: it is no quantity.
    """
    match = _FORM.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    number = Decimal(match["number"]).scaleb(int(match["exponent"] or 0))
    unit = match["unit"] or ""
    return number * 1024 ** _BINARY[unit] if unit in _BINARY else number.scaleb(_UNITS.get(unit, 0))

"""Data for the SQL Server double: real flights, generated volume, and values that no naive path survives.

:func:`load` fills a :class:`~datakit_lab.sqlserver.tsql.DuckBackend` with one of :data:`DATA_SETS`; :func:`mutate`
lets the airline's source change as sources do. Both say in a few sentences what they did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from datakit_lab.data.airline import load_airline
from datakit_lab.data.mutations import STEPS, mutate
from datakit_lab.data.nasty import load_nasty
from datakit_lab.data.tpch import load_tpch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datakit_lab.sqlserver.tsql import DuckBackend

DATA_SETS: Final[Mapping[str, Callable[[DuckBackend], list[str]]]] = {
    "airline": load_airline,
    "tpch": load_tpch,
    "nasty": load_nasty,
}
"""The data sets by name, each with its defaults."""


def load(backend: DuckBackend, name: str) -> list[str]:
    """Load one data set.

    :returns: sentences that say what was loaded.
    :raises ValueError: there is no such data set, or it is loaded already.
    """
    if name not in DATA_SETS:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(DATA_SETS)}")
    return DATA_SETS[name](backend)


__all__ = ["DATA_SETS", "STEPS", "load", "load_airline", "load_nasty", "load_tpch", "mutate"]

"""Values and names that no naive path survives, in the database ``Nasty``."""

from __future__ import annotations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql import DuckBackend


def load_nasty(backend: DuckBackend) -> list[str]:
    """Load."""
    raise ValueError("not yet")

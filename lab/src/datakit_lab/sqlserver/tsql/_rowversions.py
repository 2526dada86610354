"""Rowversions: numbers that grow database-wide, and the oldest that is not committed yet.

``MIN_ACTIVE_ROWVERSION()`` must stay at or below every number that a transaction has taken and not committed, or a
reader that stops below it would lose the row. A session's claim is therefore made before its statement takes numbers.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._session import DuckSession


class Rowversions:
    """The claims of all sessions of one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[tuple[int, str], int] = {}

    def claim(self, session: DuckSession, database: str) -> None:
        """Note that the session's transaction takes numbers from here on."""
        with self._lock:
            self._claims.setdefault((session.number, database.casefold()), self.last(session, database) + 1)

    def released(self, session: DuckSession) -> None:
        """The session's transaction is over."""
        with self._lock:
            self._claims = {key: value for key, value in self._claims.items() if key[0] != session.number}

    def min_active(self, session: DuckSession, database: str) -> int:
        """Return the lowest number that may not be committed yet; one above the last if all are."""
        with self._lock:
            claims = [value for (_, name), value in self._claims.items() if name == database.casefold()]
            return min(claims, default=self.last(session, database) + 1)

    @staticmethod
    def last(session: DuckSession, database: str) -> int:
        """Return the number taken last (``@@DBTS``)."""
        with session.backend.cursor() as cursor:
            row = next(
                iter(
                    cursor.execute(
                        "SELECT coalesce(last_value, start_value - 1) FROM duckdb_sequences() "
                        "WHERE database_name = ? AND schema_name = 'lab' AND sequence_name = 'rowversions'",
                        [database],
                    ).fetchall()
                ),
                None,
            )
        return int(row[0]) if row else 0

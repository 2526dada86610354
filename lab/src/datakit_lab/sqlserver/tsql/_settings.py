"""SET options. What changes nothing here is accepted, because drivers send it at login; what is unknown is an error."""

from __future__ import annotations

import re
from typing import Final

from datakit_lab.sqlserver.backend import SqlError

LEVELS: Final = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "SNAPSHOT")
_ACCEPTED: Final = frozenset(
    [
        "ANSI_DEFAULTS",
        "ANSI_NULLS",
        "ANSI_NULL_DFLT_OFF",
        "ANSI_NULL_DFLT_ON",
        "ANSI_PADDING",
        "ANSI_WARNINGS",
        "ARITHABORT",
        "ARITHIGNORE",
        "CONCAT_NULL_YIELDS_NULL",
        "CONTEXT_INFO",
        "CURSOR_CLOSE_ON_COMMIT",
        "DATEFIRST",
        "DATEFORMAT",
        "DEADLOCK_PRIORITY",
        "FIPS_FLAGGER",
        "FMTONLY",
        "FORCEPLAN",
        "IDENTITY_INSERT",
        "IMPLICIT_TRANSACTIONS",
        "LANGUAGE",
        "LOCK_TIMEOUT",
        "NOEXEC",
        "NUMERIC_ROUNDABORT",
        "OFFSETS",
        "PARSEONLY",
        "QUERY_GOVERNOR_COST_LIMIT",
        "QUOTED_IDENTIFIER",
        "REMOTE_PROC_TRANSACTIONS",
        "ROWCOUNT",
        "SHOWPLAN_ALL",
        "SHOWPLAN_TEXT",
        "SHOWPLAN_XML",
        "STATISTICS",
        "TEXTSIZE",
        "XACT_ABORT",
    ]
)


class Settings:
    """The options of one session."""

    def __init__(self) -> None:
        self.no_count = False
        self.isolation = "READ COMMITTED"
        self.identity_insert: str | None = None

    def apply(self, text: str) -> None:
        """Run one SET statement.

        :raises SqlError: 195 for an option that does not exist.
        """
        words = re.sub(r"\s+", " ", text.strip().rstrip(";")).split(" ", 1)[-1]
        if match := re.fullmatch(r"TRANSACTION ISOLATION LEVEL (.+)", words, re.IGNORECASE):
            level = match[1].upper()
            if level not in LEVELS:
                raise SqlError(102, f"Incorrect syntax near '{match[1]}'.", severity=15)
            self.isolation = level
            return
        for option in (part.strip().upper() for part in words.split(" ")[0].split(",")):
            if option == "NOCOUNT":
                self.no_count = words.upper().endswith(" ON")
            elif option == "IDENTITY_INSERT":
                table = words.split(" ")[1]
                self.identity_insert = table if words.upper().endswith(" ON") else None
            elif option not in _ACCEPTED:
                raise SqlError(195, f"'{option}' is not a recognized SET option.", severity=15)

    def isolation_of_tds(self, level: int) -> None:
        """Take the isolation level of a transaction-manager request (MS-TDS 2.2.6.9)."""
        self.isolation = {1: LEVELS[0], 2: LEVELS[1], 3: LEVELS[2], 4: LEVELS[3], 5: LEVELS[4]}.get(
            level, self.isolation
        )

    def inserts_identity(self, schema: str, table: str) -> bool:
        """Whether SET IDENTITY_INSERT is ON for a table."""
        if self.identity_insert is None:
            return False
        plain = self.identity_insert.replace("[", "").replace("]", "").casefold()
        return plain in {table.casefold(), f"{schema}.{table}".casefold()} or plain.endswith(
            f".{schema}.{table}".casefold()
        )

"""DuckDB's errors with SQL Server's numbers and texts."""

from __future__ import annotations

import re

import duckdb

from datakit_lab.sqlserver.backend import SqlError


def translate(error: duckdb.Error) -> SqlError:
    """Return what SQL Server would say; what it never says is 50000 with DuckDB's text."""
    text = str(error).split("\n\nLINE")[0]
    for pattern, number, message in _RULES:
        if match := re.search(pattern, text, re.IGNORECASE | re.DOTALL):
            return SqlError(number, message.format(*(group or "" for group in match.groups())))
    if isinstance(error, duckdb.InterruptException) or text.startswith("INTERRUPT"):
        return SqlError(3617, "The query was cancelled by the client.", severity=11)
    if isinstance(error, duckdb.ParserException):
        return SqlError(102, f"Incorrect syntax: {text}", severity=15)
    return SqlError(50000, f"The lab's query engine (DuckDB) failed: {text}")


_RULES: tuple[tuple[str, int, str], ...] = (
    (r"Could not convert string ['\"](.*?)['\"] to (?:INT|UINT|HUGEINT)", 245, ("Conversion failed when converting "
                                                                               "the varchar value '{0}' to data "
                                                                               "type int.")),
    ((r"Could not convert string ['\"].*?['\"] to "
     r"(?:DECIMAL|DOUBLE|FLOAT)"), 8114, "Error converting data type varchar to numeric."),
    ((r"invalid (?:timestamp|date|time) field|Could not convert string .* to "
     r"(?:TIMESTAMP|DATE|TIME)\b"), 241, "Conversion failed when converting date and/or time from character string."),
    (r"to (?:UUID|INT128)|Invalid UUID", 8169, ("Conversion failed when converting from a character string to "
                                               "uniqueidentifier.")),
    (r"out of range for the destination type U?INT(\d+)", 8115, ("Arithmetic overflow error converting expression "
                                                                "to a {0}-bit integer type.")),
    (r"Could not cast value .* to DECIMAL|Overflow|out of range", 8115, ("Arithmetic overflow error converting "
                                                                        "expression to data type numeric.")),
    (r"(String or binary data would be truncated in column '.*?'\.)", 2628, "{0}"),
    (r"Division by zero", 8134, "Divide by zero error encountered."),
    (r"Duplicate key \"(.*?)\" violates (?:primary key|unique) constraint", 2627, ("Violation of PRIMARY KEY "
                                                                                  "constraint. Cannot insert "
                                                                                  "duplicate key. The duplicate "
                                                                                  "key value is ({0}).")),
    (r"PRIMARY KEY or UNIQUE constraint violation: duplicate key \"(.*?)\"", 2627, ("Violation of PRIMARY KEY "
                                                                                   "constraint. Cannot insert "
                                                                                   "duplicate key. The duplicate "
                                                                                   "key value is ({0}).")),
    (r"NOT NULL constraint failed: (.*?)\.([^.]+)$", 515, ("Cannot insert the value NULL into column '{1}', table "
                                                          "'{0}'; column does not allow nulls.")),
    ((r"Conflict on (?:update|tuple)|write-write conflict|TransactionContext Error: Conflict|Catalog "
     r"write-write"), 3960, "Snapshot isolation transaction aborted due to update conflict."),
    (r"column \"(.*?)\" must appear in the GROUP BY clause", 8120, ("Column '{0}' is invalid in the select list "
                                                                   "because it is not contained in either an "
                                                                   "aggregate function or the GROUP BY clause.")),
    (r"More than one row returned by a subquery", 512, ("Subquery returned more than 1 value. This is not permitted "
                                                       "when the subquery follows =, !=, <, <= , >, >= or when the "
                                                       "subquery is used as an expression.")),
    (r"out of memory|could not allocate", 701, ("There is insufficient system memory in resource pool 'default' to "
                                               "run this query.")),
)  # fmt: skip

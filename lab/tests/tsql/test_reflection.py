"""What SQLAlchemy asks when it reflects a table: a query of common table expressions, UNION and a qualified order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from datakit_lab.sqlserver.tsql import DuckBackend

_FOREIGN_KEYS = """
WITH fk AS (
    SELECT r.CONSTRAINT_NAME, k.ORDINAL_POSITION, k.TABLE_NAME
    FROM INFORMATION_SCHEMA.REFERENTIAL_CONSTRAINTS r
    INNER JOIN INFORMATION_SCHEMA.KEY_COLUMN_USAGE k ON k.CONSTRAINT_NAME = r.CONSTRAINT_NAME
)
SELECT fk.CONSTRAINT_NAME, fk.TABLE_NAME FROM fk
UNION
SELECT fk.CONSTRAINT_NAME, fk.TABLE_NAME FROM fk WHERE fk.ORDINAL_POSITION > 1
ORDER BY fk.CONSTRAINT_NAME, fk.TABLE_NAME
"""


@pytest.fixture
def backend() -> Iterator[DuckBackend]:
    with DuckBackend() as backend:
        backend.create_database("Ops")
        backend.run("CREATE TABLE t (a int PRIMARY KEY, b int); INSERT INTO t VALUES (2, 1), (1, 2)", "Ops")
        yield backend


def test_there_are_no_foreign_keys_to_find(backend: DuckBackend) -> None:
    assert [] == backend.run(_FOREIGN_KEYS, "Ops")


def test_a_union_behind_a_common_table_expression_is_one_statement(backend: DuckBackend) -> None:
    rows = backend.run(
        "WITH n AS (SELECT a FROM t) SELECT n.a FROM n UNION ALL SELECT n.a + 10 FROM n ORDER BY n.a", "Ops"
    )
    assert [(1,), (2,), (11,), (12,)] == rows


def test_a_union_is_ordered_by_the_column_that_its_first_select_qualifies(backend: DuckBackend) -> None:
    rows = backend.run("SELECT t.a, t.b FROM t UNION SELECT t.a + 5, 9 FROM t ORDER BY t.b DESC, t.a", "Ops")
    assert [(6, 9), (7, 9), (1, 2), (2, 1)] == rows

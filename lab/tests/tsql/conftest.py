"""A server with one database, and a way to ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from datakit_lab.sqlserver.backend import Login, ResultSet
from datakit_lab.sqlserver.tsql import DuckBackend, DuckSession, Principal

Rows = list[tuple[Any, ...]]


@pytest.fixture
def backend() -> Iterator[DuckBackend]:
    with DuckBackend(
        logins={"sa": Principal(password="right"), "reader": Principal(password="right", read_only=True)},
        principals={
            "svc@LAB.TEST": Principal(
                databases=frozenset({"Shop"}), denied=frozenset({"Shop.dbo.Salaries"}), view_server_state=False
            )
        },
    ) as server:
        server.create_database("Shop", snapshot=True)
        server.create_database("Closed")
        yield server


def login(user: str | None = "sa", *, principal: str | None = None, database: str | None = "Shop") -> Login:
    return Login(principal, user, "right" if user else None, database, "tests", "laptop", "127.0.0.1")


@pytest.fixture
def connect(backend: DuckBackend) -> Iterator[Callable[..., DuckSession]]:
    opened: list[DuckSession] = []

    def open_one(user: str | None = "sa", **kind: Any) -> DuckSession:
        opened.append(backend.open_session(login(user, **kind)))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


def ask(session: DuckSession, sql: str, *parameters: Any) -> Rows:
    """Return the rows of the last result set."""
    rows: Rows = []
    for answer in session.execute(sql, parameters):
        if isinstance(answer, ResultSet):
            rows = [
                tuple(column[place].as_py() for column in batch.columns)
                for batch in answer.batches
                for place in range(batch.num_rows)
            ]
    return rows


@pytest.fixture
def session(connect: Callable[..., DuckSession]) -> DuckSession:
    return connect()

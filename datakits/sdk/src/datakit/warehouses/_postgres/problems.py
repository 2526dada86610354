"""PostgreSQL's errors in our words. SQLSTATEs: appendix A of PostgreSQL's documentation."""

from __future__ import annotations

import re
from typing import Final

import psycopg

from datakit.errors import (
    ConfigurationError,
    ContractError,
    ContractMismatch,
    DatakitError,
    LoadInProgress,
    LoginRefused,
    SchemaChangeRefused,
    TicketMissing,
    UnknownName,
    ValueRefused,
    WarehouseUnavailable,
)

_NO_DATABASE: Final = re.compile(r'database "(?P<name>.*)" does not exist')
_COPY_PLACE: Final = re.compile(r"COPY .+?, line (?P<row>\d+), column (?P<column>.+?)(?:$|:)", re.MULTILINE)


def connect_problem(error: psycopg.Error, subject: str, user: str) -> DatakitError:
    """Turn an error of connecting into ours. It has no SQLSTATE: libpq gives it as text only."""
    text = _first(error).removeprefix("connection failed: ")
    lower = text.lower()
    if match := _NO_DATABASE.search(text):
        return UnknownName(
            f"there is no database {match['name']!r} on this server",
            subject=subject,
            fix="correct database in the environment, or ask for it: CREATE DATABASE",
        )
    if "gssapi" in lower or "kerberos" in lower or "credential" in lower:
        return TicketMissing(
            f"Kerberos did not get us in: {text}",
            subject=subject,
            cause="no ticket for this service, or the server's keytab does not match",
            fix="look at the tickets: klist; and at the service principal: krbsrvname/host",
        )
    if any(
        sign in lower
        for sign in (
            "authentication failed",
            "no password supplied",
            "no pg_hba.conf entry",
            "is not permitted to log in",
            "authentication method requirement",
        )
    ):
        return LoginRefused(
            f"PostgreSQL refuses the login of {user!r}: {text}",
            subject=subject,
            cause="a wrong or rotated password, or pg_hba.conf does not let this role in from here",
            fix="compare user and password of the environment with the server's; pg_hba.conf says who may come how",
        )
    if "role" in lower and "does not exist" in lower:
        return LoginRefused(
            f"PostgreSQL refuses the login of {user!r}: {text}", subject=subject, fix="CREATE ROLE … LOGIN"
        )
    if "permission denied for database" in lower:
        return LoginRefused(
            f"{user!r} may not connect to the database: {text}", subject=subject, fix="GRANT CONNECT ON DATABASE … TO …"
        )
    if "certificate" in lower or "does not support ssl" in lower or "root.crt" in lower or "sslmode" in lower:
        return ConfigurationError(
            f"TLS cannot be had as the environment asks for it: {text}",
            subject=subject,
            fix="correct sslmode and sslrootcert in the environment, or the server's certificate",
        )
    return WarehouseUnavailable(
        f"PostgreSQL cannot be reached: {text}",
        subject=subject,
        cause="it is down, starting up, has no connection left, or the host or port is wrong",
        fix="retry; by hand: pg_isready -h HOST -p PORT",
    )


def problem(error: psycopg.Error, subject: str) -> DatakitError:
    """Turn an error of a statement into ours."""
    state, text = error.sqlstate or "", _first(error)
    match state[:2], state:
        case ("08" | "57" | "58" | "XX" | "", _):
            return WarehouseUnavailable(
                f"the connection to PostgreSQL broke: {text}",
                subject=subject,
                cause="the server was restarted or crashed, an administrator ended the session, or the network failed",
                fix="retry; what is staged is kept",
            )
        case _, "53100":
            return WarehouseUnavailable(
                f"PostgreSQL's disk is full: {text}", subject=subject, fix="make room, then retry"
            )
        case "53", _:
            return WarehouseUnavailable(f"PostgreSQL is out of a resource: {text}", subject=subject, fix="retry later")
        case _, "55P03":
            return WarehouseUnavailable(
                f"another session holds the table: {text}",
                subject=subject,
                cause="a long query or a transaction left open; a changed or replaced table needs them to end",
                fix="retry; who it is: SELECT * FROM pg_stat_activity WHERE state <> 'idle'",
            )
        case ("40", _) | (_, "42P01"):
            return LoadInProgress(f"another load got in the way: {text}", subject=subject, fix="retry")
        case _, "25006":
            return WarehouseUnavailable(
                f"the server takes no writes: {text}",
                subject=subject,
                cause="it is a replica, or a failover is under way",
                fix="retry; if it stays, name the primary as host in the environment",
            )
        case _, "42501":
            return LoginRefused(
                f"the role may not do this: {text}",
                subject=subject,
                cause="it lacks a privilege on the schema or table, or does not own the table",
                fix="GRANT CREATE, USAGE ON SCHEMA … and let the role that loads own the tables",
            )
        case _, "23502":
            return ContractMismatch(
                f"the column {error.diag.column_name!r} holds a NULL, and the contract says that it cannot",
                subject=subject,
                fix="correct nullable in the contract: datakit contract pull",
            )
        case _, "54000":
            return ValueRefused(f"a row is larger than PostgreSQL holds: {text}", subject=subject)
        case "22", _:
            place = _COPY_PLACE.search(error.diag.context or "")
            at = f" (column {place['column']!r}, row {place['row']} of the slice)" if place else ""
            return ValueRefused(
                f"PostgreSQL refuses a value{at}: {text}",
                subject=subject,
                fix="correct the row at the source, or convert the column in the dataset's SQL",
            )
        case _, "0A000" | "2BP01" | "42804" | "42846":
            return SchemaChangeRefused(
                f"PostgreSQL refuses to change the table: {'; '.join(_lines(error))}",
                subject=subject,
                cause="a view or another object depends on it",
                fix="drop the dependent object, load, and create it again",
            )
    return ContractError(f"PostgreSQL refuses the load ({state}): {'; '.join(_lines(error))}", subject=subject)


def _first(error: psycopg.Error) -> str:
    return error.diag.message_primary or (str(error).strip().splitlines() or [type(error).__name__])[0]


def _lines(error: psycopg.Error) -> list[str]:
    return [line for line in (_first(error), error.diag.message_detail) if line]

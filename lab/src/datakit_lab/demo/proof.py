"""Whether warehouses hold what the source holds, found out without the product."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.table import Table

from datakit_lab import compare
from datakit_lab.state import LabState

WAREHOUSE_SECRET: Final = Path("finance-db/password")


@dataclass(frozen=True, slots=True)
class Target:
    """Where one dataset lands."""

    warehouse: str
    source: str
    table: str


TARGETS: Final = (
    Target("finance", "ops.Flights", "bronze_airline.flights"),
    Target("finance", "ops.Weather", "bronze_airline.weather"),
    Target("finance", "ops.Planes", "bronze_airline.planes"),
    Target("finance", "ops.Airports", "bronze_airline.airports"),
    Target("finance", "ops.Airlines", "bronze_airline.airlines"),
    Target("marketing", "ops.Flights", "airline.flights"),
    Target("marketing", "ops.Airports", "reference.airports"),
    Target("marketing", "ops.Airlines", "reference.airlines"),
)


def compared(state: LabState, marketing: Path, environment: Mapping[str, str]) -> tuple[Table, int]:
    """Compare count and digest of every table in source and warehouses.

    :param marketing: the DuckDB file of that warehouse.
    :param environment: the variables that a client of the lab needs.
    :return: a table for people, and how many tables differ.
    """
    ports = {name: service.port for name, service in record.services.items()} if (record := state.read()) else {}
    password = (state.secrets / WAREHOUSE_SECRET).read_text(encoding="utf-8")
    dsn = f"postgresql://finance:{password}@localhost:{ports['postgres']}/finance"
    sqlserver = (
        f"Server=tcp:localhost,{ports['sqlserver']};Database=AirlineOps;Trusted_Connection=yes;"
        "Encrypt=yes;TrustServerCertificate=yes"
    )
    # The driver reads the ticket where this variable of its own process says.
    os.environ.update({name: environment[name] for name in ("KRB5_CONFIG", "KRB5CCNAME")})
    table = Table("source", "warehouse", "columns", "rows", "digest", "")
    sources: dict[str, compare.Fingerprint] = {}
    wrong = 0
    for target in TARGETS:
        if target.source not in sources:
            sources[target.source] = compare.fingerprint(compare.read_sqlserver(sqlserver, target.source))
        landed = (
            compare.read_postgres(dsn, target.table)
            if target.warehouse == "finance"
            else compare.read_duckdb(str(marketing), target.table)
        )
        source, warehouse = sources[target.source], compare.fingerprint(landed)
        equal = source == warehouse
        wrong += not equal
        table.add_row(
            target.source,
            f"{target.warehouse}: {target.table}",
            str(len(warehouse.columns)),
            f"{warehouse.rows:,}" if equal else f"{source.rows:,} ≠ {warehouse.rows:,}",
            warehouse.digest[-12:] if equal else f"{source.digest[-12:]} ≠ {warehouse.digest[-12:]}",
            "[green]equal[/green]" if equal else "[red]DIFFERENT[/red]",
        )
    return table, wrong

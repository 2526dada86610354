"""One SQL Server double for each worker, and for each test a database in it, two warehouses and a tree."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from datakit_lab.certificates import ServerCertificate
from datakit_lab.kdc import Kdc
from datakit_lab.testing import LabDatabase, LabSecrets, LabSqlServer, LabTickets, sqlserver_double

from .house import DATASETS, FINANCE, MARKETING, ORDERS, WAREHOUSES, House, clean_environment


@pytest.fixture(scope="session")
def shop_server(
    lab_kdc: Kdc, lab_certificate: ServerCertificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabSqlServer]:
    with sqlserver_double(lab_kdc, lab_certificate, tmp_path_factory.mktemp("shop"), data=()) as server:
        yield server


@pytest.fixture
def house(
    shop_server: LabSqlServer,
    lab_database: LabDatabase,
    lab_tickets: LabTickets,
    lab_secrets: LabSecrets,
    tmp_path: Path,
) -> Iterator[House]:
    """100 orders in the source, which both warehouses take by merge; neither has loaded anything yet."""
    lab_secrets.publish("finance-db/password", lab_database.password)
    names = ("KRB5_CONFIG", "KRB5CCNAME", "DATAKIT_SECRETS", "DATAKIT_CREDENTIALS_WAIT")
    environment = {name: os.environ[name] for name in names}
    with furnished(tmp_path, shop_server, lab_database, lab_tickets, lab_secrets, environment) as house:
        yield house


@contextmanager
def furnished(
    folder: Path,
    server: LabSqlServer,
    finance: LabDatabase,
    tickets: LabTickets,
    secret_files: LabSecrets,
    environment: dict[str, str],
) -> Iterator[House]:
    """Within, there is a house with its orders, whose commands run in ``environment``."""
    database = f"Shop_{secrets.token_hex(6)}"
    server.run(f"CREATE DATABASE {database}", "master")
    root = folder / "tree"
    root.mkdir()
    house = House(
        root=root,
        server=server,
        database=database,
        finance=finance,
        tickets=tickets,
        secrets=secret_files,
        environment=clean_environment() | environment,
    )
    house.sql("CREATE SCHEMA ops")
    house.sql(ORDERS)
    house.fill(100)
    house.datasets(DATASETS)
    house.write(
        "datakits/shop-bronze/datakit.yaml",
        {
            "kind": "bronze",
            "name": "shop-bronze",
            "version": "1.0.0",
            "system": "sqlserver",
            "sources": [{"datakit": "shop-source"}],
            "mode": "merge",
        },
    )
    for warehouse in (FINANCE, MARKETING):
        house.takes(warehouse, "orders")
    house.located()
    yield house
    server.fault("clear")


@pytest.fixture(params=WAREHOUSES)
def warehouse(request: pytest.FixtureRequest) -> str:
    """Each warehouse in turn."""
    return str(request.param)

"""One domain and one SQL Server double for the session; for each test an account of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from datakit_lab.active_directory import ActiveDirectory
from datakit_lab.certificates import ServerCertificate
from datakit_lab.double import DATABASE, SQL_LOGIN
from datakit_lab.network import free_port
from datakit_lab.supervisor import sqlserver_services, start_double
from datakit_lab.testing import SERVICE_ACCOUNT, LabSqlServer

from .accounts import Account

THRESHOLD = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.active_directory)


@pytest.fixture(scope="session")
def domain() -> Iterator[ActiveDirectory]:
    """A domain that locks accounts after three wrong tries; ``KRB5_CONFIG`` of this process is its."""
    with ActiveDirectory() as domain, pytest.MonkeyPatch.context() as patch:
        domain.set_lockout(THRESHOLD)
        patch.setenv("KRB5_CONFIG", str(domain.krb5_conf))
        yield domain


@pytest.fixture
def account(domain: ActiveDirectory, tmp_path: Path) -> Account:
    """A fresh service account and its keytab."""
    name = f"svc-{secrets.token_hex(4)}"
    domain.add_service_account(name)
    account = Account(domain, name, tmp_path)
    account.export()
    return account


@pytest.fixture(scope="session")
def sqlserver(
    domain: ActiveDirectory, lab_certificate: ServerCertificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabSqlServer]:
    """The double with AirlineOps; its service names are on the account ``svc-sql``, whose keytab it has."""
    folder = tmp_path_factory.mktemp("sqlserver")
    port = free_port()
    domain.add_service_account("svc-sql", *sqlserver_services(port))
    domain.add_service_account(SERVICE_ACCOUNT)
    password_file = folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(secrets.token_urlsafe(12), encoding="utf-8")
    running = LabSqlServer(
        host="localhost",
        port=port,
        database=DATABASE,
        user=SQL_LOGIN,
        password=password_file.read_text(encoding="utf-8"),
        principal=domain.full_name(SERVICE_ACCOUNT),
        certificate=lab_certificate,
        control=folder / "control",
        log=folder / "sqlserver.log",
    )
    process = start_double(
        port=port,
        data=["airline"],
        principal=running.principal,
        keytab=domain.keytab(folder / "keytab", "svc-sql"),
        password_file=password_file,
        certificates=lab_certificate.certificate.parent,
        control=running.control,
        log=running.log,
        environment=domain.client_environment(),
    )
    try:
        process.wait_until(running.control.exists, seconds=300)
        yield running
    finally:
        process.stop()


@pytest.fixture
def reader(domain: ActiveDirectory, sqlserver: LabSqlServer, tmp_path: Path) -> Iterator[Account]:
    """The account that may read the double; whatever a test does to it, the next one finds it well."""
    account = Account(domain, SERVICE_ACCOUNT, tmp_path)
    account.export()
    yield account
    domain.enable(SERVICE_ACCOUNT)
    domain.expire(SERVICE_ACCOUNT, None)
    domain.unlock(SERVICE_ACCOUNT)

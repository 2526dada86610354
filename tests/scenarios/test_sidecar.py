"""From the vault to the warehouse: the real sidecar keeps a run supplied whose tickets live for ten seconds only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.certificates import ServerCertificate
from datakit_lab.kdc import Kdc
from datakit_lab.sidecar import Sidecar
from datakit_lab.supervisor import keytab_of
from datakit_lab.testing import (
    SERVICE_ACCOUNT,
    LabDatabase,
    LabSecrets,
    LabSqlServer,
    LabTickets,
    sqlserver_double,
)
from datakit_vault.testing import FakeVault

from .conftest import furnished
from .house import DATASETS, FINANCE, House, wait_until
from .test_broken_connections import is_staging
from .test_rotation import is_complete, run_two_datasets

KEYTAB, PASSWORD = f"/Kerberos/{SERVICE_ACCOUNT}", "/Databases/finance-db"
TICKET_LIFE = timedelta(seconds=10)


@pytest.fixture(scope="module")
def realm() -> Iterator[Kdc]:
    """A KDC whose tickets live for seconds, and that forgives clocks nothing."""
    with Kdc(ticket_life=TICKET_LIFE, clock_skew=timedelta(seconds=1)) as kdc:
        kdc.add_principal(SERVICE_ACCOUNT)
        yield kdc


@pytest.fixture(scope="module")
def server(
    realm: Kdc, lab_certificate: ServerCertificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabSqlServer]:
    """A SQL Server double of that realm."""
    with sqlserver_double(realm, lab_certificate, tmp_path_factory.mktemp("realm"), data=()) as server:
        yield server


@dataclass
class Supplied:
    """A house whose tickets and secrets come from a vault, by a sidecar that the test starts."""

    house: House
    kdc: Kdc
    vault: FakeVault
    sidecar: Sidecar

    def audit(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of the audit log about one kind of event."""
        lines = [json.loads(line) for line in self.sidecar.audit.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def rotate_keytab(self) -> None:
        """Give the service account new keys, and the vault its keytab."""
        self.kdc.rotate(SERVICE_ACCOUNT)
        self.vault.rotate(KEYTAB, "keytab", keytab_of(self.kdc, SERVICE_ACCOUNT))

    def rotate_password(self) -> None:
        """Give the warehouse's role a new password, and tell the vault."""
        self.house.finance = self.house.finance.rotate()
        self.vault.rotate(PASSWORD, "password", self.house.finance.password)


@pytest.fixture
def supplied(
    realm: Kdc, server: LabSqlServer, lab_database: LabDatabase, lab_certificate: ServerCertificate, tmp_path: Path
) -> Iterator[Supplied]:
    """The vault has keytab and password; nobody has published anything yet."""
    certificate = lab_certificate
    with FakeVault(host="localhost", certificate=certificate.certificate, key=certificate.key) as vault:
        vault.add_secret(KEYTAB, {"keytab": keytab_of(realm, SERVICE_ACCOUNT)})
        vault.add_secret(PASSWORD, {"password": lab_database.password})
        sidecar = Sidecar(
            tmp_path,
            kdc=realm,
            principal=SERVICE_ACCOUNT,
            services=server.services,
            vault={
                "url": vault.url,
                "credentials": str(vault.credentials_folder(tmp_path / "bootstrap")),
                "ca_file": str(certificate.authority),
            },
            keytab=KEYTAB,
            secrets={"finance-db": PASSWORD},
            look_every=timedelta(seconds=1),
        )
        ccache = sidecar.tickets / SERVICE_ACCOUNT
        tickets = LabTickets(ccache, realm.full_name(SERVICE_ACCOUNT), tmp_path / "no-keytab", realm)
        environment = {
            "KRB5_CONFIG": str(realm.krb5_conf),
            "KRB5CCNAME": f"FILE:{ccache}",
            "DATAKIT_SECRETS": str(sidecar.secrets),
        }
        files = LabSecrets(sidecar.secrets)
        with furnished(tmp_path, server, lab_database, tickets, files, environment) as house:
            try:
                yield Supplied(house, realm, vault, sidecar)
            finally:
                sidecar.close()


def with_slow_slices(house: House) -> None:
    """Let a load take 18 seconds at least: two connections at a time read eleven slices, each with a pause."""
    house.datasets({"orders": DATASETS["orders"] | {"slices": {"column": "OrderID", "rows": 2_000}}})
    house.fill(20_900, start=101)
    house.server.fault("stall 3 after 1000 matching Customer always")


def test_a_run_that_starts_before_the_sidecar_waits_for_its_ticket_and_its_secret(supplied: Supplied) -> None:
    house = supplied.house
    run = house.begin(FINANCE, DATAKIT_CREDENTIALS_WAIT="10m")
    assert run.process.stderr
    lines = iter(run.process.stderr.readline, "")
    assert any("is not there; waiting for the sidecar, up to 600 s" in line for line in lines)
    supplied.sidecar.start()
    ended = run.end()
    assert 0 == ended.code, ended.err
    house.is_equal(FINANCE)


def test_a_vault_that_is_down_at_the_start_is_temporary_and_what_is_missing_is_named(supplied: Supplied) -> None:
    house = supplied.house
    supplied.vault.stop()
    supplied.sidecar.start(ready=False)
    ended = house.load(FINANCE, DATAKIT_CREDENTIALS_WAIT="1s")
    ended.is_refused("CredentialsNotReady", 75, str(supplied.sidecar.secrets / "finance-db/password"), "is not there")
    supplied.vault.start()
    ended = house.load(FINANCE, DATAKIT_CREDENTIALS_WAIT="1m")
    assert 0 == ended.code, ended.err
    house.is_equal(FINANCE)


def test_keytab_and_password_are_rotated_in_the_middle_of_a_run_and_no_query_fails(supplied: Supplied) -> None:
    house = supplied.house
    supplied.sidecar.start()
    run = run_two_datasets(house, DATAKIT_CREDENTIALS_WAIT="1m")
    supplied.rotate_keytab()
    supplied.rotate_password()
    ended = run.end()
    assert 0 == ended.code, ended.err
    is_complete(house)
    wait_until(lambda: bool(supplied.audit("key.rotated")))
    (rotated,) = supplied.audit("key.rotated")
    assert rotated["kvno"] > rotated["old_kvno"]
    assert 1 == len(supplied.audit("secret.rotated"))
    assert [] == supplied.audit("ticket.denied")
    house.fill(10, start=90_000)
    assert "loaded" == house.loaded(FINANCE)["status"]


@pytest.mark.slow
def test_a_run_that_outlives_its_ticket_opens_connections_after_it_and_loses_nothing(supplied: Supplied) -> None:
    house = supplied.house
    with_slow_slices(house)
    supplied.sidecar.start()
    run = house.begin(FINANCE)
    wait_until(lambda: is_staging(house), run)
    (first, *_) = supplied.audit("tickets.published")
    ended = run.end()
    assert 0 == ended.code, ended.err
    assert datetime.now(UTC).timestamp() > max(first["tickets"].values()) + TICKET_LIFE.total_seconds() / 2
    assert len(supplied.audit("tickets.published")) > 2
    assert "waiting" not in ended.err
    house.server.fault("clear")
    house.is_equal(FINANCE)


@pytest.mark.slow
def test_a_run_whose_tickets_nobody_renews_ends_as_temporary_and_its_retry_completes_it(supplied: Supplied) -> None:
    house = supplied.house
    with_slow_slices(house)
    supplied.sidecar.start()
    run = house.begin(FINANCE, run_id="long", DATAKIT_CREDENTIALS_WAIT="1s")
    wait_until(lambda: is_staging(house), run)
    supplied.sidecar.kill()
    run.end().is_refused("CredentialsNotReady", 75, str(house.tickets.ccache), "nobody renews")
    house.server.fault("clear")
    supplied.sidecar.start()
    assert "loaded" == house.loaded(FINANCE, run_id="long")["status"]
    house.is_equal(FINANCE)

"""The sidecar between the vault and a real Active Directory, which locks after three wrong tries."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

import pytest
from datakit.model.environment import SourceSystem
from datakit.model.manifest import Isolation
from datakit.sources.sqlserver import open_source
from datakit_lab.testing import LabSqlServer
from datakit_sidecar.testing import SidecarProcess
from datakit_vault.testing import FakeVault

from .accounts import Account, tickets
from .conftest import THRESHOLD
from .ingestion import Ingestion
from .watched import Watched, error, events, version


@pytest.fixture
def volume() -> Iterator[Path]:
    """An empty folder in memory."""
    folder = Path(tempfile.mkdtemp(prefix="datakit-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def watched(account: Account, tmp_path: Path, volume: Path) -> Iterator[Watched]:
    """A fresh account, for a service of its own."""
    service = f"MSSQLSvc/{account.name}.ad.lab.test:1433"
    account.domain.add_services(account.name, service)
    with FakeVault() as vault:
        watched = Watched(account, vault, tmp_path, volume, (service,))
        with watched.running:
            yield watched


@pytest.fixture
def watched_reader(reader: Account, sqlserver: LabSqlServer, tmp_path: Path, volume: Path) -> Iterator[Watched]:
    """The account that may read the double, for the double's services."""
    with FakeVault() as vault:
        watched = Watched(reader, vault, tmp_path, volume, sqlserver.services)
        with watched.running:
            yield watched


class Reader:
    """Connects again and again, and reads a table over each connection, while a context lasts."""

    def __init__(self, system: SourceSystem, folder: Path) -> None:
        self._system = system
        self._folder = folder
        self.reads = 0
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                source = open_source(self._system, isolation=Isolation.AUTO, where="a test", base=str(self._folder))
                source.close()
                self.reads += 1
            except Exception as failure:  # noqa: BLE001 - whatever it is, the test shows it
                self.failures.append(failure)
                return


def test_a_rotation_in_domain_and_vault_costs_one_read_no_wrong_try_and_no_query(
    watched_reader: Watched, sqlserver: LabSqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, account = watched_reader, watched_reader.account
    sidecar = watched.start()
    sidecar.wait_until_ready()
    before, lines = version(sidecar), len(sidecar.audit())
    assert account.domain.key_version(account.name) == before
    monkeypatch.setenv("DATAKIT_TICKETS", str(watched.tickets))
    wrong = watched.wrong_tries()
    system = SourceSystem(
        host=sqlserver.host,
        port=sqlserver.port,
        database=sqlserver.database,
        principal=account.principal,
        trust_server_certificate=True,
    )
    with Reader(system, watched.folder) as reader:
        sidecar.wait_until(lambda: reader.reads >= 3 or bool(reader.failures))
        after = watched.rotate()
        watched.rotate_in_vault()
        sidecar.wait_until(lambda: version(sidecar) == after)
        until = reader.reads + 3
        sidecar.wait_until(lambda: reader.reads >= until or bool(reader.failures))
    assert [] == reader.failures
    assert wrong == watched.wrong_tries()
    assert 0 == account.domain.bad_password_count(account.name)
    seen = events(sidecar, lines)
    assert (1, 1, 1) == (seen["vault.read"], seen["key.rotated"], seen["ticket.issued"]), seen
    (rotated,) = [line for line in sidecar.audit() if line["event"] == "key.rotated"]
    assert (before, after) == (rotated["old_kvno"], rotated["kvno"])


def test_the_repository_s_datakits_load_with_what_the_sidecar_publishes(
    watched_reader: Watched, sqlserver: LabSqlServer
) -> None:
    watched = watched_reader
    watched.start().wait_until_ready()
    ingestion = Ingestion.of(
        sqlserver,
        watched.folder,
        DATAKIT_TICKETS=str(watched.tickets),
        KRB5_CONFIG=str(watched.tickets / "krb5.conf"),
    )
    report = ingestion.loaded()
    assert report["rows_read"] == ingestion.rows() > 0
    published = tickets(watched.tickets / watched.account.name)
    assert set() == {service for service in published if service.startswith("krbtgt/")}


@pytest.mark.parametrize("kind", ["keytab", "password"])
def test_a_rotation_that_the_vault_does_not_know_of_costs_one_refused_try_however_often_it_is_restarted(
    watched: Watched, kind: str
) -> None:
    account = watched.account
    if kind == "password":
        watched.use_password()
    sidecar = watched.start()
    sidecar.wait_until_ready()
    watched.rotate()
    for refusal in ("KeyRefused", *["KeyRefusedBefore"] * THRESHOLD):
        sidecar.kill()
        sidecar.start()
        sidecar.wait_until(lambda: bool(error(sidecar)))
        sidecar.signal(signal.SIGUSR1)
        sidecar.signal(signal.SIGHUP)
        assert refusal == error(sidecar)["type"]
        assert not sidecar.is_ready()
    assert (1, 1) == (watched.wrong_tries(), account.domain.bad_password_count(account.name))
    watched.rotate_in_vault()
    sidecar.wait_until_ready()
    assert (1, 0) == (watched.wrong_tries(), account.domain.bad_password_count(account.name))
    assert (None if kind == "password" else account.domain.key_version(account.name)) == version(sidecar)


def test_while_a_ticket_renews_the_old_key_is_not_tried_at_all(watched: Watched) -> None:
    sidecar = watched.start()
    sidecar.wait_until_ready()
    watched.rotate()
    for count in range(1, THRESHOLD + 2):
        sidecar.signal(signal.SIGUSR1)
        sidecar.wait_until(partial(has, sidecar, "ticket.renewed", count))
    assert 0 == watched.wrong_tries()
    assert sidecar.is_ready()


def has(sidecar: SidecarProcess, event: str, count: int) -> bool:
    return events(sidecar)[event] >= count


def disable(account: Account) -> None:
    account.domain.disable(account.name)


def expire(account: Account) -> None:
    account.domain.expire(account.name, datetime.now(UTC) - timedelta(minutes=1))


def lock(account: Account) -> None:
    for _ in range(THRESHOLD):
        account.refusal(account.wrong_keytab())


def expire_password(account: Account) -> None:
    account.domain.expire_password(account.name)


def heal(account: Account) -> None:
    account.domain.enable(account.name)
    account.domain.expire(account.name, None)
    account.domain.unlock(account.name)


harms = pytest.mark.parametrize(
    ("harm", "kind", "words"),
    [
        pytest.param(disable, "AccountDisabled", "disabled, locked or expired", id="disabled"),
        pytest.param(expire, "AccountDisabled", "disabled, locked or expired", id="expired"),
        pytest.param(lock, "AccountDisabled", "disabled, locked or expired", id="locked"),
        pytest.param(expire_password, "PasswordExpired", "has expired", id="password expired"),
    ],
)
Harm = Callable[[Account], None]


@harms
def test_once_ends_with_what_is_wrong_with_the_account_and_what_to_look_at(
    watched: Watched, harm: Harm, kind: str, words: str
) -> None:
    harm(watched.account)
    code, said = watched.refused()
    assert (77, kind) == (code, said["type"])
    assert watched.account.name in said["what"]
    assert words in said["what"]
    assert said["fix"]


@harms
def test_an_account_that_is_refused_keeps_the_tickets_it_has_and_the_sidecar_goes_on_when_it_is_healed(
    watched: Watched, harm: Harm, kind: str, words: str
) -> None:
    account = watched.account
    sidecar = watched.start()
    sidecar.wait_until_ready()
    harm(account)
    wrong = watched.wrong_tries()
    for _ in range(THRESHOLD):
        denied = events(sidecar)["ticket.denied"]
        sidecar.signal(signal.SIGUSR1)
        sidecar.wait_until(partial(has, sidecar, "ticket.denied", denied + 1))
    sidecar.wait_until(lambda: error(sidecar).get("type") == kind)
    assert words in error(sidecar)["what"]
    assert sidecar.is_ready()
    assert {f"{watched.services[0]}@{account.domain.realm}"} <= tickets(watched.tickets / account.name)
    assert wrong == watched.wrong_tries()
    heal(account)
    if harm is expire_password:
        watched.rotate()
        watched.rotate_in_vault()
    sidecar.signal(signal.SIGUSR1)
    sidecar.wait_until(lambda: not error(sidecar))
    assert 0 == account.domain.bad_password_count(account.name)
    assert sidecar.is_ready()


def test_a_key_derived_from_the_password_follows_a_rotation(watched: Watched) -> None:
    watched.use_password()
    sidecar = watched.start()
    sidecar.wait_until_ready()
    watched.rotate()
    watched.rotate_in_vault()
    sidecar.wait_until(partial(has, sidecar, "key.rotated", 1))
    assert sidecar.is_ready()
    assert 0 == watched.wrong_tries()


def test_a_service_name_that_no_account_holds_is_named_and_the_others_are_published(watched: Watched) -> None:
    missing = "MSSQLSvc/nowhere.ad.lab.test:1433"
    watched.configuration["principals"][0]["services"].append(missing)
    sidecar = watched.start()
    sidecar.wait_until(lambda: error(sidecar).get("type") == "ServiceUnknown")
    assert missing in error(sidecar)["what"]
    assert "setspn" in error(sidecar)["fix"]
    sidecar.wait_until((watched.tickets / watched.account.name).exists)
    assert not sidecar.is_ready()


def test_each_new_volume_costs_one_try_of_a_key_that_the_domain_no_longer_takes(watched: Watched) -> None:
    watched.rotate()
    for pod in (1, 2):
        watched.use_volume(f"pod-{pod}")
        for kind in ("KeyRefused", "KeyRefusedBefore", "KeyRefusedBefore"):
            code, said = watched.refused()
            assert (77, kind) == (code, said["type"])
        assert pod == watched.wrong_tries()


def test_the_doctor_tries_a_refused_key_once_however_often_it_is_asked(watched: Watched) -> None:
    assert 0 == watched.command("doctor").returncode
    watched.rotate()
    for _ in range(THRESHOLD + 1):
        assert 0 != watched.command("doctor").returncode
    assert not watched.account.domain.is_locked(watched.account.name)
    assert 1 == watched.wrong_tries()
    watched.rotate_in_vault()
    assert 0 == watched.command("doctor").returncode


def test_a_key_that_arrives_while_the_domain_refuses_the_former_one_is_not_taken_for_refused(watched: Watched) -> None:
    account = watched.account
    sidecar = watched.start()
    sidecar.wait_until_ready()
    watched.rotate()
    sidecar.kill()
    with account.domain.silent():
        sidecar.start()
        sidecar.wait_until(lambda: events(sidecar)["key.fetched"] == 2)
        watched.rotate_in_vault()
        sidecar.wait_until(lambda: events(sidecar)["key.fetched"] == 3)
    sidecar.wait_until_ready()
    assert account.domain.key_version(account.name) == version(sidecar)


def test_a_key_that_arrives_while_a_ticket_is_renewed_is_used_at_once(watched: Watched) -> None:
    account = watched.account
    sidecar = watched.start()
    sidecar.wait_until_ready()
    watched.rotate()
    with account.domain.silent():
        sidecar.signal(signal.SIGUSR1)
        sidecar.wait_until(partial(has, sidecar, "vault.read", 2))
        watched.rotate_in_vault()
        sidecar.wait_until(partial(has, sidecar, "key.fetched", 2))
    sidecar.wait_until(lambda: version(sidecar) == account.domain.key_version(account.name))
    assert 0 == watched.wrong_tries()

"""A run that starts before its ticket, or needs a new one, waits; what waiting cannot cure is said at once."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from datakit.credentials.tickets import cache_name, usable_ticket
from datakit.errors import (
    ConfigurationError,
    CredentialsNotReady,
    DatakitError,
    TicketCorrupt,
    TicketExpired,
    TicketMissing,
    WrongPrincipal,
)
from datakit_lab.kdc import Kdc
from datakit_lab.testing import LabTickets

from .caches import cache, written

HOUR = timedelta(hours=1)
SQL = "MSSQLSvc/sql.lab.test:1433"
SVC = "svc@LAB.TEST"


class Untouchable(dict[str, str]):
    """An environment that nobody may write."""

    def __setitem__(self, name: str, value: str) -> None:
        raise AssertionError(f"{name} was set to {value}")


@pytest.fixture(autouse=True)
def _no_ambient_kerberos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datakit.credentials.tickets._DEFAULT_FOLDER", tmp_path / "nowhere")
    for name in ("KRB5CCNAME", "KRB5_CLIENT_KTNAME", "DATAKIT_TICKETS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "1h")  # a test that waits for nothing hits pytest's own limit


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``KRB5CCNAME`` says that the tickets are; nothing is there yet."""
    path = tmp_path / "tickets" / "svc"
    path.parent.mkdir()
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{path}")
    return path


def alive(*, client: str = "svc", service: str = SQL) -> bytes:
    now = datetime.now(UTC)
    return cache([(service, now - HOUR, now + HOUR)], client=client)


def ended() -> bytes:
    now = datetime.now(UTC)
    return cache([(SQL, now - 2 * HOUR, now - HOUR)])


def use(principal: str | None = SVC) -> None:
    with usable_ticket(principal, [SQL]):
        pass


@pytest.fixture
def waiting(caplog: pytest.LogCaptureFixture) -> Iterator[ThreadPoolExecutor]:
    caplog.set_level(logging.INFO, "datakit.credentials")
    with ThreadPoolExecutor() as pool:
        yield pool


def until_told(caplog: pytest.LogCaptureFixture, text: str) -> None:
    for _ in range(3000):
        if any(text in record.getMessage() for record in caplog.records):
            return
        time.sleep(0.01)
    pytest.fail(f"nobody said {text!r}: {caplog.text}")


@pytest.mark.parametrize(
    ("before", "says"),
    [
        (None, "there is no Kerberos credential cache"),
        (b"", "is empty"),
        (alive()[:-20], "not a whole credential cache"),
        (cache([]), "holds no ticket"),
        (alive(service="postgres/db.lab.test"), f"there is no ticket for {SQL}"),
        (ended(), "has expired"),
    ],
    ids=["missing", "empty", "cut off", "without tickets", "another service", "expired"],
)
def test_what_the_sidecar_may_still_put_right_is_waited_for(
    path: Path, before: bytes | None, says: str, waiting: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    if before is not None:
        written(path, before)
    run = waiting.submit(use)
    until_told(caplog, says)
    assert "waiting for the sidecar, up to 3600 s" in caplog.text
    assert str(path) in caplog.text
    assert not run.done()
    written(path, alive())
    run.result(60)
    assert f"{path}: it came after" in caplog.text


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (alive(client="other"), WrongPrincipal),
        (b"BZh91AY", TicketCorrupt),
    ],
    ids=["another principal", "another kind of file"],
)
def test_what_waiting_cannot_cure_is_said_at_once(path: Path, before: bytes, kind: type[DatakitError]) -> None:
    written(path, before)
    with pytest.raises(kind):
        use()


def test_a_ticket_that_does_not_come_in_time_is_temporary_and_names_cache_cause_and_next_step(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "100ms")
    (path.parent / "svc-other").touch()
    with pytest.raises(CredentialsNotReady) as caught:
        use()
    assert (75, True) == (caught.value.exit_code, caught.value.retryable)
    for text in (str(path), "there is no Kerberos credential cache", "holds svc-other", "/readyz"):
        assert text in str(caught.value)


def test_a_ticket_that_the_sidecar_was_not_told_of_is_denied_after_the_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "100ms")
    written(path, alive(service="postgres/db.lab.test"))
    with pytest.raises(TicketMissing, match="add this service name to the sidecar"):
        use()


def test_without_a_wait_the_first_look_decides(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "0s")
    with pytest.raises(TicketMissing, match="there is no Kerberos credential cache"):
        use()
    written(path, ended())
    with pytest.raises(TicketExpired):
        use()


def test_nobody_publishes_at_libkrb5s_default_so_nobody_waits_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "krb5.conf"
    conf.write_text(f"[libdefaults]\n default_ccache_name = FILE:{tmp_path}/cc\n")
    monkeypatch.setenv("KRB5_CONFIG", str(conf))
    with pytest.raises(TicketMissing, match=f"{tmp_path}/cc"):
        use()


def test_a_wait_ends_when_it_is_told_to(
    path: Path, waiting: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()

    def work() -> None:
        with usable_ticket(SVC, [SQL], stop=stop):
            pass

    run = waiting.submit(work)
    until_told(caplog, "waiting for the sidecar")
    stop.set()
    assert isinstance(run.exception(60), CredentialsNotReady)
    assert not path.exists()


@pytest.mark.parametrize("text", ["soon", "-1s", "5", "1e9h", "9999999999999d"])
def test_a_wait_that_is_no_duration_is_refused(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", text)
    with pytest.raises(ConfigurationError, match="DATAKIT_CREDENTIALS_WAIT"):
        use()


def test_the_folder_of_tickets_wins_over_a_variable_that_somebody_overwrote(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, alive(client="airflow"))
    folder = tmp_path / "published"
    folder.mkdir()
    written(folder / "svc", alive())
    monkeypatch.setenv("DATAKIT_TICKETS", str(folder))
    with usable_ticket(SVC, [SQL]):
        assert f"FILE:{folder}/svc" == os.environ["KRB5CCNAME"]
    assert f"FILE:{path}" == cache_name(None)
    written(path, alive())
    monkeypatch.delenv("DATAKIT_TICKETS")
    with usable_ticket(SVC, [SQL]):
        assert f"FILE:{path}" == os.environ["KRB5CCNAME"]


def test_a_service_that_acts_as_a_client_has_its_cache_under_a_name_without_slashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATAKIT_TICKETS", "/run/tickets")
    assert "FILE:/run/tickets/etl_host.lab.test" == cache_name("etl/host.lab.test@LAB.TEST")


def test_without_any_variable_the_sidecars_own_folder_is_looked_at_where_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datakit.credentials.tickets._DEFAULT_FOLDER", tmp_path)
    written(tmp_path / "svc", alive())
    with usable_ticket(SVC, [SQL]):
        assert f"FILE:{tmp_path}/svc" == os.environ["KRB5CCNAME"]
    written(tmp_path / "other", alive(client="other"))
    with usable_ticket("other@LAB.TEST", [SQL]):
        assert f"FILE:{tmp_path}/other" == os.environ["KRB5CCNAME"]


def test_a_variable_that_is_right_is_not_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, alive())
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", Untouchable(os.environ))
        with usable_ticket(SVC, [SQL]):
            assert f"FILE:{path}" == os.environ["KRB5CCNAME"]


def test_threads_with_different_principals_each_find_their_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_TICKETS", str(tmp_path))
    for name in ("a", "b"):
        written(tmp_path / name, alive(client=name))

    def connect(name: str) -> set[str]:
        seen = set()
        for _ in range(200):
            with usable_ticket(f"{name}@LAB.TEST", [SQL]):
                seen |= {os.environ["KRB5CCNAME"]}
                time.sleep(0)
                seen |= {os.environ["KRB5CCNAME"]}
        return seen

    names = ["a", "b"] * 3
    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(connect, names))
    assert [{f"FILE:{tmp_path}/{name}"} for name in names] == found


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another connection that hangs, with tickets of its own."""
    monkeypatch.setenv("DATAKIT_TICKETS", str(tmp_path))
    for name in ("a", "b"):
        written(tmp_path / name, alive(client=name))
    with usable_ticket("a@LAB.TEST", [SQL]):
        yield


@pytest.mark.usefixtures("another")
def test_a_wait_for_another_connection_ends_when_it_is_told_to(waiting: ThreadPoolExecutor) -> None:
    stop = threading.Event()

    def work() -> None:
        with usable_ticket("b@LAB.TEST", [SQL], stop=stop):
            pass

    run = waiting.submit(work)
    time.sleep(0.1)
    assert not run.done()
    stop.set()
    assert isinstance(run.exception(60), CredentialsNotReady)


@pytest.mark.usefixtures("another")
def test_another_connection_that_hangs_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "0s")
    monkeypatch.setattr("datakit.credentials.tickets.DEFAULT_SECONDS", 0.2)
    with pytest.raises(CredentialsNotReady, match=f"other tickets .*{tmp_path}/a") as caught:
        use("b@LAB.TEST")
    assert f"FILE:{tmp_path}/b" == caught.value.subject


def test_threads_with_one_principal_do_not_wait_for_one_another(path: Path) -> None:
    written(path, alive())
    together = threading.Barrier(4)

    def connect() -> None:
        with usable_ticket(SVC, [SQL]):
            together.wait(60)

    with ThreadPoolExecutor(4) as pool:
        for run in [pool.submit(connect) for _ in range(4)]:
            run.result(60)


def test_a_real_ticket_that_is_published_late_is_found(
    lab_kdc: Kdc,
    lab_tickets: LabTickets,
    waiting: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{lab_tickets.ccache}")
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "1h")
    lab_tickets.ccache.unlink()
    run = waiting.submit(use, lab_tickets.principal)
    until_told(caplog, "waiting for the sidecar")
    lab_tickets.renew()
    run.result(60)

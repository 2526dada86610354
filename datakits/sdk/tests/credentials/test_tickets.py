"""What is said about a credential cache before anybody connects. The caches are made by a real KDC where it matters."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from datakit.credentials.tickets import check_ticket, describe_ticket
from datakit.errors import (
    TicketCorrupt,
    TicketError,
    TicketExpired,
    TicketMissing,
    TicketUnreadable,
    WrongPrincipal,
)
from datakit_lab.testing import LabTickets

from .caches import cache, written

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SQL = "MSSQLSvc/sql.lab.test:1433"


@pytest.fixture(autouse=True)
def _no_ambient_kerberos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KRB5CCNAME", raising=False)
    monkeypatch.delenv("KRB5_CLIENT_KTNAME", raising=False)


HOUR = timedelta(hours=1)


@pytest.mark.parametrize("version", [3, 4])
def test_a_cache_names_principal_services_and_the_end_of_each(tmp_path: Path, version: int) -> None:
    data = cache(
        [
            ("krbtgt/LAB.TEST", NOW - HOUR, NOW + HOUR),
            ("krb5_ccache_conf_data/pa_type/krbtgt", NOW, NOW + 99 * HOUR),
            ("removed/host", NOW - HOUR, None),
            (SQL, NOW - HOUR, NOW + 2 * HOUR),
        ],
        version=version,
    )
    found = describe_ticket(written(tmp_path / "cc", data))
    assert found is not None
    assert found.principal == "svc@LAB.TEST"
    assert [ticket.service for ticket in found.tickets] == ["krbtgt/LAB.TEST@LAB.TEST", f"{SQL}@LAB.TEST"]
    assert found.seconds_left(NOW) == 7200
    assert found.tickets[1].ends == NOW + 2 * HOUR


def test_every_truncation_of_a_cache_is_corrupt_or_shorter_but_never_a_crash(tmp_path: Path) -> None:
    data = cache([("krbtgt/LAB.TEST", NOW - HOUR, NOW + HOUR), (SQL, NOW - HOUR, NOW + HOUR)])
    whole = 0
    for length in range(1, len(data)):
        name = written(tmp_path / "cc", data[:length])
        with contextlib.suppress(TicketCorrupt):
            describe_ticket(name)
            whole += 1
    assert whole == 2  # cut exactly before the first and before the second entry


@pytest.mark.parametrize("data", [b"garbage", b"\x05\x04" + b"\xff" * 64, b"BZh91AY", b"\x05\x01\0\0", os.urandom(999)])
def test_garbage_is_named_as_corrupt(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(TicketCorrupt, match="not a whole credential cache"):
        check_ticket(None, name=written(tmp_path / "cc", data))


def test_an_empty_file_is_named_as_empty(tmp_path: Path) -> None:
    with pytest.raises(TicketCorrupt, match="is empty"):
        check_ticket(None, name=written(tmp_path / "cc", b""))


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TicketCorrupt, match="is a folder"):
        check_ticket(None, name=f"FILE:{tmp_path}")


def test_a_missing_cache_names_the_path_and_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/nowhere")
    with pytest.raises(TicketMissing) as caught:
        check_ticket(None)
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "kinit" in str(caught.value)


def test_without_the_variable_the_default_of_krb5_conf_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "krb5.conf"
    conf.write_text(f"[libdefaults]\n  default_ccache_name = FILE:{tmp_path}/cc_%{{uid}}\n")
    monkeypatch.setenv("KRB5_CONFIG", f"{tmp_path}/missing:{conf}")
    with pytest.raises(TicketMissing, match=f"cc_{os.geteuid()}"):
        check_ticket(None)


def test_when_all_tickets_have_expired_the_last_end_is_told_in_utc(tmp_path: Path) -> None:
    data = cache([("krbtgt/LAB.TEST", NOW - 3 * HOUR, NOW - 2 * HOUR), (SQL, NOW - 3 * HOUR, NOW - HOUR)])
    with pytest.raises(TicketExpired) as caught:
        check_ticket(None, [SQL], name=written(tmp_path / "cc", data), now=NOW)
    assert "2026-03-01 11:00:00 UTC" in str(caught.value)
    assert "2026-03-01 12:00:00 UTC" in str(caught.value)


def test_a_ticket_that_would_end_while_the_driver_connects_is_too_old(tmp_path: Path) -> None:
    soon = NOW + timedelta(seconds=1.9)
    name = written(tmp_path / "cc", cache([(SQL, NOW - HOUR, soon)]))
    with pytest.raises(TicketExpired, match="ends within 2 s"):
        check_ticket(None, [SQL], name=name, now=NOW)
    name = written(tmp_path / "cc", cache([(SQL, NOW - HOUR, soon), ("postgres/db.lab.test", NOW - HOUR, NOW + HOUR)]))
    with pytest.raises(TicketExpired, match=r"sql\.lab\.test.*ends within 2 s"):
        check_ticket(None, [SQL], name=name, now=NOW)
    check_ticket(None, [SQL], name=name, now=NOW - timedelta(seconds=2))


def test_an_expired_granting_ticket_does_not_matter_while_the_service_ticket_lives(tmp_path: Path) -> None:
    data = cache([("krbtgt/LAB.TEST", NOW - 3 * HOUR, NOW - HOUR), (SQL, NOW - 3 * HOUR, NOW + HOUR)])
    assert check_ticket("svc@LAB.TEST", [SQL], name=written(tmp_path / "cc", data), now=NOW) is not None


def test_a_living_ticket_for_another_service_does_not_hide_the_expired_one(tmp_path: Path) -> None:
    data = cache([(SQL, NOW - 3 * HOUR, NOW - HOUR), ("postgres/db.lab.test", NOW - HOUR, NOW + HOUR)])
    with pytest.raises(TicketExpired, match=SQL):
        check_ticket(None, [SQL], name=written(tmp_path / "cc", data), now=NOW)


def test_a_cache_without_ticket_for_the_service_names_what_it_holds(tmp_path: Path) -> None:
    data = cache([("postgres/db.lab.test", NOW - HOUR, NOW + HOUR)])
    with pytest.raises(TicketMissing) as caught:
        check_ticket(None, [SQL], name=written(tmp_path / "cc", data), now=NOW)
    assert SQL in str(caught.value)
    assert "postgres/db.lab.test@LAB.TEST" in str(caught.value)


def test_a_service_name_in_other_case_is_told(tmp_path: Path) -> None:
    data = cache([("MSSQLSvc/SQL.lab.test:1433", NOW - HOUR, NOW + HOUR)])
    with pytest.raises(TicketMissing, match="upper and lower case"):
        check_ticket(None, [SQL], name=written(tmp_path / "cc", data), now=NOW)


def test_an_initialised_cache_without_tickets_is_missing_them(tmp_path: Path) -> None:
    with pytest.raises(TicketMissing, match="holds no ticket"):
        check_ticket(None, name=written(tmp_path / "cc", cache([])), now=NOW)


def test_a_ticket_from_the_future_points_at_the_clock(tmp_path: Path) -> None:
    data = cache([("krbtgt/LAB.TEST", NOW + HOUR, NOW + 9 * HOUR)])
    with pytest.raises(TicketError, match="clock is behind"):
        check_ticket(None, name=written(tmp_path / "cc", data), now=NOW)


def test_the_wrong_principal_names_both(tmp_path: Path) -> None:
    data = cache([("krbtgt/LAB.TEST", NOW - HOUR, NOW + HOUR)])
    with pytest.raises(WrongPrincipal, match=r"svc@LAB\.TEST, not to other@LAB\.TEST"):
        check_ticket("other@LAB.TEST", name=written(tmp_path / "cc", data), now=NOW)


def test_a_dir_cache_is_read_through_its_primary(tmp_path: Path) -> None:
    data = cache([("krbtgt/LAB.TEST", NOW - HOUR, NOW + HOUR)])
    (tmp_path / "tktabc").write_bytes(data)
    (tmp_path / "primary").write_text("tktabc\n")
    for name in (f"DIR:{tmp_path}", f"DIR::{tmp_path}/tktabc"):
        found = describe_ticket(name)
        assert found is not None
        assert found.path == str(tmp_path / "tktabc")


@pytest.mark.parametrize("kind", ["KEYRING", "KCM"])
def test_caches_of_the_kernel_or_a_daemon_are_refused_in_a_container(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datakit.credentials._ccache._CONTAINER_MARKS", (tmp_path,))
    with pytest.raises(TicketMissing, match="container"):
        check_ticket(None, name=f"{kind}:1000")
    monkeypatch.setattr("datakit.credentials._ccache._CONTAINER_MARKS", ())
    assert check_ticket(None, name=f"{kind}:1000") is None


def test_a_memory_cache_of_another_process_is_explained() -> None:
    with pytest.raises(TicketMissing, match="begins empty in every process"):
        check_ticket(None, name="MEMORY:x")


def test_a_client_keytab_fills_the_cache_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5_CLIENT_KTNAME", str(tmp_path / "keytab"))
    assert check_ticket(None, name=f"FILE:{tmp_path}/not-yet") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unreadable_cache_names_uid_owner_and_mode(tmp_path: Path) -> None:
    folder = Path("/tmp", f"datakit-{os.getpid()}-{tmp_path.name}")
    folder.mkdir(mode=0o755)
    path = folder / "cc"
    path.write_bytes(cache([("krbtgt/LAB.TEST", NOW - HOUR, NOW + HOUR)]))
    path.chmod(0o600)
    child = os.fork()
    if child == 0:  # the interpreter of a virtual environment under /root cannot be started by another user
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            check_ticket(None, name=f"FILE:{path}")
        except TicketUnreadable as error:
            text = str(error)
            os._exit(0 if "uid 65534" in text and "uid 0" in text and "0600" in text and str(path) in text else 3)
        os._exit(4)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    path.unlink()
    folder.rmdir()
    assert status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", [None, "DIR:{}"])
def test_a_folder_of_tickets_that_may_not_be_entered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    closed = Path("/tmp", f"datakit-{os.getpid()}-{tmp_path.name}")
    (closed / "tickets").mkdir(parents=True)
    closed.chmod(0o700)
    monkeypatch.setattr("datakit.credentials.tickets._DEFAULT_FOLDER", closed / "tickets")
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            check_ticket("svc@LAB.TEST", name=name and name.format(closed / "tickets"))
        except TicketUnreadable as error:
            os._exit(0 if "uid 65534" in str(error) and str(closed) in str(error) else 3)
        os._exit(4)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    (closed / "tickets").rmdir()
    closed.rmdir()
    assert status == 0


def test_reading_tickets_imports_no_kerberos_library() -> None:
    code = "import sys, json, datakit.credentials.tickets; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"krb5", "gssapi", "pyarrow", "mssql_python"} & set(json.loads(done.stdout))


def test_a_real_cache_reads_as_klist_shows_it(lab_tickets: LabTickets) -> None:
    found = describe_ticket(f"FILE:{lab_tickets.ccache}")
    assert found is not None
    shown = subprocess.run(["klist", "-c", str(lab_tickets.ccache)], capture_output=True, text=True, check=True).stdout
    assert f"Default principal: {found.principal}\n" in shown
    assert all(ticket.service in shown for ticket in found.tickets)
    assert [ticket.is_granting for ticket in found.tickets] == [True]
    assert 0 < found.seconds_left() <= lab_tickets.kdc.ticket_life.total_seconds() + 1
    check_ticket(found.principal, [SQL], name=str(lab_tickets.ccache))

"""The KDC as clients and outages see it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gssapi
import krb5
import pytest
from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.kdc import Kdc
from gssapi.raw import GSSError

SERVICE = "MSSQLSvc/localhost:1433"
REVOKED, PREAUTH_FAILED, UNREACHABLE, UNKNOWN_SERVICE = -1765328366, -1765328360, -1765328228, -1765328377


@pytest.fixture(scope="module")
def kdc() -> Iterator[Kdc]:
    with Kdc() as realm:
        realm.add_principal(SERVICE)
        realm.add_principal("HTTP/other.lab.test")
        realm.keytab(realm.directory / "service.keytab", SERVICE)
        yield realm


@pytest.fixture
def user(kdc: Kdc, tmp_path: Path) -> tuple[str, Path]:
    """A fresh user and its keytab."""
    name = kdc.add_principal(f"user-{os.urandom(4).hex()}")
    return name, kdc.keytab(tmp_path / "user.keytab", name)


def initiate(kdc: Kdc, ccache: Path, service: str) -> bytes:
    """Return the token a client sends to ``service`` with the tickets in ``ccache``."""
    with kdc.configured(ccache):
        credentials = gssapi.Credentials(usage="initiate", store={"ccache": f"FILE:{ccache}"})
        name = gssapi.Name(f"{service}@{kdc.realm}", gssapi.NameType.kerberos_principal)
        token = gssapi.SecurityContext(name=name, creds=credentials, usage="initiate").step()
    assert isinstance(token, bytes)
    return token


def test_a_ticket_opens_a_service_that_holds_the_keytab(kdc: Kdc, user: tuple[str, Path], tmp_path: Path) -> None:
    kdc.kinit(*user, tmp_path / "ccache")
    token = initiate(kdc, tmp_path / "ccache", SERVICE)
    with kdc.configured():
        acceptor = gssapi.SecurityContext(
            creds=gssapi.Credentials(usage="accept", store={"keytab": str(kdc.directory / "service.keytab")})
        )
        acceptor.step(token)
        assert user[0] == str(acceptor.initiator_name)


def test_a_cache_of_service_tickets_opens_that_service_and_no_other(
    kdc: Kdc, user: tuple[str, Path], tmp_path: Path
) -> None:
    kdc.service_tickets(*user, tmp_path / "ccache", SERVICE)
    assert initiate(kdc, tmp_path / "ccache", SERVICE)
    with pytest.raises(GSSError, match="Matching credential not found"):
        initiate(kdc, tmp_path / "ccache", "HTTP/other.lab.test")


def test_a_ticket_for_an_unknown_service_is_refused(kdc: Kdc, user: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(krb5.Krb5Error) as refusal:
        kdc.service_tickets(*user, tmp_path / "ccache", "MSSQLSvc/unknown:1433")
    assert refusal.value.err_code == UNKNOWN_SERVICE
    assert not (tmp_path / "ccache").exists()


def test_tickets_live_as_long_as_the_realm_says(tmp_path: Path) -> None:
    with Kdc(ticket_life=timedelta(seconds=7), clock_skew=timedelta(seconds=1)) as kdc:
        kdc.add_principal("svc")
        keytab = kdc.keytab(tmp_path / "svc.keytab", "svc")
        left = kdc.kinit("svc", keytab, tmp_path / "ccache", life=timedelta(hours=1)) - datetime.now(UTC)
        assert timedelta(seconds=0) < left <= timedelta(seconds=7)


def test_a_rotated_key_ends_the_old_keytab_and_a_new_one_works(
    kdc: Kdc, user: tuple[str, Path], tmp_path: Path
) -> None:
    kdc.rotate(user[0])
    with pytest.raises(krb5.Krb5Error) as refusal:
        kdc.kinit(*user, tmp_path / "ccache")
    assert refusal.value.err_code == PREAUTH_FAILED
    kdc.keytab(user[1], user[0])
    kdc.kinit(*user, tmp_path / "ccache")


def test_a_locked_account_gets_no_ticket_until_it_is_unlocked(kdc: Kdc, user: tuple[str, Path], tmp_path: Path) -> None:
    kdc.lock(user[0])
    with pytest.raises(krb5.Krb5Error) as refusal:
        kdc.kinit(*user, tmp_path / "ccache")
    assert refusal.value.err_code == REVOKED
    kdc.unlock(user[0])
    kdc.kinit(*user, tmp_path / "ccache")


def test_wrong_tries_lock_the_account_even_for_the_new_key(kdc: Kdc, user: tuple[str, Path], tmp_path: Path) -> None:
    kdc.lock_after(user[0], 2)
    kdc.rotate(user[0])
    codes = []
    for _ in range(3):
        with pytest.raises(krb5.Krb5Error) as refusal:
            kdc.kinit(*user, tmp_path / "ccache")
        codes.append(refusal.value.err_code)
    assert codes == [PREAUTH_FAILED, PREAUTH_FAILED, REVOKED]
    kdc.keytab(user[1], user[0])
    with pytest.raises(krb5.Krb5Error):
        kdc.kinit(*user, tmp_path / "ccache")
    kdc.unlock(user[0])
    kdc.kinit(*user, tmp_path / "ccache")


def test_after_an_outage_it_answers_on_the_same_port_with_the_same_keys(tmp_path: Path) -> None:
    with Kdc() as kdc:
        kdc.add_principal("svc")
        keytab = kdc.keytab(tmp_path / "svc.keytab", "svc")
        port = kdc.port
        kdc.stop()
        with pytest.raises(krb5.Krb5Error) as refusal:
            kdc.kinit("svc", keytab, tmp_path / "ccache")
        assert refusal.value.err_code == UNREACHABLE
        kdc.start()
        kdc.kinit("svc", keytab, tmp_path / "ccache")
        assert port == kdc.port


def test_a_silent_kdc_keeps_clients_waiting_and_answers_when_it_is_back(
    kdc: Kdc, user: tuple[str, Path], tmp_path: Path
) -> None:
    client = threading.Thread(target=kdc.kinit, args=(*user, tmp_path / "ccache"))
    with kdc.silent():
        client.start()
        client.join(0.3)
        assert client.is_alive()
    client.join()
    assert (tmp_path / "ccache").exists()


def test_readers_never_see_a_cache_without_a_ticket_while_it_is_replaced(
    kdc: Kdc, user: tuple[str, Path], tmp_path: Path
) -> None:
    ccache = tmp_path / "ccache"
    kdc.kinit(*user, ccache)
    done = threading.Event()
    found: list[int] = []

    def read() -> None:
        context = krb5.init_context()
        while not done.is_set():
            found.append(len([c for c in krb5.cc_resolve(context, f"FILE:{ccache}".encode()) if c.ticket]))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(200):
        kdc.kinit(*user, ccache)
    done.set()
    reader.join()
    assert len(found) > 50
    assert 0 not in found
    assert ccache.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ccache", "user.keytab"]


def test_a_password_with_any_characters_works_and_is_in_no_argument_list(kdc: Kdc, tmp_path: Path) -> None:
    password = "p'ä \"ß\\$(x)"
    name = kdc.add_principal(f"person-{os.urandom(4).hex()}", password)
    with kdc.configured():
        context = krb5.init_context()
    client = krb5.parse_name_flags(context, name.encode())
    ticket = krb5.get_init_creds_password(
        context, client, krb5.get_init_creds_opt_alloc(context), password=password.encode()
    )
    assert ticket.ticket


def test_a_principal_that_exists_is_not_created_again(kdc: Kdc) -> None:
    with pytest.raises(LabError, match="already exists"):
        kdc.add_principal(SERVICE)


def test_a_taken_port_is_an_error_and_leaves_no_process(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        kdc = Kdc(tmp_path / "kdc", port=taken.getsockname()[1])
        with pytest.raises(LabUnavailable, match=r"ended at once.*Address already in use"):
            kdc.start()
    assert not kdc.running


def test_it_dies_with_a_parent_that_is_killed() -> None:
    program = textwrap.dedent("""
        from datakit_lab.kdc import Kdc
        kdc = Kdc()
        kdc.start()
        print(kdc.pid, kdc.directory, flush=True)
        input()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        assert "krb5kdc" in Path(f"/proc/{pid}/cmdline").read_text()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    try:
        for _ in range(1000):
            if not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text():
                break
            time.sleep(0.01)
        else:
            pytest.fail("the KDC outlived its parent")
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)


def test_closing_removes_its_own_directory_and_keeps_a_given_one(tmp_path: Path) -> None:
    with Kdc() as own:
        pass
    with Kdc(tmp_path / "kdc") as given:
        pass
    assert not own.directory.exists()
    assert given.krb5_conf.exists()

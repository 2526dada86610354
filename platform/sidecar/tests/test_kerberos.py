"""What libkrb5 and real KDCs answer, and what is made of it."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import krb5
import pytest
from datakit_lab.kdc import Kdc
from datakit_sidecar import krb5conf
from datakit_sidecar._verdicts import Asked, verdict
from datakit_sidecar.errors import (
    AccountDisabled,
    ClockSkew,
    EnctypeRefused,
    InvalidSettings,
    KdcSilent,
    KdcUnreachable,
    KerberosFailed,
    KeyRefused,
    PasswordExpired,
    PrincipalUnknown,
    RealmUnknown,
    ServiceUnknown,
    SidecarError,
    TicketEnded,
)
from datakit_sidecar.kdc_calls import KdcCalls, Outcome
from datakit_sidecar.kerberos import Realm, Ticket
from datakit_sidecar.keytab import Password, key_of_keytab
from datakit_sidecar.settings import KerberosSettings
from datakit_vault import Secret

SVC = "svc-datakit@LAB.TEST"
SERVICE = "MSSQLSvc/sql01.lab.test:1433"


class Client:
    """A realm as the sidecar sees it, in this process."""

    def __init__(self, kdc: Kdc, folder: Path, **options: Any) -> None:
        self.kdc = kdc
        self.folder = folder
        defaults: dict[str, Any] = {"realm": kdc.realm, "kdcs": {kdc.realm: (f"127.0.0.1:{kdc.port}",)}, "domains": {}}
        self.settings = KerberosSettings(**defaults | options)
        krb5conf.install(self.settings)
        self.realm = Realm(self.settings)
        self.context = krb5.init_context()

    def key(self, principal: str = SVC) -> Any:
        data = self.kdc.keytab(self.folder / "keytab", principal).read_bytes()
        return key_of_keytab(principal, Secret(data), self.realm.enctypes)

    def ticket(self) -> Ticket:
        return self.realm.first_ticket(self.context, self.key())


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KRB5_CONFIG", "KRB5CCNAME", "KRB5_KTNAME", "KRB5_CLIENT_KTNAME", "KRB5_TRACE", "KRB5_KDC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KRB5_CONFIG", "/nowhere")  # restored afterwards, whatever the code under test sets


@pytest.fixture(scope="module")
def kdc() -> Iterator[Kdc]:
    with Kdc() as running:
        running.add_principal("svc-datakit")
        running.add_principal(SERVICE)
        yield running


@pytest.fixture
def client(kdc: Kdc, tmp_path: Path) -> Client:
    return Client(kdc, tmp_path)


def test_a_ticket_is_got_renewed_and_turned_into_a_services(client: Client) -> None:
    first = client.ticket()
    renewed = client.realm.renewed(client.context, first)
    service = client.realm.service_ticket(client.context, renewed, SERVICE)

    assert first.times.renew_until is not None
    assert renewed.cache != first.cache
    assert service.times.end == renewed.times.end
    assert client.realm.key_version(client.context, service) == 1


def test_an_unknown_service_is_named_with_the_kdc_and_the_way_to_look_it_up(client: Client) -> None:
    with pytest.raises(ServiceUnknown) as caught:
        client.realm.service_ticket(client.context, client.ticket(), "MSSQLSvc/typo.lab.test:1433")

    message = str(caught.value)
    assert "MSSQLSvc/typo.lab.test:1433" in message
    assert f"127.0.0.1:{client.kdc.port}" in message
    assert "setspn -Q MSSQLSvc/typo.lab.test:1433" in message


def test_a_clock_that_is_wrong_is_said_and_not_corrected_in_silence(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = krb5.timeofday(client.context)
    krb5.set_real_time(client.context, now + 3600, 0)

    with pytest.raises(ClockSkew, match="date -u"):
        client.ticket()


def test_a_rotated_key_is_refused_and_counted_once(kdc: Kdc, tmp_path: Path) -> None:
    kdc.add_principal("svc-once")
    client = Client(kdc, tmp_path)
    key = client.key("svc-once@LAB.TEST")
    kdc.rotate("svc-once")

    with pytest.raises(KeyRefused, match="not tried again"):
        client.realm.first_ticket(client.context, key)

    lines = kdc._kadmin("getprinc", "svc-once")
    assert "Failed password attempts: 1" in lines


def test_a_key_of_another_type_than_the_accounts_is_no_wrong_try(kdc: Kdc, tmp_path: Path) -> None:
    kdc._kadmin("add_principal", "-randkey", "-e", "aes128-cts-hmac-sha1-96:normal", "svc-aes128@LAB.TEST")
    other = Client(kdc, tmp_path, enctypes=("aes256-cts-hmac-sha1-96",))

    with pytest.raises(EnctypeRefused):
        other.key("svc-aes128@LAB.TEST")
    key = key_of_keytab("svc-aes128@LAB.TEST", Secret((tmp_path / "keytab").read_bytes()), None)
    with pytest.raises(KeyRefused, match="ktpass -crypto All"):
        other.realm.first_ticket(other.context, key)
    assert "Failed password attempts: 0" in kdc._kadmin("getprinc", "svc-aes128")


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (lambda kdc: kdc.lock("svc-state"), AccountDisabled),
        (lambda kdc: kdc.expire("svc-state", datetime.now(UTC) - timedelta(days=1)), AccountDisabled),
        (lambda kdc: kdc._kadmin("modify_principal", "-pwexpire", "2020-01-01", "svc-state@LAB.TEST"), PasswordExpired),
        (lambda kdc: kdc.remove_principal("svc-state"), PrincipalUnknown),
    ],
)
def test_the_state_of_an_account_is_named(
    tmp_path: Path, prepare: Callable[[Kdc], None], error: type[SidecarError]
) -> None:
    with Kdc() as kdc:
        kdc.add_principal("svc-state")
        client = Client(kdc, tmp_path)
        key = client.key("svc-state@LAB.TEST")
        prepare(kdc)

        with pytest.raises(error, match="svc-state"):
            client.realm.first_ticket(client.context, key)


def test_a_password_gives_the_same_key_as_the_realm_has(kdc: Kdc, tmp_path: Path) -> None:
    kdc.add_principal("HTTP/by-password", "s3same")
    client = Client(kdc, tmp_path)

    key = client.realm.derived_key(client.context, Password.of("HTTP/by-password@LAB.TEST", Secret(b"s3same")))

    assert client.realm.first_ticket(client.context, key).times.end > time.time()


def test_a_password_works_too_where_the_kdc_wants_no_pre_authentication(kdc: Kdc, tmp_path: Path) -> None:
    kdc.add_principal("svc-open", "s3same")
    kdc._kadmin("modify_principal", "-requires_preauth", "svc-open@LAB.TEST")
    client = Client(kdc, tmp_path)

    def ticket(password: bytes) -> Ticket:
        key = client.realm.derived_key(client.context, Password.of("svc-open@LAB.TEST", Secret(password)))
        return client.realm.first_ticket(client.context, key)

    assert ticket(b"s3same").times.end > time.time()
    with pytest.raises(KeyRefused):
        ticket(b"wrong")


def test_a_ticket_that_is_not_renewable_says_so(kdc: Kdc, tmp_path: Path) -> None:
    kdc.add_principal("svc-brief")
    kdc._kadmin("modify_principal", "-allow_renewable", "svc-brief@LAB.TEST")
    client = Client(kdc, tmp_path)

    ticket = client.realm.first_ticket(client.context, client.key("svc-brief@LAB.TEST"))

    assert ticket.times.renew_until is None
    with pytest.raises(TicketEnded):
        client.realm.renewed(client.context, ticket)


def test_a_kdc_that_is_gone_is_temporary(kdc: Kdc, tmp_path: Path) -> None:
    client = Client(kdc, tmp_path)
    key = client.key()
    kdc.stop()
    try:
        with pytest.raises(KdcUnreachable, match=f"127.0.0.1:{kdc.port}"):
            client.realm.first_ticket(client.context, key)
    finally:
        kdc.start()


def test_a_realm_without_a_kdc_says_how_to_name_one(kdc: Kdc, tmp_path: Path) -> None:
    key = Client(kdc, tmp_path).key()
    lost = Client(kdc, tmp_path, kdcs={"LAB.TEST": ()})
    calls = KdcCalls(SVC, 8)

    with pytest.raises((RealmUnknown, KdcUnreachable, KdcSilent)) as caught:
        calls.run("a ticket", lambda context: lost.realm.first_ticket(context, key))

    assert "kerberos.kdcs" in str(caught.value)


def test_a_code_that_nobody_has_a_name_for_is_passed_on_with_libkrb5s_words() -> None:
    error = verdict(-1765328324, "Generic error (see e-text)", Asked("ticket", SVC, None, ("dc1",)))

    assert isinstance(error, KerberosFailed)
    assert error.retryable
    assert "Generic error" in str(error)
    assert "code 60" in str(error)


def test_another_realms_service_is_reached_by_referral(tmp_path: Path) -> None:
    with Kdc(realm="LAB.TEST") as home, Kdc(realm="OTHER.TEST") as other:
        home.add_principal("svc-datakit")
        other.add_principal("MSSQLSvc/sql09.other.test:1433")
        for realm in (home, other):
            realm._kadmin("add_principal", "-pw", "trust", "krbtgt/OTHER.TEST@LAB.TEST")
        kdcs = {each.realm: (f"127.0.0.1:{each.port}",) for each in (home, other)}
        client = Client(home, tmp_path, kdcs=kdcs, domains={".other.test": "OTHER.TEST"})

        ticket = client.realm.service_ticket(client.context, client.ticket(), "MSSQLSvc/sql09.other.test:1433")

        client.realm.write(client.context, tmp_path / "cache", [ticket])
        cache = krb5.cc_resolve(client.context, f"FILE:{tmp_path / 'cache'}".encode())
        names = {str(krb5.unparse_name_flags(client.context, each.server, 0), "utf-8") for each in cache}
        assert "MSSQLSvc/sql09.other.test:1433@OTHER.TEST" in names
        assert not any(name.startswith("krbtgt/") for name in names)


def test_a_wrong_second_kdc_of_the_realm_is_not_asked_after_a_refusal(tmp_path: Path) -> None:
    """libkrb5's own function would ask the primary KDC, too: a second wrong try."""
    with Kdc() as kdc:
        kdc.add_principal("svc-datakit")
        conf = tmp_path / "krb5.conf"
        address = f"127.0.0.1:{kdc.port}"
        conf.write_text(
            f"[libdefaults]\n default_realm = LAB.TEST\n dns_lookup_kdc = false\n[realms]\n LAB.TEST = {{\n"
            f"  kdc = 127.0.0.1:1\n  kdc = {address}\n  primary_kdc = {address}\n }}\n"
        )
        client = Client(kdc, tmp_path, krb5_conf=conf)
        key = client.key()
        kdc.rotate("svc-datakit")

        with pytest.raises(KeyRefused):
            client.realm.first_ticket(client.context, key)

        assert "Failed password attempts: 1" in kdc._kadmin("getprinc", "svc-datakit")


# krb5.conf -----------------------------------------------------------------------------------------------------------


def test_the_generated_configuration_is_safe_and_on_no_disk(client: Client) -> None:
    text = krb5conf.generate(client.settings)

    for line in ("rdns = false", "dns_canonicalize_hostnames = false", "kdc_timesync = 0", "dns_lookup_kdc = false"):
        assert line in text
    assert os.environ["KRB5_CONFIG"].startswith("/proc/self/fd/")
    with pytest.raises(PermissionError):
        Path(os.environ["KRB5_CONFIG"]).write_bytes(b"x")


def test_dns_is_asked_for_realms_without_kdcs_only() -> None:
    settings = KerberosSettings(realm="A.TEST", kdcs={"A.TEST": ("dc1",)}, domains={".b.test": "B.TEST"})

    assert "dns_lookup_kdc = true" in krb5conf.generate(settings)


def test_an_existing_configuration_that_cannot_be_read_is_an_error() -> None:
    settings = KerberosSettings(realm="A.TEST", kdcs={}, domains={}, krb5_conf=Path("/nowhere/krb5.conf"))

    with pytest.raises(InvalidSettings, match=r"/nowhere/krb5\.conf"):
        krb5conf.install(settings)


# Deadlines -----------------------------------------------------------------------------------------------------------


def test_a_call_that_takes_too_long_is_given_up_and_its_late_result_handed_over() -> None:
    calls, go = KdcCalls("svc", 0.1), threading.Event()
    late: queue.SimpleQueue[Outcome[bool]] = queue.SimpleQueue()

    with pytest.raises(KdcSilent, match=r"no answer within 0\.1 s") as caught:
        calls.run("a ticket", lambda _: go.wait(10), late.put)
    assert caught.value.in_flight
    assert calls.run("another", lambda _: 42) == 42

    go.set()
    assert late.get(timeout=5)() is True


def test_a_late_error_is_handed_over_as_a_late_result_is() -> None:
    calls, go = KdcCalls("svc", 0.1), threading.Event()
    late: queue.SimpleQueue[Outcome[None]] = queue.SimpleQueue()

    def refuse(_: krb5.Context) -> None:
        go.wait(10)
        raise KeyRefused("the KDC refuses the key")

    with pytest.raises(KdcSilent):
        calls.run("a ticket", refuse, late.put)
    go.set()

    with pytest.raises(KeyRefused):
        late.get(timeout=5)()


def test_hung_calls_are_bounded_and_recover() -> None:
    calls, go = KdcCalls("svc", 0.05, most_hung=3), threading.Event()
    before = threading.active_count()
    for _ in range(10):
        with pytest.raises(KdcSilent):
            calls.run("a ticket", lambda _: go.wait(10))

    assert threading.active_count() - before <= 3
    with pytest.raises(KdcSilent, match="3 earlier calls still wait") as caught:
        calls.run("a ticket", lambda _: 42)
    assert not caught.value.in_flight
    go.set()
    deadline = time.monotonic() + 5
    while True:
        try:
            assert calls.run("a ticket", lambda _: 42) == 42
            break
        except KdcSilent:
            assert time.monotonic() < deadline


def test_an_error_of_a_call_is_raised_where_it_is_waited_for() -> None:
    def fail(_: krb5.Context) -> None:
        raise ServiceUnknown("no such service")

    with pytest.raises(ServiceUnknown):
        KdcCalls("svc", 5).run("x", fail)


def test_an_error_that_is_kept_keeps_no_frames_and_so_no_keys(client: Client) -> None:
    calls = KdcCalls("svc", 5)
    ticket = client.ticket()

    with pytest.raises(ServiceUnknown) as caught:
        calls.run("x", lambda context: client.realm.service_ticket(context, ticket, "HTTP/nowhere"))

    assert caught.value.__context__ is None
    names = {frame.name for frame in caught.traceback}
    assert "service_ticket" not in names


@pytest.mark.parametrize("what", ["issue", "renew", "service"])
def test_python_goes_on_while_libkrb5_waits_for_a_silent_kdc(client: Client, what: str) -> None:
    """The package krb5 holds Python's lock in one of these calls, and everything would stand still for 27 s."""
    key, ticket = client.key(), client.ticket()
    made: dict[str, Callable[[krb5.Context], Any]] = {
        "issue": lambda context: client.realm.first_ticket(context, key),
        "renew": lambda context: client.realm.renewed(context, ticket),
        "service": lambda context: client.realm.service_ticket(context, ticket, SERVICE),
    }
    with client.kdc.silent():
        began = time.monotonic()
        with pytest.raises(KdcSilent):
            KdcCalls("svc", 0.5).run(what, made[what])

        assert time.monotonic() - began < 5


def test_a_silent_port_is_a_silent_kdc(client: Client) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        kdcs = {"LAB.TEST": (f"127.0.0.1:{silent.getsockname()[1]}",)}
        key = client.key()
        other = Client(client.kdc, client.folder, kdcs=kdcs)

        with pytest.raises((KdcSilent, KdcUnreachable)):
            KdcCalls("svc", 0.5).run("a ticket", lambda context: other.realm.first_ticket(context, key))

"""Weeks in seconds: renewals under readers, and a KDC or a vault that goes away and comes back."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import gssapi
import pytest
from datakit.credentials.tickets import check_ticket
from datakit_lab.kdc import Kdc
from datakit_lab.network import free_port

SERVICE = "MSSQLSvc/sql01.lab.test:1433"


class Readers:
    """Threads that open the service with the published cache, as drivers do, over and over."""

    def __init__(self, cache: Path, count: int = 3) -> None:
        self.reads = 0
        self.failures: list[str] = []
        self._cache = cache
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        name = gssapi.Name(f"{SERVICE}@LAB.TEST".encode(), gssapi.NameType.kerberos_principal)
        while not self._stop.is_set():
            try:
                credentials = gssapi.Credentials(usage="initiate", store={b"ccache": f"FILE:{self._cache}".encode()})
                assert gssapi.SecurityContext(name=name, creds=credentials, usage="initiate").step()
            except Exception as error:  # noqa: BLE001 - whatever a driver would see
                self.failures.append(repr(error))
            self.reads += 1


def renewals(sidecar: Any) -> float:
    return float(sidecar.metrics()['datakit_sidecar_tickets_renewed_total{principal="svc-datakit@LAB.TEST"}'])


def kdc_failures(sidecar: Any, cause: str) -> float:
    return float(sidecar.metrics().get(f'datakit_sidecar_failures_total{{what="kdc",cause="{cause}"}}', 0))


@pytest.mark.slow
def test_readers_that_race_renewals_never_fail(make_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(ticket_life=timedelta(seconds=4), clock_skew=timedelta(seconds=1))
    sidecar = house.start()
    sidecar.wait_until_ready()
    monkeypatch.setenv("KRB5_CONFIG", str(house.cache.parent / "krb5.conf"))

    with Readers(house.cache) as readers:
        sidecar.wait_until(lambda: readers.reads >= 10_000 and renewals(sidecar) >= 8, 200)

    assert readers.failures == []
    assert readers.reads >= 10_000


@pytest.mark.slow
def test_a_kdc_that_is_away_for_several_lifetimes_is_used_again_when_it_is_back(hasty_house: Any) -> None:
    sidecar = hasty_house.start()
    sidecar.wait_until_ready()
    hasty_house.kdc.stop()

    assert check_ticket("svc-datakit@LAB.TEST", [SERVICE], name=str(hasty_house.cache)) is not None
    assert sidecar.is_ready()
    sidecar.wait_until(lambda: not sidecar.is_ready(), 30)
    (reason,) = sidecar.state()["reasons"]
    assert "no KDC answers" in reason
    time.sleep(25)
    assert sidecar.page("/healthz").status == 200
    hasty_house.kdc.start()
    sidecar.wait_until_ready(10)

    assert check_ticket("svc-datakit@LAB.TEST", [SERVICE], name=str(hasty_house.cache)) is not None
    assert hasty_house.failed_tries() == 0


@pytest.mark.slow
def test_a_kdc_that_hangs_delays_nothing_else_and_is_used_again(hasty_house: Any) -> None:
    hasty_house.configuration["kerberos"]["timeout"] = "1s"
    sidecar = hasty_house.start()
    sidecar.wait_until_ready()
    with hasty_house.kdc.silent():
        sidecar.wait_until(lambda: not sidecar.is_ready(), 30)
        began = time.monotonic()
        assert sidecar.page("/healthz").status == 200
        assert time.monotonic() - began < 1
        sidecar.wait_until(lambda: kdc_failures(sidecar, "KdcSilent") > 3, 60)
        sidecar.wait_until(lambda: kdc_failures(sidecar, "KdcUnreachable") > 1, 60)  # what libkrb5 says in the end
        threads = Path(f"/proc/{sidecar.pid}/task")
        assert len(list(threads.iterdir())) < 16, "hung workers are bounded"
    sidecar.wait_until_ready(60)


@pytest.mark.slow
def test_a_vault_that_is_away_changes_nothing_for_tickets(hasty_house: Any) -> None:
    sidecar = hasty_house.start()
    sidecar.wait_until_ready()
    hasty_house.vault.stop()
    before = renewals(sidecar)

    sidecar.wait_until(lambda: renewals(sidecar) >= before + 4, 60)

    assert sidecar.is_ready()
    assert sidecar.metrics()['datakit_sidecar_failures_total{what="vault",cause="Unreachable"}'] > 0
    hasty_house.vault.start()
    checked = sidecar.metrics()["datakit_sidecar_vault_checked_time_seconds"]
    sidecar.wait_until(lambda: sidecar.metrics()["datakit_sidecar_vault_checked_time_seconds"] > checked, 90)


def test_a_kdc_that_is_always_slower_than_the_deadline_still_gives_tickets(house: Any) -> None:
    house.slow_down(1.5, deadline="1s")

    sidecar = house.start()

    sidecar.wait_until_ready(60)
    assert kdc_failures(sidecar, "KdcSilent") > 0
    assert issued(sidecar) == 1
    sidecar.signal(signal.SIGUSR1)
    sidecar.wait_until(lambda: renewals(sidecar) >= 1)


def test_a_key_derived_from_a_password_arrives_late_as_well(house: Any) -> None:
    house.kdc.add_principal("svc-password", "a passw0rd")
    house.vault.add_secret("/Kerberos/by-password", {"password": "a passw0rd"})
    house.configuration["principals"] = [
        {"name": "svc-password", "password": {"secret": "/Kerberos/by-password"}, "share": "tgt"}
    ]
    house.slow_down(1.5, deadline="1s")

    sidecar = house.start()

    sidecar.wait_until_ready(60)
    assert [line["event"] for line in sidecar.audit()].count("ticket.issued") == 1


def test_a_vault_that_is_away_at_the_start_is_waited_for(house: Any) -> None:
    with house.vault.down():
        sidecar = house.start()
        sidecar.wait_until(lambda: "vault" in str(_reasons(sidecar)))
        (reason,) = sidecar.state()["reasons"]
        assert "the ticket for MSSQLSvc/sql01.lab.test:1433 is not published" in reason
    sidecar.wait_until_ready()


def test_a_vault_that_is_away_is_temporary_for_an_init_container(house: Any) -> None:
    with house.vault.down():
        done = house.once("--timeout", "1s")

    assert done.returncode == 75
    assert "Likely cause" in done.stderr
    assert "Next step" in done.stderr


def test_the_first_of_two_kdcs_may_be_silent(house: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        house.configuration["kerberos"]["kdcs"].insert(0, f"127.0.0.1:{silent.getsockname()[1]}")
        house.configuration["kerberos"]["timeout"] = "10s"

        sidecar = house.start()

        sidecar.wait_until_ready()


def test_the_first_of_two_kdcs_may_be_gone(house: Any) -> None:
    house.configuration["kerberos"]["kdcs"].insert(0, f"127.0.0.1:{free_port(udp=True)}")

    assert house.once().returncode == 0


def test_a_principal_whose_kdc_is_away_does_not_disturb_another(house: Any) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(Kdc(realm="OTHER.TEST"))
        other.add_principal("svc-other")
        keytab = other.keytab(house.folder / "other.keytab", "svc-other").read_bytes()
        house.vault.add_secret("/Kerberos/svc-other", {"keytab": keytab})
        house.configuration["kerberos"]["realms"] = {"OTHER.TEST": [f"127.0.0.1:{other.port}"]}
        house.configuration["principals"].append(
            {"name": "svc-other@OTHER.TEST", "keytab": {"secret": "/Kerberos/svc-other"}, "share": "tgt"}
        )
        other.stop()
        sidecar = house.start()
        sidecar.wait_until(house.cache.exists)
        sidecar.wait_until(lambda: len(_reasons(sidecar)) == 1)
        assert _reasons(sidecar)[0].startswith("svc-other@OTHER.TEST: the ticket-granting ticket is not published")

        other.start()

        sidecar.wait_until_ready()
        assert (house.volume / "tickets/svc-other").exists()


def _reasons(sidecar: Any) -> list[str]:
    from datakit_sidecar.errors import NotReady

    try:
        reasons: list[str] = sidecar.state()["reasons"]
    except NotReady:
        return []
    return reasons


def issued(sidecar: Any) -> float:
    return float(sidecar.metrics()['datakit_sidecar_tickets_issued_total{principal="svc-datakit@LAB.TEST"}'])


@pytest.mark.slow
def test_tickets_that_are_not_renewable_are_got_with_the_key(make_house: Callable[..., Any]) -> None:
    house = make_house(ticket_life=timedelta(seconds=4), clock_skew=timedelta(seconds=1))
    house.kdc._kadmin("modify_principal", "-allow_renewable", "svc-datakit@LAB.TEST")
    sidecar = house.start()
    sidecar.wait_until_ready()

    sidecar.wait_until(lambda: issued(sidecar) >= 4)

    assert renewals(sidecar) == 0
    assert sidecar.is_ready()


@pytest.mark.slow
def test_tickets_whose_renewal_is_cut_short_are_got_with_the_key_again(make_house: Callable[..., Any]) -> None:
    house = make_house(
        ticket_life=timedelta(seconds=4), renewable_life=timedelta(seconds=8), clock_skew=timedelta(seconds=1)
    )
    sidecar = house.start()
    sidecar.wait_until_ready()

    sidecar.wait_until(lambda: issued(sidecar) >= 3 and renewals(sidecar) >= 2, 60)

    assert sidecar.is_ready()
    lives = [line["ends"] - _seconds(line["at"]) for line in sidecar.audit() if line["event"].startswith("ticket.")]
    assert min(lives) > 2.5  # of 4, and Kerberos counts whole seconds


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


def test_tickets_are_got_anew_when_the_realms_own_key_has_changed(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    house.kdc._kadmin("change_password", "-randkey", "krbtgt/LAB.TEST@LAB.TEST")  # every ticket is void

    sidecar.signal(signal.SIGUSR1)

    sidecar.wait_until(lambda: issued(sidecar) == 2)
    sidecar.wait_until_ready()
    assert house.failed_tries() == 0


def test_a_disabled_account_is_served_again_when_it_is_enabled(house: Any) -> None:
    house.kdc.lock("svc-datakit")
    sidecar = house.start()
    sidecar.wait_until(lambda: "disabled, locked or expired" in str(_reasons(sidecar)))

    house.kdc.unlock("svc-datakit")
    sidecar.signal(signal.SIGHUP)

    sidecar.wait_until_ready()


def test_a_service_that_appears_later_is_added(house: Any) -> None:
    late = "MSSQLSvc/late.lab.test:1433"
    house.configuration["principals"][0]["services"].append(late)
    sidecar = house.start()
    sidecar.wait_until(lambda: late in str(_reasons(sidecar)) and house.cache.exists())

    house.kdc.add_principal(late)
    sidecar.signal(signal.SIGHUP)

    sidecar.wait_until_ready()
    assert check_ticket("svc-datakit@LAB.TEST", [late], name=str(house.cache)) is not None

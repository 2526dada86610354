"""From the vault to a ticket that opens a service."""

from __future__ import annotations

import stat
from typing import Any

import pytest


def test_once_publishes_a_ticket_for_the_service_and_nothing_more(house: Any) -> None:
    done = house.once()

    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(house.cache.stat().st_mode) == 0o600
    from datakit.credentials.tickets import describe_ticket

    cache = describe_ticket(str(house.cache))
    assert cache is not None
    assert cache.principal == "svc-datakit@LAB.TEST"
    assert {ticket.name for ticket in cache.tickets} == {"MSSQLSvc/sql01.lab.test:1433"}


@pytest.mark.parametrize("name", ["MSSQLSvc/sql01.lab.test:1433@LAB.TEST", "MSSQLSvc/sql01.lab.test:1433@"])
def test_a_reader_may_ask_for_the_service_with_the_realm_or_without(
    house: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gssapi

    assert house.once().returncode == 0
    house.kdc.stop()
    monkeypatch.setenv("KRB5_CONFIG", str(house.cache.parent / "krb5.conf"))
    credentials = gssapi.Credentials(usage="initiate", store={b"ccache": f"FILE:{house.cache}".encode()})

    context = gssapi.SecurityContext(
        name=gssapi.Name(name.encode(), gssapi.NameType.kerberos_principal), creds=credentials, usage="initiate"
    )

    assert context.step()


def test_run_answers_probes_before_it_has_a_ticket(house: Any) -> None:
    with house.vault.down():
        sidecar = house.start()
        sidecar.wait_until(lambda: not sidecar.is_ready() and "reasons" in _page(sidecar))
        assert sidecar.page("/healthz").status == 200
        assert sidecar.page("/readyz").status == 503
    sidecar.wait_until_ready()


def _page(sidecar: Any) -> str:
    from datakit_sidecar.errors import NotReady

    try:
        return str(sidecar.page("/readyz").text)
    except NotReady:
        return ""


def test_sigterm_removes_what_was_published(house: Any) -> None:
    house.vault.add_secret("/Databases/finance-db", {"password": "c0rrect"})
    house.configuration["secrets"] = [{"secret": "/Databases/finance-db", "as": "finance-db"}]
    sidecar = house.start()
    sidecar.wait_until_ready()
    assert (house.volume / "secrets/finance-db/password").read_text() == "c0rrect"

    assert sidecar.stop() == 0

    assert [path for path in house.volume.rglob("*") if path.is_file()] == []
    assert sidecar.audit()[-1]["event"] == "stop"

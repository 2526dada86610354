"""Source and warehouse each want another principal, and a variable that somebody overwrote must not matter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from datakit_lab.postgres import Postgres

from .house import FINANCE, House

LOADER = "svc-loader"


@pytest.fixture
def by_ticket(house: House) -> Iterator[House]:
    """Finance takes tickets, of a principal that reads no source; its cache lies beside the source's."""
    if not Postgres.speaks_kerberos():
        pytest.skip("this PostgreSQL knows no Kerberos")
    kdc, postgres, folder = house.tickets.kdc, house.finance.server, house.tickets.ccache.parent
    if not kdc.has_principal(LOADER):
        kdc.add_principal(LOADER)
    kdc.kinit(LOADER, kdc.keytab(folder.parent / "loader.keytab", LOADER), folder / LOADER)
    postgres.create_role(LOADER)
    postgres.grant(house.finance.name, LOADER)
    ticket = {"user": LOADER, "password": None, "gssapi": True, "principal": kdc.full_name(LOADER)}
    house.located(finance=ticket)
    yield house
    with postgres.connect(house.finance.name) as superuser:
        superuser.execute(f'DROP OWNED BY "{LOADER}" CASCADE'.encode())
    postgres.drop_role(LOADER)


def test_each_connection_takes_the_tickets_of_its_own_principal_whatever_krb5ccname_says(by_ticket: House) -> None:
    house = by_ticket
    house.fill(5000, start=1000)
    ended = house.load(
        FINANCE,
        "--parallel",
        "4",
        DATAKIT_TICKETS=str(house.tickets.ccache.parent),
        KRB5CCNAME="FILE:/tmp/what-airflow-left-there",
    )
    assert 0 == ended.code, ended.err
    assert 5100 == house.source().rows
    with house.finance.server.connect(house.finance.name) as superuser:
        rows = superuser.execute(
            "SELECT count(*), pg_get_userbyid(relowner) FROM bronze.orders, pg_class "
            "WHERE oid = 'bronze.orders'::regclass GROUP BY relowner"
        ).fetchall()
    assert [(5100, LOADER)] == rows


def test_without_the_folder_one_cache_cannot_serve_two_principals_and_the_message_says_so(by_ticket: House) -> None:
    ended = by_ticket.load(FINANCE)
    ended.is_refused("WrongPrincipal", 77, by_ticket.tickets.principal, f"not to {LOADER}", "DATAKIT_TICKETS")

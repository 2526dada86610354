"""A service account of the domain, and what its keys and tickets get it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import gssapi
import krb5
import pytest
from datakit_lab.active_directory import ActiveDirectory
from gssapi.raw import GSSError

PREAUTH_FAILED = -1765328360
UNKNOWN_CLIENT = -1765328378
REVOKED = -1765328366
PASSWORD_EXPIRED = -1765328361
POLICY = -1765328372
ACCOUNT_EXPIRED = -1765328383
TICKET_EXPIRED = -1765328352
AES256 = 18  # RFC 3962


@dataclass(frozen=True)
class Account:
    """An account with a keytab of its present keys, and a place for its tickets."""

    domain: ActiveDirectory
    name: str
    folder: Path

    @property
    def principal(self) -> str:
        """Its name with the realm."""
        return self.domain.full_name(self.name)

    @property
    def keytab(self) -> Path:
        """Where its keys are."""
        return self.folder / f"{self.name}.keytab"

    @property
    def ccache(self) -> Path:
        """Where its tickets are, as the sidecar would name them."""
        return self.folder / self.name

    def export(self) -> Path:
        """Write the present keys."""
        return self.domain.keytab(self.keytab, self.name)

    def wrong_keytab(self) -> Path:
        """Write keys that were never the account's, under its name."""
        path = self.folder / f"{self.name}.wrong.keytab"
        with self.domain.configured():
            context = krb5.init_context()
        table = krb5.kt_resolve(context, f"FILE:{path}".encode())
        principal = krb5.parse_name_flags(context, self.principal.encode())
        key = krb5.init_keyblock(context, AES256, bytes(range(32)))
        krb5.kt_add_entry(context, table, principal, 1, 0, key)
        return path

    def kinit(self, keytab: Path | None = None, *, life: timedelta | None = None) -> datetime:
        """Get a ticket-granting ticket."""
        return self.domain.kinit(self.name, keytab or self.keytab, self.ccache, life=life)

    def refusal(self, keytab: Path | None = None) -> int:
        """Return the code with which the domain refuses a ticket-granting ticket, which it must."""
        with pytest.raises(krb5.Krb5Error) as refused:
            self.kinit(keytab)
        assert isinstance(refused.value.err_code, int)
        return refused.value.err_code

    def token(self, service: str) -> bytes:
        """Return what a client sends to ``service``, with the tickets that there are and those that they get.

        :raises gssapi.exceptions.GSSError: none fits.
        """
        with self.domain.configured(self.ccache):
            credentials = gssapi.Credentials(usage="initiate", store={"ccache": f"FILE:{self.ccache}"})
            name = gssapi.Name(f"{service}@{self.domain.realm}", gssapi.NameType.kerberos_principal)
            token = gssapi.SecurityContext(name=name, creds=credentials, usage="initiate").step()
        assert isinstance(token, bytes)
        return token

    def use_refusal(self, service: str) -> tuple[int, int]:
        """Return the codes with which the domain refuses to renew the cached ticket, and to give one for a service."""
        with pytest.raises(krb5.Krb5Error) as renewal:
            self.renewed()
        with pytest.raises(GSSError) as use:
            self.token(service)
        return renewal.value.err_code, use.value.min_code - 2**32

    def renewed(self) -> datetime:
        """Renew the ticket-granting ticket in the cache; return when the new one expires."""
        with self.domain.configured(self.ccache):
            context = krb5.init_context()
        cache = krb5.cc_resolve(context, f"FILE:{self.ccache}".encode())
        principal = krb5.cc_get_principal(context, cache)
        ticket = krb5.get_renewed_creds(context, principal, cache)
        krb5.cc_initialize(context, cache, principal)
        krb5.cc_store_cred(context, cache, ticket)
        return datetime.fromtimestamp(ticket.times.endtime).astimezone()


def keys(keytab: Path) -> set[tuple[str, int, str]]:
    """Return (principal, key version, encryption type) of every key in a keytab."""
    context = krb5.init_context()
    table = krb5.kt_resolve(context, f"FILE:{keytab}".encode())
    return {
        (
            krb5.unparse_name_flags(context, entry.principal).decode(),
            entry.kvno,
            krb5.enctype_to_name(entry.key.enctype),
        )
        for entry in table
    }


def tickets(ccache: Path) -> set[str]:
    """Return the services that the tickets in a cache are for."""
    context = krb5.init_context()
    cache = krb5.cc_resolve(context, f"FILE:{ccache}".encode())
    names = {krb5.unparse_name_flags(context, ticket.server).decode() for ticket in cache}
    return {name for name in names if not name.endswith("@X-CACHECONF:")}  # notes that libkrb5 leaves for itself

"""Tickets: got with a key, renewed, one per service, and written to a credential cache.

Every function here takes a context of libkrb5 that belongs to the calling thread, may wait for a KDC as long as
libkrb5 likes, and is therefore called by :class:`datakit_sidecar.kdc_calls.KdcCalls` only. Tickets and their session
keys live in libkrb5's ``MEMORY:`` caches, which all contexts of the process share.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import krb5

from datakit_sidecar import _der, _libkrb5
from datakit_sidecar._verdicts import Asked, verdict
from datakit_sidecar.errors import PublishFailed
from datakit_sidecar.keytab import Key, Password
from datakit_sidecar.settings import KerberosSettings

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Times:
    """When a ticket is valid, in seconds since 1970.

    :ivar renew_until: None if it cannot be renewed.
    """

    start: float
    end: float
    renew_until: float | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket in libkrb5's memory.

    :ivar cache: the name of its own ``MEMORY:`` cache.
    :ivar service: the service principal name as it was asked for; None for a ticket-granting ticket.
    """

    cache: bytes
    times: Times
    service: str | None = None


def new_context() -> krb5.Context:
    """Return a context for the calling thread.

    :raises SidecarError: the configuration cannot be used.
    """
    try:
        return krb5.init_context()
    except krb5.Krb5Error as error:
        raise verdict(error.err_code, _words(error), Asked("ticket", "krb5.conf", None, ())) from None


class Realm:
    """The calls that can be made to the KDCs of the configured realms."""

    def __init__(self, settings: KerberosSettings) -> None:
        self._settings = settings
        self.enctypes = None if settings.krb5_conf else settings.enctypes

    def first_ticket(self, context: krb5.Context, key: Key) -> Ticket:
        """Get a ticket-granting ticket with the key, by one AS exchange.

        :raises SidecarError: the KDC refuses or does not answer; :class:`KeyRefused` if the key is wrong.
        """
        with self._explained("ticket", key.principal):
            client = krb5.parse_name_flags(context, key.principal.encode())
            options = krb5.get_init_creds_opt_alloc(context)
            krb5.get_init_creds_opt_set_tkt_life(options, int(self._settings.ticket_life))
            krb5.get_init_creds_opt_set_renew_life(options, int(self._settings.renewable_life))
            krb5.get_init_creds_opt_set_forwardable(options, False)
            krb5.get_init_creds_opt_set_proxiable(options, False)
            # not krb5_get_init_creds_keytab: after a refusal it asks the primary KDC too, which is a second wrong try
            exchange = krb5.init_creds_init(context, client, options)
            keytab = krb5.kt_resolve(context, key.name)  # libkrb5 keeps a pointer to it, so it must outlive the call
            krb5.init_creds_set_keytab(context, exchange, keytab)
            krb5.init_creds_get(context, exchange)
            return _keep(context, client, [krb5.init_creds_get_creds(context, exchange)])

    def renewed(self, context: krb5.Context, ticket: Ticket) -> Ticket:
        """Renew a ticket-granting ticket. The old one stays as it is.

        :raises SidecarError: the KDC refuses or does not answer; :class:`TicketEnded` if a new one is needed.
        """
        with _cache(context, ticket.cache) as cache:
            principal = _unparse(context, krb5.cc_get_principal(context, cache))
        name = _new_name()
        with self._explained("renewal", principal):
            _libkrb5.renew(ticket.cache, name)
        with _cache(context, name) as cache:
            return Ticket(name, _times(next(_tickets(context, cache))))

    def service_ticket(self, context: krb5.Context, granting: Ticket, service: str) -> Ticket:
        """Get a ticket for a service, following the realms' referrals.

        :raises SidecarError: the KDC refuses or does not answer; :class:`ServiceUnknown` if there is no such service.
        """
        with _cache(context, granting.cache) as source:
            client = krb5.cc_get_principal(context, source)
            own = _copy_of(context, client, source)
        try:
            with self._explained("service", _unparse(context, client), service):
                name = service if "@" in service else f"{service}@{self._realm_of(service)}"
                _libkrb5.add_service_ticket(own, name.encode())
            with _cache(context, own) as cache:
                found = next(each for each in _tickets(context, cache) if not _is_granting(context, each))
                times, realm = _times(found), _der.ticket_realm(found.ticket)
                asked_by_realm = not _unparse(context, found.server).endswith("@")
        except BaseException:
            _destroy(context, own)
            raise
        # Readers ask for the service with the realm's name or without, as their configuration says, and a cache that
        # they cannot write to must hold the name they ask for. The first ticket works, whatever becomes of this one.
        with contextlib.suppress(_libkrb5.CallFailed):
            other = f"{service.partition('@')[0]}@{'' if asked_by_realm else realm}"
            _libkrb5.add_service_ticket(own, other.encode())
        return Ticket(own, times, service)

    def derived_key(self, context: krb5.Context, password: Password) -> Key:
        """Derive a principal's key from its password, with the salt that the KDC names. The password is not sent.

        :raises SidecarError: the KDC does not know the principal, or does not answer.
        """
        principal = password.principal
        with self._explained("salt", principal):
            info = krb5.get_etype_info(context, krb5.parse_name_flags(context, principal.encode()))
            name, _, realm = principal.rpartition("@")
            # the default salt of RFC 4120, for a KDC that names none
            salt = info.salt if info.salt is not None else (realm + name.replace("/", "")).encode()
            enctype = info.etype or krb5.string_to_enctype(context, self._settings.enctypes[0])
            return password.derive(enctype, salt, info.s2kparams)

    def key_version(self, context: krb5.Context, ticket: Ticket) -> int | None:
        """Return the version of the service's key that a ticket is encrypted with, if the KDC says so."""
        cache = krb5.cc_resolve(context, ticket.cache)
        found = next(each for each in _tickets(context, cache) if not _is_granting(context, each))
        return _der.ticket_kvno(found.ticket)

    def discard(self, context: krb5.Context, ticket: Ticket) -> None:
        """Destroy a ticket in libkrb5's memory."""
        _destroy(context, ticket.cache)

    def write(self, context: krb5.Context, path: Path, tickets: Iterable[Ticket]) -> None:
        """Write tickets to a new credential cache file; it is created with mode 0600.

        Of a service's cache only its own ticket is taken, never the ticket-granting one.

        :raises PublishFailed: the file cannot be written.
        """
        try:
            _write(context, path, tickets)
        except krb5.Krb5Error as error:
            raise PublishFailed(
                f"the tickets cannot be written: {_words(error)}",
                subject=str(path.parent),
                cause="the volume is full, read-only, or belongs to another user",
                fix=f"look at it: df {path.parent}; ls -ldn {path.parent}",
            ) from None

    def kdcs_of(self, principal: str) -> tuple[str, ...]:
        """Return the configured KDCs of a principal's realm, for messages; none if DNS names them."""
        if self._settings.krb5_conf is not None:
            return (f"those in {self._settings.krb5_conf}",)
        return self._settings.kdcs.get(principal.rpartition("@")[2], ())

    def _realm_of(self, service: str) -> str:
        """Return the realm of a service's host, or nothing: libkrb5 then lets the KDC refer to the right one."""
        host = service.split("/", 1)[1].split("/", 1)[0].partition(":")[0].lower()
        candidates = [host, *(host[place:] for place in range(len(host)) if host[place] == ".")]
        return next((self._settings.domains[each] for each in candidates if each in self._settings.domains), "")

    @contextmanager
    def _explained(self, about: str, principal: str, service: str | None = None) -> Iterator[None]:
        try:
            yield
        except krb5.Krb5Error as error:
            code, words = error.err_code, _words(error)
        except _libkrb5.CallFailed as error:
            code, words = error.code, str(error)
        else:
            return
        raise verdict(code, words, Asked(about, principal, service, self.kdcs_of(principal)))


def _write(context: krb5.Context, path: Path, tickets: Iterable[Ticket]) -> None:
    target = None
    for ticket in tickets:
        with _cache(context, ticket.cache) as source:
            if target is None:
                target = krb5.cc_resolve(context, b"FILE:" + bytes(path))
                krb5.cc_initialize(context, target, krb5.cc_get_principal(context, source))
            for each in _tickets(context, source):
                if _is_granting(context, each) == (ticket.service is None):
                    krb5.cc_store_cred(context, target, each)


def _keep(context: krb5.Context, client: krb5.Principal, tickets: Iterable[krb5.Creds]) -> Ticket:
    name = _new_name()
    cache = krb5.cc_resolve(context, name)
    krb5.cc_initialize(context, cache, client)
    times = None
    for ticket in tickets:
        krb5.cc_store_cred(context, cache, ticket)
        times = times or _times(ticket)
    assert times is not None  # noqa: S101 - callers give at least one
    return Ticket(name, times)


def _new_name() -> bytes:
    return f"MEMORY:datakit-{next(_numbers)}".encode()


def _copy_of(context: krb5.Context, client: krb5.Principal, source: krb5.CCache) -> bytes:
    return _keep(context, client, _tickets(context, source)).cache


def _destroy(context: krb5.Context, name: bytes) -> None:
    krb5.cc_destroy(context, krb5.cc_resolve(context, name))


@contextmanager
def _cache(context: krb5.Context, name: bytes) -> Iterator[krb5.CCache]:
    yield krb5.cc_resolve(context, name)


def _tickets(context: krb5.Context, cache: krb5.CCache) -> Iterator[krb5.Creds]:
    """Yield the tickets of a cache, without its settings, which are entries too."""
    for each in cache:
        if not _unparse(context, each.server).endswith("@X-CACHECONF:"):
            yield each


def _is_granting(context: krb5.Context, ticket: krb5.Creds) -> bool:
    return _unparse(context, ticket.server).startswith("krbtgt/")


def _times(ticket: krb5.Creds) -> Times:
    times = ticket.times
    renewable = krb5.TicketFlags.renewable in ticket.ticket_flags and times.renew_till
    return Times(times.starttime or times.authtime, times.endtime, times.renew_till if renewable else None)


def _unparse(context: krb5.Context, principal: krb5.Principal) -> str:
    return str(krb5.unparse_name_flags(context, principal, 0), "utf-8", "replace")


def _words(error: krb5.Krb5Error) -> str:
    text = str(error)
    return text.rpartition(": ")[0] if text.rpartition(" ")[2].lstrip("-").isdigit() else text

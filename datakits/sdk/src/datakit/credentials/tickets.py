"""Kerberos tickets: what the credential cache holds, said before a driver fails on it in its own words.

Which cache: the file named after the principal in the folder ``DATAKIT_TICKETS``, else what ``KRB5CCNAME`` says, else
the file named after the principal in ``/run/datakit/tickets``, where the sidecar publishes, else libkrb5's default.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from datakit.credentials._ccache import Ticket, TicketCache, default_name, locate, read_cache
from datakit.credentials._waiting import DEFAULT_SECONDS, NotYetError, is_there, is_told_to_end, wait_for, wait_seconds
from datakit.errors import CredentialsNotReady, TicketError, TicketExpired, TicketMissing, WrongPrincipal

__all__ = ["Ticket", "TicketCache", "cache_name", "check_ticket", "describe_ticket", "usable_ticket"]

_NAME: Final = "KRB5CCNAME"
_DEFAULT_FOLDER: Final = Path("/run/datakit/tickets")
_CLOCK_SKEW: Final = timedelta(minutes=5)
"""libkrb5's default ``clockskew``: how far two clocks may differ."""

_LOOK_SECONDS: Final = 0.2
"""How soon a wait for other connections notices that it is told to end."""

_LEAST_LIFE: Final = timedelta(seconds=2)
"""A ticket that ends sooner may end between this look and the server's."""


def cache_name(principal: str | None) -> str:
    """Return the credential cache of a principal, as ``KRB5CCNAME`` has it.

    :param principal: ``user@REALM``; of None only ``KRB5CCNAME`` and libkrb5's default are known.
    """
    return _published_name(principal) or _variable.given or default_name()


def describe_ticket(name: str | None = None) -> TicketCache | None:
    """Read a credential cache.

    :param name: as in KRB5CCNAME, which is the default: ``FILE:path``, a path, ``DIR:path``.
    :returns: None if the cache is of a kind that only libkrb5 can look into.
    :raises TicketMissing: there is no cache.
    :raises TicketUnreadable: this process may not read it; names uid, owner and mode.
    :raises TicketCorrupt: it is empty, truncated or something else.
    """
    try:
        return _describe(name or cache_name(None))
    except NotYetError as not_yet:
        raise not_yet.error from None


def check_ticket(
    principal: str | None, services: Sequence[str] = (), *, name: str | None = None, now: datetime | None = None
) -> TicketCache | None:
    """Make sure, without asking anybody and without waiting, that a connection by Kerberos has a chance.

    :param principal: who should connect, ``user@REALM``; None accepts anybody.
    :param services: names of the service (without realm) of which one has to be reachable: by its own ticket, or by
        a ticket-granting ticket. None given checks only that some ticket is alive.
    :param name: the cache, as in KRB5CCNAME; that of the principal if None.
    :returns: None where the cache cannot be looked into, or a client keytab (KRB5_CLIENT_KTNAME) will fill it.
    :raises TicketError: one of its subclasses, which says what is wrong.
    """
    try:
        return _check(principal, services, name or cache_name(principal), now)
    except NotYetError as not_yet:
        raise not_yet.error from None


@contextmanager
def usable_ticket(
    principal: str | None, services: Sequence[str] = (), *, stop: threading.Event | None = None
) -> Iterator[None]:
    """Within, a connection by Kerberos has a chance, and ``KRB5CCNAME`` of this process names the cache of that chance.

    A ticket that is not there yet, or has expired, is waited for where somebody publishes tickets: everywhere but at
    libkrb5's default. Threads with the same cache do not wait for one another; those with different ones do, because
    the variable belongs to the whole process; they, too, only as long as for a ticket.

    :param principal: as for :func:`check_ticket`, like ``services``.
    :param stop: ends the wait from another thread.
    :raises CredentialsNotReady: no ticket came in time, or connections with another cache left no time for this one.
    :raises TicketError: one of its subclasses, which says what is wrong.
    """
    published = _published_name(principal)
    name = published or cache_name(principal)
    expected = published is not None or _variable.given is not None
    wait_for(lambda: _check(principal, services, name, None), expected=expected, stop=stop)
    with _variable.set_to(name if expected else None, stop):
        yield


def _published_name(principal: str | None) -> str | None:
    """Return the cache that the sidecar publishes for a principal, if that is where to look."""
    folder = os.environ.get("DATAKIT_TICKETS")
    if principal is None or not (folder or (_variable.given is None and is_there(_DEFAULT_FOLDER))):
        return None
    name = principal.rpartition("@")[0] or principal
    return f"FILE:{Path(folder or _DEFAULT_FOLDER, name.replace('/', '_'))}"


class _Variable:
    """``KRB5CCNAME``, which drivers read while they connect.

    It is changed only where it must be, and not changed back: the C library lets nobody read a variable safely while
    another thread writes one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._own: str | None = None
        self._given: str | None = None

    @property
    def given(self) -> str | None:
        """What somebody else set it to, last; None if it is empty."""
        with self._changed:
            return self._look()

    @contextmanager
    def set_to(self, name: str | None, stop: threading.Event | None) -> Iterator[None]:
        """Set it, once nobody needs another value, and keep it until the context ends; None is what was given.

        :raises CredentialsNotReady: others needed another value for too long, or ``stop`` was set.
        """
        with self._changed:
            if self._is_kept_from(name):
                self._wait_for_others(name, stop)
            given = self._look()
            wanted = name or given
            if self._now() != wanted:
                self._given, self._own = given, wanted
                os.environ[_NAME] = wanted or ""
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def _is_kept_from(self, name: str | None) -> bool:
        return bool(self._users) and self._now() != (name or self._look())

    def _wait_for_others(self, name: str | None, stop: threading.Event | None) -> None:
        # Who waits for no sidecar (0s) waits for other connections still: they end by themselves.
        bound = max(wait_seconds(), DEFAULT_SECONDS)
        end = time.monotonic() + bound
        while self._is_kept_from(name):
            left = end - time.monotonic()
            if left <= 0 or is_told_to_end(stop):
                raise _occupied(name or self._look(), self._now(), bound)
            self._changed.wait(min(left, _LOOK_SECONDS))

    def _look(self) -> str | None:
        now = self._now()
        return self._given if now is not None and now == self._own else now

    @staticmethod
    def _now() -> str | None:
        return os.environ.get(_NAME) or None


_variable = _Variable()


def _occupied(name: str | None, other: str | None, bound: float) -> CredentialsNotReady:
    return CredentialsNotReady(
        f"connections that read other tickets ({other}) left no time for this one, within {bound:g} s",
        subject=name or _NAME,
        cause="their server or KDC does not answer, and KRB5CCNAME holds for the whole process",
        fix="look at the connection that hangs; use one principal for both, or run them in processes of their own",
    )


def _describe(name: str) -> TicketCache | None:
    path = locate(name)
    return None if path is None else read_cache(path)


def _check(principal: str | None, services: Sequence[str], name: str, now: datetime | None) -> TicketCache | None:
    if os.environ.get("KRB5_CLIENT_KTNAME"):
        return None
    cache = _describe(name)
    if cache is None:
        return None
    now = now or datetime.now(UTC)
    if principal is not None and cache.principal != principal:
        raise WrongPrincipal(
            f"the tickets belong to {cache.principal}, not to {principal}",
            subject=cache.path,
            cause="KRB5CCNAME or DATAKIT_TICKETS leads to somebody else's, or the environment names the wrong principal"
            + (" (upper and lower case count)" if cache.principal.lower() == principal.lower() else ""),
            fix=f"compare: klist -c {cache.path}; then correct the variable, or principal in the environment",
        )
    _check_life(cache, now)
    if services:
        _check_service(cache, services, now)
    return cache


def _check_life(cache: TicketCache, now: datetime) -> None:
    if not cache.tickets:
        raise NotYetError(
            TicketMissing(
                f"the credential cache of {cache.principal} holds no ticket",
                subject=cache.path,
                cause="it was initialised, but no ticket was stored",
                fix=f"get one: kinit -c {cache.path} {cache.principal}, or look at the sidecar's log",
            )
        )
    last = max(cache.tickets, key=lambda ticket: ticket.ends)
    if last.ends - now < _LEAST_LIFE:
        raise NotYetError(
            TicketExpired(
                f"every ticket of {cache.principal} {_has_ended(last, now)}; the last one, {last.service}, at "
                f"{_utc(last.ends)}, and it is {_utc(now)}",
                subject=cache.path,
                cause="nobody renews them (the sidecar is down, or its KDC), or this machine's clock is ahead",
                fix="look at the sidecar's log, or run kinit; compare the clocks: date -u",
            )
        )
    first = min(cache.tickets, key=lambda ticket: ticket.starts)
    if first.starts - now > _CLOCK_SKEW:
        raise TicketError(
            f"no ticket of {cache.principal} is valid yet; the first one, {first.service}, begins at "
            f"{_utc(first.starts)}, and it is {_utc(now)}",
            subject=cache.path,
            cause="this machine's clock is behind, or the ticket is postdated",
            fix="set the clock; compare: date -u",
        )


def _check_service(cache: TicketCache, services: Sequence[str], now: datetime) -> None:
    usable = [ticket for ticket in cache.tickets if ticket.is_granting or ticket.name in set(services)]
    if any(ticket.ends - now >= _LEAST_LIFE for ticket in usable):
        return
    if usable:
        last = max(usable, key=lambda ticket: ticket.ends)
        raise NotYetError(
            TicketExpired(
                f"the ticket {last.service} of {cache.principal} {_has_ended(last, now)}, at {_utc(last.ends)}, and it "
                f"is {_utc(now)}; tickets for other services do not help",
                subject=cache.path,
                cause="nobody renews it",
                fix="look at the sidecar's log, or run kinit",
            )
        )
    held = ", ".join(sorted(ticket.service for ticket in cache.tickets))
    near = [t.name for t in cache.tickets if t.name.lower() in {service.lower() for service in services}]
    missing = TicketMissing(
        f"there is no ticket for {' or '.join(services)}, and no ticket-granting ticket to get one with; "
        f"{cache.principal} holds {held}",
        subject=cache.path,
        cause=f"{near[0]} differs in upper and lower case, which count"
        if near
        else "the sidecar shares tickets for other services, or the host or port here is not the one it was told",
        fix="add this service name to the sidecar's services, or set server_spn to one that is there",
    )
    # A sidecar publishes the tickets that it has, and the one that the KDC did not give at once a moment later.
    raise NotYetError(missing, is_final=True)


def _has_ended(ticket: Ticket, now: datetime) -> str:
    return "has expired" if ticket.ends <= now else f"ends within {_LEAST_LIFE.total_seconds():g} s"


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"

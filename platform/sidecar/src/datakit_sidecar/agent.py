"""One principal's tickets: does what :class:`datakit_sidecar.life.Life` says, in a thread of its own.

Principals do not wait for one another, nor for the vault: a KDC that hangs costs its own principal the deadline, and
nobody else anything.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import krb5

from datakit_sidecar.audit import AuditLog
from datakit_sidecar.errors import KeyRefused, SidecarError
from datakit_sidecar.failure import Failure, one_line
from datakit_sidecar.kdc_calls import KdcCalls
from datakit_sidecar.kerberos import Realm, Ticket, new_context
from datakit_sidecar.keytab import Key, Password
from datakit_sidecar.life import Life, Step
from datakit_sidecar.publish import Publisher
from datakit_sidecar.refusals import Refusals
from datakit_sidecar.settings import PrincipalSettings
from datakit_sidecar.status import Board

_log = logging.getLogger(__name__)
_LONGEST_WAIT: Final = 30.0
"""Seconds after which the clock is looked at, whatever was planned: a machine may have slept, or its clock moved."""


class Agent:
    """Keeps the tickets of one principal.

    :param wants_key: called when the KDC has refused the key: the vault may hold another one.
    :param now: the clock, in seconds since 1970.
    """

    def __init__(
        self,
        principal: PrincipalSettings,
        *,
        realm: Realm,
        calls: KdcCalls,
        life: Life,
        publisher: Publisher,
        refusals: Refusals,
        cache: Path,
        audit: AuditLog,
        board: Board,
        wants_key: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.principal = principal
        self.calls = calls
        self._realm = realm
        self._life = life
        self._publisher = publisher
        self._refusals = refusals
        self._cache = cache
        self._audit = audit
        self._board = board
        self._wants_key = wants_key
        self._now = now
        self._kdcs = realm.kdcs_of(principal.name)
        self._context = functools.cache(new_context)
        """libkrb5's context of this agent's thread."""
        self._changed = threading.Condition()
        self._stopped = False
        self._key: Key | Password | None = None
        self._used_key: Key | None = None
        self._granting: Ticket | None = None
        self._services: dict[str, Ticket] = {}
        self._is_published = False
        self._thread = threading.Thread(target=self._run, name=f"tickets {principal.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step it is in; does not wait for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self.calls.close()

    def deliver(self, key: Key | Password) -> bool:
        """Take a key from the vault; return whether it is another one than before."""
        with self._changed:
            is_new = self._life.key_arrived(key.fingerprint)
            if is_new:
                self._key = key
                self._changed.notify()
            return is_new

    def retry_now(self, *, renew: bool = False) -> None:
        """Wait no longer; with ``renew``, get new tickets now."""
        with self._changed:
            self._life.retry_now(renew=renew)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                now = self._now()
                if self._is_published and not self._cache.exists():
                    self._life.unpublished = True  # somebody removed it
                decision = self._life.next(now)
                key = self._key
                if decision.step is Step.WAIT:
                    with self._board.open() as board:
                        board.tickets[self.principal.name].next_at = decision.until
                    wait = _LONGEST_WAIT if decision.until is None else min(_LONGEST_WAIT, decision.until - now)
                    self._changed.wait(max(0.01, wait))
                    continue
            try:
                self._do(decision.step, key)
            except Exception as error:  # noqa: BLE001 - a bug must not end the tickets of weeks
                self._survive(decision.step, error)

    def _do(self, step: Step, key: Key | Password | None) -> None:
        match step:
            case Step.ISSUE if key is not None:
                self._issue(key)
            case Step.RENEW if self._granting is not None:
                granting = self._granting
                self._grant(step, "a renewal", lambda context: self._realm.renewed(context, granting), None)
            case Step.SERVICES if self._granting is not None:
                self._serve(self._granting)
            case Step.PUBLISH:
                self._publish()

    def _issue(self, key: Key | Password) -> None:
        if isinstance(key, Password):
            password = key
            try:
                key = self.calls.run(
                    "no answer to the question for the salt",
                    lambda context: self._realm.derived_key(context, password),
                    kdcs=self._kdcs,
                )
            except SidecarError as error:
                self._grant_failed(Step.ISSUE, error, None)
                return
            password.secret.wipe()
            with self._changed:
                if self._key is password:
                    self._key = key
        usable = key
        try:
            self._refusals.check(self._context(), usable)
        except KeyRefused as error:
            self._grant_failed(Step.ISSUE, error, usable)
            return
        what = "the request for a ticket"
        self._grant(Step.ISSUE, what, lambda context: self._realm.first_ticket(context, usable), usable)

    def _grant(self, step: Step, what: str, call: Callable[[krb5.Context], Ticket], key: Key | None) -> None:
        name = self.principal.name
        try:
            ticket = self.calls.run(f"no answer to {what}", call, self._realm.discard, kdcs=self._kdcs)
        except SidecarError as error:
            if isinstance(error, KeyRefused) and key is not None:
                self._refusals.remember(self._context(), key)
            self._grant_failed(step, error, key)
            return
        with self._changed:
            self._life.granted(ticket.times, self._now(), key=None if key is None else key.fingerprint)
        self._discard(self._granting)
        self._granting = ticket
        details = {
            "principal": name,
            "ends": int(ticket.times.end),
            "renewable_until": None if ticket.times.renew_until is None else int(ticket.times.renew_until),
        }
        with self._board.open() as board:
            board.tickets[name].error = None
            board.tickets[name].renewals += key is None
        if key is None:
            self._audit.write("ticket.renewed", **details)
            return
        self._refusals.forget(name)
        self._note_key(key)
        self._audit.write("ticket.issued", kvno=key.kvno, enctypes=key.enctypes, **details)

    def _note_key(self, key: Key) -> None:
        name, before, self._used_key = self.principal.name, self._used_key, key
        rotated = before is not None and before.fingerprint != key.fingerprint
        with self._board.open() as board:
            tickets = board.tickets[name]
            tickets.issues += 1
            tickets.kvno = key.kvno
            if rotated:
                tickets.rotated_at = self._now()
        if before is not None and rotated:
            self._audit.write("key.rotated", principal=name, old_kvno=before.kvno, kvno=key.kvno)
            _log.info("%s: the KDC takes the new key (version %s, before %s)", name, key.kvno, before.kvno)

    def _grant_failed(self, step: Step, error: SidecarError, key: Key | None) -> None:
        with self._changed:
            self._life.failed(step, error, self._now(), key=None if key is None else key.fingerprint)
        self._note(error, "kdc", step.value)
        if not error.retryable:
            kvno = None if key is None or step is not Step.ISSUE else key.kvno
            self._audit.write(
                "ticket.denied", principal=self.principal.name, step=step.value, reason=type(error).__name__, kvno=kvno
            )
        if isinstance(error, KeyRefused):
            self._wants_key()

    def _serve(self, granting: Ticket) -> None:
        name = self.principal.name
        got: dict[str, Ticket] = {}
        failures: dict[str, Failure] = {}
        for service in self._life.missing:
            if self._stopped:
                return
            try:
                got[service] = self.calls.run(
                    f"no answer to the request for {service}",
                    lambda context, service=service: self._realm.service_ticket(context, granting, service),  # type: ignore[misc]
                    self._realm.discard,
                    kdcs=self._kdcs,
                )
            except SidecarError as error:
                failures[service] = error
                self._note(error, "kdc", "services")
        for service, ticket in got.items():
            self._discard(self._services.get(service))
            self._services[service] = ticket
        with self._changed:
            self._life.served(got, failures, self._now())
        denied = {service: type(error).__name__ for service, error in failures.items() if not error.retryable}
        if denied:
            self._audit.write("services.denied", principal=name, services=denied)

    def _publish(self) -> None:
        name = self.principal.name
        tickets = [*self._services.values()]
        if self.principal.share == "tgt" and self._granting is not None:
            tickets.insert(0, self._granting)
        now = self._now()
        live = [ticket for ticket in tickets if ticket.times.end > now]
        try:
            done = bool(live) and self._publisher.publish(
                self._cache, lambda path: self._realm.write(self._context(), path, live)
            )
        except SidecarError as error:
            with self._changed:
                self._life.publish_failed(error, self._now())
            self._note(error, "publish", "publish")
            return
        self._is_published = done
        with self._changed:
            self._life.published()
        if not done:
            return
        ends = {ticket.service or "krbtgt": ticket.times.end for ticket in live}
        with self._board.open() as board:
            board.tickets[name].ends = ends
        self._audit.write(
            "tickets.published",
            principal=name,
            path=str(self._cache),
            tickets={service: int(end) for service, end in ends.items()},
        )

    def _discard(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            self._realm.discard(self._context(), ticket)

    def _survive(self, step: Step, error: Exception) -> None:
        _log.critical("%s: %s met a bug; please report it", self.principal.name, step.value, exc_info=error)
        bug = SidecarError(f"a bug: {type(error).__name__}", subject=self.principal.name, fix="see the sidecar's log")
        self._board.count_failure("bug", bug)
        with self._changed:
            now = self._now()
            if step is Step.PUBLISH:
                self._life.publish_failed(bug, now)
            elif step is Step.SERVICES:
                self._life.served((), dict.fromkeys(self._life.missing, bug), now)
            else:
                self._life.failed(Step.ISSUE, bug, now)

    def _note(self, error: SidecarError, what: str, step: str) -> None:
        self._board.count_failure(what, error)
        with self._board.open() as board:
            board.tickets[self.principal.name].error = error
        level = logging.WARNING if error.retryable else logging.ERROR
        _log.log(level, "%s: %s failed: %s", self.principal.name, step, one_line(error))

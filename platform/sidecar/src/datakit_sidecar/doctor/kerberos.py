"""KDCs, clocks, keys and services: what libkrb5 would run into, asked one at a time.

A key is used once at the most, and not at all if a KDC has refused it before.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import krb5
from datakit_vault import Secret

from datakit_sidecar import krb5conf, probe
from datakit_sidecar.doctor.finding import Finding, State
from datakit_sidecar.errors import KdcSilent, KeyRefused, SidecarError
from datakit_sidecar.kdc_calls import KdcCalls, Outcome
from datakit_sidecar.kerberos import Realm, Ticket
from datakit_sidecar.keytab import ENCTYPES, Key, Password, entries, key_of_keytab
from datakit_sidecar.publish import Publisher
from datakit_sidecar.refusals import Refusals
from datakit_sidecar.settings import KerberosSettings, PrincipalSettings, Settings

_SKEW_SECONDS: Final = 300
_SKEW_DOUBTFUL_SECONDS: Final = 60


def examine_kdcs(settings: KerberosSettings, principal: str) -> Iterator[Finding]:
    """Ask each configured KDC without a key: does it answer, does it know the principal, what time is it there?"""
    if settings.krb5_conf is not None:
        return
    if not any(settings.kdcs.values()):
        yield Finding(
            "KDCs", State.GOOD, f"none is configured; DNS names them (_kerberos._udp.{settings.realm.lower()})"
        )
        return
    answered = False
    for realm, kdcs in settings.kdcs.items():
        for kdc in kdcs:
            name = f"{principal.rpartition('@')[0]}@{realm}"
            finding, good = _examine_kdc(kdc, name, own=name == principal)
            answered = answered or (good and realm == settings.realm)
            yield from finding
    if not answered:
        yield Finding(
            "KDCs",
            State.BAD,
            f"none of {settings.realm} answers",
            "open port 88, UDP and TCP, from here to a domain controller",
        )


def _examine_kdc(kdc: str, principal: str, *, own: bool) -> tuple[list[Finding], bool]:
    subject = f"KDC {kdc}"
    try:
        answer = probe.probe(kdc, principal)
    except OSError as error:
        words = error.strerror or str(error)
        fix = f"check from here: nc -zvu {kdc.replace(':', ' ')}; remove it from kerberos.kdcs if it is gone"
        return [Finding(subject, State.DOUBTFUL, f"it does not answer: {words}", fix)], False
    except ValueError as error:
        return [Finding(subject, State.BAD, f"something else listens there: {error}", "correct kerberos.kdcs")], False
    found = [Finding(subject, State.GOOD, f"it answers by {answer.transport} in {answer.milliseconds:.0f} ms")]
    if own and answer.code == probe.CLIENT_UNKNOWN:
        found.append(
            Finding(subject, State.BAD, f"it does not know {principal}", "compare name and realm with the account")
        )
    elif own and answer.code == probe.CLIENT_REVOKED:
        found.append(
            Finding(subject, State.BAD, f"the account of {principal} is disabled, locked or expired", "unlock it")
        )
    elif answer.code == probe.WRONG_REALM:
        found.append(Finding(subject, State.BAD, f"it serves another realm than {principal}", "correct kerberos.kdcs"))
    if answer.clock is not None:
        found.append(_clock(kdc, answer.clock))
    return found, True


def _clock(kdc: str, ahead: float) -> Finding:
    words = f"{kdc} is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}"
    fix = "correct the clock of this machine (the host's, for a container): chronyc tracking"
    if abs(ahead) >= _SKEW_SECONDS:
        return Finding("clock", State.BAD, f"{words}; Kerberos forgives {_SKEW_SECONDS} s", fix)
    return Finding("clock", State.DOUBTFUL if abs(ahead) > _SKEW_DOUBTFUL_SECONDS else State.GOOD, words, fix)


def examine_principals(settings: Settings, values: dict[str, Secret[bytes]]) -> Iterator[Finding]:
    """Use each principal's key once, and ask for each of its services.

    :param values: the key material, by principal; it is wiped.
    """
    kerberos = settings.kerberos
    if kerberos is None:
        return
    try:
        krb5conf.install(kerberos)
    except SidecarError as error:
        yield Finding.of("krb5.conf", error)
        return
    folder = settings.publish.tickets
    existing = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110 - no error
    if values and not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            "keys",
            State.DOUBTFUL,
            f"none was tried: a refusal could not be remembered in {folder}, and would be repeated",
            "run the doctor as the sidecar's user",
        )
        return
    realm = Realm(kerberos)
    for principal in settings.principals:
        if principal.name in values:
            examination = _Examination(settings, kerberos, principal, realm)
            try:
                yield from examination.run(values[principal.name])
            finally:
                values[principal.name].wipe()


class _Examination:
    def __init__(
        self,
        settings: Settings,
        kerberos: KerberosSettings,
        principal: PrincipalSettings,
        realm: Realm,
    ) -> None:
        self._settings = settings
        self._principal = principal
        self._realm = realm
        self._refusals = Refusals(settings.publish.tickets)
        self._calls = KdcCalls(principal.name, kerberos.timeout)
        self._subject = f"key of {principal.name}"

    def run(self, value: Secret[bytes]) -> Iterator[Finding]:
        try:
            if self._principal.key.kind == "keytab":
                yield from self._describe(value)
            key = self._key(value)
            late: queue.SimpleQueue[Outcome[Ticket]] = queue.SimpleQueue()
            try:
                ticket = self._calls.run("no ticket", lambda context: self._first_ticket(context, key), late.put)
            except KdcSilent as error:
                if not error.in_flight:
                    raise
                yield Finding.of(self._subject, error)
                # to the end, which libkrb5 sets: were the key refused after this process, nobody would remember it
                ticket = late.get()()
        except SidecarError as error:
            yield Finding.of(self._subject, error)
            return
        yield Finding(self._subject, State.GOOD, f"the KDC takes it ({', '.join(key.enctypes)})")
        yield from self._life(ticket)
        yield from self._version(key, ticket)
        for service in self._principal.services:
            yield self._service(ticket, service)

    def _first_ticket(self, context: krb5.Context, key: Key) -> Ticket:
        def exchange(context: krb5.Context, key: Key) -> Ticket:
            try:
                return self._realm.first_ticket(context, key)
            except KeyRefused:
                Publisher(self._settings.publish).make_folder(self._settings.publish.tickets)  # to remember it there
                raise

        return self._refusals.guard(context, key, exchange)

    def _key(self, value: Secret[bytes]) -> Key:
        if self._principal.key.kind == "keytab":
            return key_of_keytab(self._principal.name, value, self._realm.enctypes)
        password = Password.of(self._principal.name, value)
        return self._calls.run("no salt", lambda context: self._realm.derived_key(context, password))

    def _describe(self, value: Secret[bytes]) -> Iterator[Finding]:
        with value.exposed() as view:
            found = entries(view)
            versions = sorted({(each.principal, each.kvno, each.enctype) for each in found})
            for each in found:
                each.key.release()
        texts = [f"{name} version {kvno} {ENCTYPES.get(kind, kind)}" for name, kvno, kind in versions]
        others = {name for name, _, _ in versions} - {self._principal.name}
        yield Finding(f"keytab of {self._principal.name}", State.GOOD, "; ".join(texts))
        if others and len(others) < len({name for name, _, _ in versions}):
            yield Finding(
                f"keytab of {self._principal.name}",
                State.DOUBTFUL,
                f"it holds keys of others, too: {', '.join(sorted(others))}",
                "export a keytab with this principal only: whoever holds it can be all of them",
            )

    def _life(self, ticket: Ticket) -> Iterator[Finding]:
        times, least = ticket.times, self._settings.health.minimum_life
        life = times.end - times.start
        words = f"it lives for {_whole(life)}"
        words += (
            ", and is not renewable: the key is used each time"
            if times.renew_until is None
            else f", and is renewable for {_whole(times.renew_until - times.start)}"
        )
        subject = f"ticket of {self._principal.name}"
        if life < 2 * least:
            fix = "lower health.minimum_life, or let the KDC give a longer life"
            yield Finding(subject, State.BAD, f"{words}; health.minimum_life is {least:.0f} s", fix)
        else:
            yield Finding(subject, State.GOOD, words)

    def _version(self, key: Key, ticket: Ticket) -> Iterator[Finding]:
        """Compare the key's version with that of a ticket for the account itself, if the KDC gives one."""
        if key.kvno is None:
            return
        try:
            kvno = self._calls.run("no ticket for itself", lambda context: self._own_version(context, ticket))
        except SidecarError:
            return  # only accounts with a service principal name have such tickets
        if kvno is not None and kvno != key.kvno:
            yield Finding(
                self._subject,
                State.DOUBTFUL,
                f"the vault's is version {key.kvno}, the KDC's is version {kvno}, and the KDC takes it nevertheless",
                "export the keytab again: services that look at the version refuse it",
            )

    def _own_version(self, context: krb5.Context, ticket: Ticket) -> int | None:
        own = self._realm.service_ticket(context, ticket, self._principal.name)
        try:
            return self._realm.key_version(context, own)
        finally:
            self._realm.discard(context, own)

    def _service(self, ticket: Ticket, service: str) -> Finding:
        try:
            got = self._calls.run(
                f"no ticket for {service}", lambda context: self._realm.service_ticket(context, ticket, service)
            )
        except SidecarError as error:
            return Finding.of(f"service {service}", error)
        return Finding(
            f"service {service}", State.GOOD, f"its ticket lives for {_whole(got.times.end - got.times.start)}"
        )


def _whole(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
